"""Leeds Sports Pose (Johnson and Everingham, BMVC 2010) and its extended training set (CVPR 2011): 14 joints of one person.

    cvtasks train task=deeppose dataset=lsp dataset.root=/data/lsp_dataset
    cvtasks train task=deeppose dataset=lsp dataset.train.annotations=/data/lspet_dataset/joints.mat \\
                  dataset.val.annotations=/data/lsp_dataset/joints.mat

Both have one `joints.mat` and a folder `images`, and differ in the order of the array: (3, 14, images) in LSP and
(14, 3, images) in LSP-extended, and in what its third row says: in LSP 1 is a joint that is hidden (and labelled all the
same), in LSP-extended 1 is a joint that is labelled, and the place of any other means nothing. Left and right are the
person's own; for the observer-centric labels of LSP see `skeletons`. Pixels are counted from 1, as MATLAB does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, TypedDict

import numpy as np

from cvtasks.config.schema import Range
from cvtasks.data.annotations import Findings, OnError, locate_image
from cvtasks.data.images import Size
from cvtasks.data.labelled import LabelledImages
from cvtasks.data.matlab import read_mat
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.people import person_class, read_people
from cvtasks.data.skeletons import LSP
from cvtasks.data.splits import part, read_list, source_of
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Split

ThirdRow: TypeAlias = Literal["hidden", "labelled"]
PAPER = 2000
"""Images of LSP; the first half is for training, the second for testing."""
_NAME = re.compile(r"(?:.*/)?im0*(\d+)(?:\.\w+)?", re.IGNORECASE)


class LspSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    annotations: str | None
    """joints.mat"""
    list: str | None
    """A text file with one image on each line: im00012.jpg, or im00012"""


class LspReader(LabelledImages):
    """One split of Leeds Sports Pose, or of the extended set (protocol `Reader`): one person in each image.

    The person's box is made from the labelled joints. An image's id is its file's name without the ending.

    root: with joints.mat and images/ in it nothing else is needed. The lists train.txt and val.txt (or test.txt) beside
        them say what is in a split; without them, of 2000 images the first half is for training and the second for
        validation, as in the paper.
    train, val: any other layout. images: null is the folder `images` beside the annotations. Without a list, a file that
        is named for one split and has not 2000 images belongs to it as a whole.
    third_row: what 1 in the array's third row says of a joint; null: what its order says.
    val_fraction: this part of the training data is taken out of it for validation, in place of `val`.
    on_error: raise stops at the first record that is wrong; skip leaves out the person and says so in `notes`.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"keypoints", "visible", "boxes"})

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = provides,
        root: str | None = None,
        train: LspSplit | None = None,
        val: LspSplit | None = None,
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = None,
        split_seed: int = 0,
        third_row: ThirdRow | None = None,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("lsp", on_error)
        source = source_of(split, val_fraction, val_given=any((val or {}).values()))
        own = (train if source == "train" else val) or {}
        file, images, list_file = _place(root, source, own)
        joints, visible = _read_joints(file, third_row, findings)
        images_of = {
            int(match[1]): name for name in sorted(images.names()) if (match := _NAME.fullmatch(name))
        }
        numbers = _listed(list_file, len(joints), file.name, findings) if list_file else None
        if numbers is None:
            numbers = _by_default(len(joints), source, file, own, whole=val_fraction is not None)
        if val_fraction is not None:
            chosen = part([str(number) for number in numbers], split, val_fraction, split_seed)
            numbers = [int(number) for number in chosen]
        kept: list[int] = []
        files: list[str] = []
        sizes: list[Size] = []
        for number in numbers:
            try:
                if not np.isin(visible[number - 1], (0, 1, 2)).all():
                    raise DataError("the third row has values that are neither 0 nor 1")
                if number not in images_of:
                    raise DataError(f"there is no such image in {images.path}")
                name, size = locate_image(images, images_of[number], None, findings)
            except DataError as error:
                findings.error(f"{file.name}: image {number}", str(error))
                continue
            kept.append(number)
            files.append(name)
            sizes.append(size)
        rows = np.array(kept, np.int64) - 1
        self._folder = images.path
        self._labels = read_people(
            source_ids=[Path(name).stem for name in files],
            files=files,
            sizes=sizes,
            keypoints=joints[rows],
            visible=visible[rows],
            findings=findings,
            source=file.name,
            record=lambda n: f"{file.name}: image {kept[n]} ({files[n]})",
        )
        self.classes = person_class(LSP, classes, split, findings)
        self.notes = findings.notes()


