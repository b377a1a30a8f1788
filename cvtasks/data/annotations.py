"""Labels of one split in packed arrays, the checks that all formats share, the account of what was wrong.

A worker process shares its parent's memory until somebody writes to it, and a Python object is written to
whenever it is looked at, for its reference count. A million annotations as objects are thus copied into every
worker, epoch by epoch (mmdetection 7786, detectron2 3847). Here they are a dozen arrays, strings included.

Letters: I images, N objects of all images together, J joints.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torchvision import tv_tensors

from cvtasks.data.images import Size, check_image, image_size, read_image
from cvtasks.data.object_maps import drawn
from cvtasks.data.paths import Folder, quoted
from cvtasks.data.segmentations import Segmentations
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import ImageId, Sample, Split, Truth

OnError: TypeAlias = Literal["raise", "skip"]

TOLERANCE = 2.0
"""A box may reach this many pixels over the image's edge: it was rounded, and is clipped. More is wrong."""

LARGEST = 1e6
"""No pixel coordinate is larger; beyond, float32 and other people's integers lose their way."""


class Strings:
    """Many strings in one array of bytes."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [s.encode("utf-8", "surrogatepass") for s in strings]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return (
            self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogatepass")
        )


@dataclass
class Annotations:
    """What a reader holds of its split. The objects of image i are `ends[i]` to `ends[i + 1]`."""

    image_ids: np.ndarray | Strings
    files: Strings
    """Names below the images' folder."""
    sizes: np.ndarray
    """int64 [I, 2]: height and width; 0 where nobody says and there is no image."""
    ends: np.ndarray
    """int64 [I + 1]"""
    boxes: np.ndarray
    """float64 [N, 4]: XYXY, inside the image"""
    labels: np.ndarray
    """int64 [N]"""
    ignore: np.ndarray
    """bool [N]"""
    area: np.ndarray
    """float64 [N]"""
    keypoints: np.ndarray | None = None
    """float32 [N, J, 2]"""
    visible: np.ndarray | None = None
    """uint8 [N, J]"""
    segmentations: Segmentations | None = None

    def __len__(self) -> int:
        return len(self.files)

    def image_id(self, index: int) -> ImageId:
        found = self.image_ids[index]
        return found if isinstance(found, str) else int(found)

    def size(self, index: int) -> Size:
        height, width = self.sizes[index].tolist()
        return height, width

    def one_each(self, images: np.ndarray, objects: np.ndarray) -> Annotations:
        """The images `images` [M], each with the object `objects` [M] alone, and without outlines."""
        ids = [self.image_id(i) for i in images.tolist()]
        return replace(
            self,
            image_ids=pack_ids(ids),
            files=Strings(self.files[i] for i in images.tolist()),
            sizes=self.sizes[images],
            ends=np.arange(len(objects) + 1),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            ignore=self.ignore[objects],
            area=self.area[objects],
            keypoints=None if self.keypoints is None else self.keypoints[objects],
            visible=None if self.visible is None else self.visible[objects],
            segmentations=None,
        )

    def truth(self, index: int, folder: Path | None) -> Truth:
        """The labels of image `index` (a `Truth`), copied out of the arrays."""
        index = range(len(self))[index]
        here = slice(int(self.ends[index]), int(self.ends[index + 1]))
        name = self.files[index]
        truth: Truth = {
            "image_id": self.image_id(index),
            "file": name if folder is None else str(folder / name),
            "orig_size": self.size(index),
            "boxes": self.boxes[here].copy(),
            "labels": self.labels[here].copy(),
            "ignore": self.ignore[here].copy(),
            "area": self.area[here].copy(),
        }
        if self.keypoints is not None and self.visible is not None:
            truth |= {
                "keypoints": self.keypoints[here].copy(),
                "visible": self.visible[here].astype(np.int64),
            }
        if self.segmentations is not None:
            truth["rles"] = self.segmentations.rles(here, self.size(index))
        return truth

    def label_map(self, index: int) -> np.ndarray:
        """The class of each pixel of image `index`, uint8 [H, W]; see `drawn`."""
        assert self.segmentations is not None
        index = range(len(self))[index]
        here = slice(int(self.ends[index]), int(self.ends[index + 1]))
        masks = self.segmentations.masks(here, self.size(index))
        return drawn(masks, self.labels[here], self.ignore[here], self.area[here])

    def picture(self, index: int, folder: Path) -> Sample:
        """The decoded image `index` alone. Raises DataError as `read_image` does."""
        index = range(len(self))[index]
        size = self.size(index)
        return {
            "image": read_image(folder / self.files[index], size),
            "image_id": self.image_id(index),
            "orig_size": size,
        }

    def sample(self, index: int, folder: Path) -> Sample:
        """The decoded image `index` with its labels (a `Sample`). Raises DataError as `read_image` does."""
        index = range(len(self))[index]
        here = slice(int(self.ends[index]), int(self.ends[index + 1]))
        size = self.size(index)
        sample = self.picture(index, folder) | {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(self.boxes[here], dtype=torch.float32),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=size,
            ),
            "labels": torch.tensor(self.labels[here]),
            "ignore": torch.tensor(self.ignore[here]),
        }
        if self.keypoints is not None and self.visible is not None:
            sample["keypoints"] = torch.tensor(self.keypoints[here])
            sample["visible"] = torch.tensor(self.visible[here], dtype=torch.int64)
        if self.segmentations is not None:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(self.segmentations.masks(here, size)))
        return sample


