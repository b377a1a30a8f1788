"""MNIST (LeCun et al., 1998) and what has its files: Fashion-MNIST, KMNIST. Grey images in IDX files, by gzip or not.

    cvtasks train task=classification dataset=mnist dataset.root=/data/mnist backbone=lenet

    train-images-idx3-ubyte  train-labels-idx1-ubyte  t10k-images-idx3-ubyte  t10k-labels-idx1-ubyte    each, or its .gz

An IDX file is two zero bytes, 8 (for bytes), the number of dimensions, their lengths as big-endian 32-bit numbers, and
the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
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

PREFIXES: dict[Split, str] = {"train": "train", "val": "t10k"}
DIGITS = [str(digit) for digit in range(10)]
BYTES = 8
"""IDX's number for values of a byte"""
MAX_BYTES = 2**30
"""Of one file, unpacked; a few kilobytes of gzip could stand for as many gigabytes."""


class MnistReader(PixelArrays):
    """One split of MNIST's files (protocol `Reader`). An image's id is its place in its file, from 0 on.

    root: the folder of the four files, or a folder around it as torchvision makes it (MNIST/raw).
    names: of the labels from 0 on; null: the digits.
    on_error: raise stops at the first record that is wrong; skip leaves it out and says so in `notes`.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("mnist", on_error)
        folder, (images_file, labels_file) = _place(root, split)
        images = _read(folder, images_file, 3, findings)
        labels = _read(folder, labels_file, 1, findings)
        for name, values in ((images_file, images), (labels_file, labels)):
            if not len(values):
                raise findings.fatal(f"{name}: there are no records in it")
        count = min(len(images), len(labels))
        if len(images) != len(labels):
            findings.error(
                f"{labels_file}: record {count}",
                f"there are {len(labels)} labels for the {len(images)} images of {images_file}",
            )
        images, labels = images[:count], labels[:count].astype(np.int64)
        known = DIGITS if names is None else list(names)
        sound = labels < len(known)
        for number in np.flatnonzero(~sound).tolist():
            what = f"its label is {labels[number]}; expected 0 to {len(known) - 1} (or see dataset.names)"
            findings.error(f"{labels_file}: record {number}", what)
        numbers = np.flatnonzero(sound)
        chosen = choose_images(known, labels[numbers], classes, split, findings)
        kept = numbers[chosen.images]
        self.classes = chosen.classes
        super().__init__(
            pixels=images[kept][:, None],
            labels=chosen.labels,
            image_ids=kept.tolist(),
            source=f"{folder.path}/{images_file}",
        )
        self.notes = findings.notes()


def _place(root: str | None, split: Split) -> tuple[Folder, tuple[str, str]]:
    """The folder, and the names of the images' and the labels' files in it. Raises ConfigError."""
    wanted = [f"{PREFIXES[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    if root is not None:
        base = Path(root).expanduser()
        for folder in map(Folder, (base, base / "raw", base / "MNIST" / "raw")):
            there = folder.names()
            # Some archives have a dot in the place of the last hyphen but one.
            spelled = [(name, f"{name}.gz", name.replace("-idx", ".idx")) for name in wanted]
            images, labels = (next((n for n in names if n in there), None) for names in spelled)
            if images is not None and labels is not None:
                return folder, (images, labels)
    lacking = "" if root is None else f"there are no {wanted[0]} and {wanted[1]} (or .gz) in {base}; "
    raise ConfigError(
        f"dataset mnist: {lacking}type dataset.root=DIR for a folder with the four files of MNIST"
    )


def _read(folder: Folder, name: str, dimensions: int, findings: Findings) -> np.ndarray:
    """The values of an IDX file, uint8 of so many dimensions; the whole records of one that is cut off."""
    try:
        path = folder.find(name)
        assert path is not None, "it was listed"
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = read_at_most(MAX_BYTES, gzip.GzipFile(fileobj=file) if packed else file)
    except (DataError, OSError, EOFError, zlib.error) as error:
        raise findings.fatal(f"{name}: cannot be read ({error})") from None
    if len(content) > MAX_BYTES:
        raise findings.fatal(f"{name}: holds more than {MAX_BYTES} bytes, the limit")
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, BYTES, dimensions)):
        raise findings.fatal(
            f"{name}: begins with {content[:4].hex(' ') or 'nothing'}; expected an IDX file of {dimensions} dimensions, "
            f"00 00 08 {dimensions:02}"
        )
    count, *shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    size = math.prod(shape)
    if size == 0 or size > MAX_BYTES:
        raise findings.fatal(f"{name}: says that its images have {shape[0]} rows and {shape[1]} columns")
    whole, rest = divmod(len(content) - header, size)
    if (whole, rest) != (count, 0):
        what = (
            f"the file says that it has {count} records of {size} bytes, and has {len(content) - header} bytes for them: "
            "it is cut off or damaged"
        )
        whole = min(whole, count)
        findings.error(f"{name}: record {whole}", what)
    return np.frombuffer(content, np.uint8, whole * size, offset=header).reshape(whole, *shape)
