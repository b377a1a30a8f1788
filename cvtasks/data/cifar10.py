"""CIFAR-10 (Krizhevsky, 2009) in its binary version: 60,000 colour images of 32 x 32 pixels in ten classes.

    cvtasks train task=classification dataset=cifar10 dataset.root=/data/cifar-10-batches-bin

    data_batch_1.bin ... data_batch_5.bin    test_batch.bin    records of a label and 3 x 32 x 32 bytes

The Python version is refused: its files are pickles, which run what a stranger wrote into them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from cvtasks.data.annotations import Findings, OnError
from cvtasks.data.paths import Folder
from cvtasks.data.pixel_arrays import PixelArrays, read_at_most
from cvtasks.data.whole_images import choose_images
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
MAX_BYTES = 2**30
"""Of one file: 350,000 images, where CIFAR-10's have 10,000."""
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


class Cifar10Reader(PixelArrays):
    """One split of CIFAR-10 (protocol `Reader`). An image's id is its file and place there: `test_batch/0`.

    Training is on all data_batch_N.bin that there are, validation on test_batch.bin.

    root: the folder of these files, or the one around it.
    on_error: raise stops at the first record that is wrong; skip leaves it out and says so in `notes`.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("cifar10", on_error)
        parts, ids = [], []
        folder, names = _place(root, split)
        for name in names:
            records, kept = _read(folder, name, findings)
            parts.append(records)
            ids += [f"{name.removesuffix('.bin')}/{number}" for number in kept]
        records = np.concatenate(parts)
        if not len(records):
            raise findings.fatal(f"{folder.path}: no image is left")
        chosen = choose_images(CLASSES, records[:, 0].astype(np.int64), classes, split, findings)
        self.classes = chosen.classes
        super().__init__(
            pixels=records[chosen.images, 1:].reshape(-1, 3, SIDE, SIDE),
            labels=chosen.labels,
            image_ids=[ids[i] for i in chosen.images.tolist()],
            source=str(folder.path),
        )
        self.notes = findings.notes()


def _place(root: str | None, split: Split) -> tuple[Folder, list[str]]:
    """The folder, and the names of the split's files. Raises ConfigError."""
    pattern = re.compile(r"data_batch_\d+\.bin" if split == "train" else r"test_batch\.bin")
    wanted = "data_batch_1.bin" if split == "train" else "test_batch.bin"
    base = Path(root or "").expanduser()
    if root is not None:
        for folder in map(Folder, (base, base / "cifar-10-batches-bin")):
            names = sorted(name for name in folder.names() if pattern.fullmatch(name))
            if names:
                return folder, names
        if any(
            (base / below / wanted.removesuffix(".bin")).is_file() for below in (".", "cifar-10-batches-py")
        ):
            raise ConfigError(
                f"dataset cifar10: {base} holds the Python version, whose pickles can run code, and is not read; take the "
                f"binary version of the same images: {SOURCE}"
            )
    lacking = "" if root is None else f"there is no {wanted} in {base}; "
    raise ConfigError(
        f"dataset cifar10: {lacking}type dataset.root=DIR for the unpacked binary version, {SOURCE}"
    )


def _read(folder: Folder, name: str, findings: Findings) -> tuple[np.ndarray, list[int]]:
    """A file's sound records, uint8 [N, 3073], and their numbers in it from 0 on."""
    try:
        path = folder.find(name)
        assert path is not None, "it was listed"
        with path.open("rb") as file:
            content = read_at_most(MAX_BYTES, file)
    except (DataError, OSError) as error:
        raise findings.fatal(f"{name}: cannot be read ({error})") from None
    if len(content) > MAX_BYTES:
        raise findings.fatal(f"{name}: is larger than {MAX_BYTES} bytes, the limit")
    whole, rest = divmod(len(content), RECORD)
    if rest or not whole:
        what = (
            f"has {rest} of {RECORD} bytes: the file is cut off or damaged"
            if rest
            else "is not there: the file is empty"
        )
        findings.error(f"{name}: record {whole}", what)
    records = np.frombuffer(content, np.uint8, whole * RECORD).reshape(whole, RECORD)
    wrong = records[:, 0] >= len(CLASSES)
    for number in np.flatnonzero(wrong).tolist():
        label = int(records[number, 0])
        findings.error(f"{name}: record {number}", f"its label is {label}; expected 0 to {len(CLASSES) - 1}")
    return records[~wrong], np.flatnonzero(~wrong).tolist()