class Findings:
    """What is wrong with a data set's files: the first error stops, or each is counted and skipped.

    The lines of `notes` are what the user should know after a set was read all the same.
    """

    SHOWN = 5
    """Records named for each sort of finding; the rest is a number."""

    def __init__(self, dataset: str, on_error: OnError) -> None:
        self.dataset = dataset
        self.on_error = on_error
        self.skipped = 0
        self._lines: list[str] = []
        self._repaired: dict[str, list[str]] = {}
        self._repairs: Counter[str] = Counter()
        self._other: list[str] = []

    def error(self, record: str, what: str) -> None:
        """A record that cannot be used. Raises DataError unless `on_error` is skip."""
        if self.on_error == "raise":
            raise self.fatal(f"{record}: {what}; fix the file or set dataset.on_error=skip")
        self.skipped += 1
        if self.skipped <= self.SHOWN:
            self._lines.append(f"skipped: {record}: {what}")

    def fatal(self, what: str) -> DataError:
        """An error that leaves nothing to go on with; to be raised."""
        return DataError(f"dataset {self.dataset}: {what}")

    def repaired(self, what: str, record: str) -> None:
        """Something small that was put right without asking, counted under `what`."""
        self._repairs[what] += 1
        if self._repairs[what] <= self.SHOWN:
            self._repaired.setdefault(what, []).append(record)

    def note(self, line: str) -> None:
        self._other.append(line)

    def notes(self) -> list[str]:
        lines = list(self._lines)
        if self.skipped > self.SHOWN:
            lines.append(f"skipped: {self.skipped - self.SHOWN} more, {self.skipped} in all")
        for what, records in self._repaired.items():
            more = ", ..." if self._repairs[what] > self.SHOWN else ""
            lines.append(f"{what} ({self._repairs[what]}): {', '.join(records)}{more}")
        return [f"dataset {self.dataset}: {line}" for line in lines + self._other]


def locate_image(folder: Folder, name: str, size: Size | None, findings: Findings) -> tuple[str, Size]:
    """The name below `folder` of an image and its size (`size`, or its header's where that is None).

    With on_error=skip the image is decoded as well, so that training does not stop at it later.
    Raises DataError.
    """
    path = folder.find(name)
    if path is None:
        raise DataError(f"there is no image {quoted(name)} in {folder.path}")
    if size is None:
        size = image_size(path)
    if findings.on_error == "skip":
        check_image(path, size)
    return path.relative_to(folder.path).as_posix(), size