def _place(root: str | None, split: Split, own: LspSplit) -> tuple[Path, Folder, Path | None]:
    """joints.mat, the folder of images, and the list if there is one."""
    base = root_folder(root)
    annotations = own.get("annotations")
    if annotations is None and root is None:
        raise ConfigError(
            f"dataset lsp: there is no {split} data; type dataset.root=DIR for a folder with joints.mat and images, "
            f"or dataset.{split}.annotations=FILE"
        )
    file = base / Path(annotations or "joints.mat").expanduser()
    if not file.is_file():
        raise ConfigError(f"dataset lsp: there is no file {file}; type dataset.{split}.annotations=FILE")
    named = own.get("images")
    images = base / Path(named).expanduser() if named else file.parent / "images"
    if not images.is_dir():
        raise ConfigError(f"dataset lsp: there is no folder {images}; type dataset.{split}.images=DIR")
    listed = own.get("list")
    if listed:
        path = base / Path(listed).expanduser()
        if not path.is_file():
            raise ConfigError(f"dataset lsp: there is no list {path}; type dataset.{split}.list=FILE")
        return file, Folder(images), path
    usual = ("train.txt",) if split == "train" else ("val.txt", "test.txt")
    beside = [file.parent / name for name in usual if annotations is None]
    return file, Folder(images), next((path for path in beside if path.is_file()), None)


def _read_joints(path: Path, third_row: ThirdRow | None, findings: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Places, float64 [N, 14, 2], continuous, and visible, int64 [N, 14]; 3 where the file has no 0 or 1."""
    array = read_mat(path, ["joints"], findings)["joints"]
    shape = tuple(getattr(array, "shape", ()))
    if (
        len(shape) != 3
        or not shape[2]
        or shape[:2] not in ((3, 14), (14, 3))
        or array.dtype.kind not in "fiu"
    ):
        raise findings.fatal(
            f"{path.name}: joints has the shape {shape}; expected numbers (3, 14, images) as LSP has them, or "
            "(14, 3, images) as LSP-extended"
        )
    if third_row is None:
        third_row = "hidden" if shape[0] == 3 else "labelled"
    table = array.astype(np.float64).transpose((2, 1, 0) if shape[0] == 3 else (2, 0, 1))
    flag = table[:, :, 2]
    visible = np.where(flag == 1, 1, 2) if third_row == "hidden" else np.where(flag == 1, 2, 0)
    return table[:, :, :2] - 0.5, np.where(np.isin(flag, (0, 1)), visible, 3)


def _listed(path: Path, count: int, joints: str, findings: Findings) -> list[int]:
    """The numbers, from 1, of the images in a list."""
    numbers: dict[int, int] = {}
    for line_number, line in read_list(path, findings).items():
        match = _NAME.fullmatch(line)
        number = int(match[1][:9]) if match else 0
        record = f"{path.name}: line {line_number}"
        if not 1 <= number <= count:
            findings.error(record, f"{quoted(line)} is not one of im1 to im{count}, the images of {joints}")
        elif number in numbers:
            findings.error(record, f"{quoted(line)} is there twice")
        else:
            numbers[number] = line_number
    if not numbers:
        raise findings.fatal(f"{path.name}: names no images")
    return list(numbers)


def _by_default(count: int, split: Split, file: Path, own: LspSplit, *, whole: bool) -> list[int]:
    """The numbers, from 1, of the images in a split of which there is no list."""
    if whole:
        return list(range(1, count + 1))
    if count == PAPER:
        first = 1 if split == "train" else 1 + PAPER // 2
        return list(range(first, first + PAPER // 2))
    if own.get("annotations"):
        return list(range(1, count + 1))
    raise ConfigError(
        f"dataset lsp: {file} has {count} images, of which nobody says what to validate on; type "
        "dataset.val.annotations=FILE (LSP's joints.mat), dataset.val_fraction=0.2, or lists: "
        "dataset.train.list=FILE dataset.val.list=FILE"
    )