def check_boxes(
    boxes: np.ndarray,
    written: np.ndarray,
    sizes: np.ndarray,
    findings: Findings,
    record: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to their images, float64 [N, 4], and which of them to keep, bool [N].

    A single point (x1 = x2 and y1 = y2) is a stray click of the labeller and is always left out, with a note;
    a box that is flat, upside down, not finite, or outside the image by more than `TOLERANCE`, is an error.

    boxes: XYXY in continuous coordinates, float64 [N, 4].
    written: the same as the file counts pixels, for messages and for whether a box has area.
    sizes: height and width of each box's image [N, 2]; 0 is unknown.
    record: names box n.
    """
    sane = (np.abs(boxes) <= LARGEST).all(axis=1)
    point = sane & (written[:, :2] == written[:, 2:]).all(axis=1)
    flat = sane & ~point & (written[:, :2] >= written[:, 2:]).any(axis=1)
    limit = np.where(sizes > 0, sizes, np.inf)[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limit)
    with np.errstate(invalid="ignore"):  # inf - inf, which `sane` has seen
        over = np.abs(clipped - boxes).max(axis=1, initial=0)
    outside = sane & ~point & ~flat & ((over > TOLERANCE) | (clipped[:, :2] >= clipped[:, 2:]).any(axis=1))
    for n in np.flatnonzero(~sane | flat | outside).tolist():
        findings.error(record(n), _box_problem(written[n].tolist(), sizes[n].tolist(), bool(outside[n])))
    for n in np.flatnonzero(point).tolist():
        findings.repaired("left out boxes that are a single point, a stray click", record(n))
    keep = sane & ~point & ~flat & ~outside
    for n in np.flatnonzero(keep & (over > 0.01)).tolist():
        findings.repaired(
            f"clipped boxes that reach up to {TOLERANCE:g} pixels over the image's edge", record(n)
        )
    return clipped, keep


def _box_problem(box: Sequence[float], size: Sequence[float], outside: bool) -> str:
    x1, y1, x2, y2 = (f"{v:g}" for v in box)
    if not all(abs(v) <= LARGEST for v in box):
        return f"box ({x1}, {y1}, {x2}, {y2}) has a number that is not finite, or too large"
    if outside:
        return (
            f"box ({x1}, {y1}, {x2}, {y2}) lies outside the image, which is {size[1]:g} x {size[0]:g} pixels"
        )
    axis, low, high = ("x", box[0], box[2]) if box[0] >= box[2] else ("y", box[1], box[3])
    if low == high:
        return f"box has no area ({axis}1 = {axis}2 = {low:g})"
    return f"box has no area ({axis}1 = {low:g} is larger than {axis}2 = {high:g})"


def group_by_image(image_of: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that brings the objects of an image together, int64 [N], and the `ends` of each image's."""
    order = np.argsort(image_of, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(image_of, minlength=num_images))])
    return order, ends


def pack_ids(ids: Sequence[ImageId]) -> np.ndarray | Strings:
    """All numbers, or all strings."""
    return np.array(ids, np.int64) if isinstance(ids[0], int) else Strings(map(str, ids))


def choose_classes(
    found: Sequence[str], asked: Sequence[str] | None, split: Split, findings: Findings
) -> list[str]:
    """The classes to use, in order: `asked`, or all that were `found`.

    A name that the training data does not have is a ConfigError. Validation data may lack some of the classes
    that were trained, but not all.
    """
    if asked is None:
        return list(found)
    twice = [name for name, count in Counter(asked).items() if count > 1]
    if not asked or twice:
        what = f"names {quoted(twice[0])} twice" if twice else "is empty"
        raise ConfigError(
            f"dataset.classes {what}; name each class once, or type dataset.classes=null for all"
        )
    unknown = [name for name in asked if name not in set(found)]
    if found and unknown and (split == "train" or len(unknown) == len(asked)):
        near = difflib.get_close_matches(unknown[0], found, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_listed(found)}"
        raise ConfigError(
            f"dataset.classes: the {split} data ({findings.dataset}) has no {quoted(unknown[0])}; {hint}"
        )
    if unknown:
        findings.note(f"the {split} data has no {_listed(unknown)}")
    return list(asked)


def note_left_out(counts: Counter[str], findings: Findings) -> None:
    """Notes how many objects belong to classes that `dataset.classes` leaves out."""
    if counts:
        names = _listed([f"{name} ({count})" for name, count in counts.most_common()])
        findings.note(f"{counts.total()} objects of classes that dataset.classes leaves out: {names}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
