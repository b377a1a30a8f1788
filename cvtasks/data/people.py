"""One person for each sample: what a task of pose learns from, where images may show several.

A joint counts as labelled if `visible` is not 0; the place of any other means nothing, and is set to 0. Letters: N people
before, J joints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cvtasks.data.annotations import (
    LARGEST,
    TOLERANCE,
    Annotations,
    Findings,
    Strings,
    check_boxes,
    choose_classes,
    locate_image,
    pack_ids,
)  # fmt: skip
from cvtasks.data.images import Size
from cvtasks.data.paths import Folder
from cvtasks.data.skeletons import Skeleton
from cvtasks.types import ClassInfo, ImageId, Sample, Split, Truth

THIN = 0.25
"""The least width of a box made from joints, as a part of its height, and the other way round."""


def of_one_person(fields: frozenset[str]) -> bool:
    """Whether these fields are of one person, and not of a list of objects."""
    return fields >= {"keypoints", "boxes"} and "labels" not in fields


@dataclass
class People:
    """Labels with exactly one person in each sample, whose image others may share."""

    annotations: Annotations
    source_ids: np.ndarray | Strings
    """The image's id in the file, where `annotations.image_ids` are the people's."""
    head_sizes: np.ndarray
    """float64 [N]: 0.6 of the head box's diagonal; NaN where not known"""
    rows: np.ndarray
    """int64 [N]: which of those that were given, or of all that are `listed`"""
    listed: Annotations | None = None
    """All objects of the images, where the file has a list of them"""

    def __len__(self) -> int:
        return len(self.annotations)

    def sample(self, index: int, folder: Path) -> Sample:
        """The decoded image with one person's joints and box. Raises DataError as `read_image` does."""
        sample = self.annotations.sample(index, folder)
        kept = ("image", "image_id", "orig_size", "boxes", "keypoints", "visible")
        return {name: sample[name] for name in kept}

    def truth(self, index: int, folder: Path | None) -> Truth:
        truth = self.annotations.truth(index, folder)
        kept = ("image_id", "file", "orig_size", "boxes", "area", "visible")
        source = self.source_ids[index]
        return {name: truth[name] for name in kept} | {
            "keypoints": truth["keypoints"].astype(np.float64),
            "source_id": source if isinstance(source, str) else int(source),
            "head_size": float(self.head_sizes[index]),
            "bystanders": self._bystanders(index),
        }

    def _bystanders(self, index: int) -> dict[str, np.ndarray]:
        """The people of the same image who are no samples: crowds, and those without a labelled joint. U of them."""
        if self.listed is None:
            return {"boxes": np.zeros((0, 4)), "area": np.zeros(0), "ignore": np.zeros(0, np.bool_)}
        assert self.listed.visible is not None
        row = int(self.rows[index])
        image = int(np.searchsorted(self.listed.ends, row, side="right")) - 1
        here = np.arange(self.listed.ends[image], self.listed.ends[image + 1])
        unjudged = self.listed.ignore[here] | ~self.listed.visible[here].any(axis=1)
        chosen = here[unjudged & (self.listed.labels[here] == self.listed.labels[row])]
        return {name: getattr(self.listed, name)[chosen] for name in ("boxes", "area", "ignore")}


class Pictures:
    """The images of a folder and their sizes; one that several people share is looked at once."""

    def __init__(self, images: Folder, findings: Findings) -> None:
        self._images, self._findings = images, findings
        self._found: dict[str, tuple[str, Size]] = {}

    def find(self, name: str) -> tuple[str, Size]:
        """The name below the folder, and the size. Raises DataError as `locate_image` does."""
        if name not in self._found:
            self._found[name] = locate_image(self._images, name, None, self._findings)
        return self._found[name]


def choose_people(
    annotations: Annotations, findings: Findings, source: str, record: Callable[[int], str]
) -> People:
    """The people in a list of objects who have joints and are no crowd. Raises DataError.

    source: names the file. record: names image i.
    """
    image_of = np.repeat(np.arange(len(annotations)), np.diff(annotations.ends))
    if annotations.ignore.any():
        findings.note(f"left out crowds, which are not one person ({annotations.ignore.sum()})")
    objects = np.flatnonzero(~annotations.ignore)
    assert annotations.keypoints is not None
    assert annotations.visible is not None
    people = read_people(
        source_ids=[annotations.image_id(i) for i in image_of[objects].tolist()],
        files=[annotations.files[i] for i in image_of[objects].tolist()],
        sizes=annotations.sizes[image_of[objects]],
        keypoints=annotations.keypoints[objects],
        visible=annotations.visible[objects],
        boxes=annotations.boxes[objects],
        area=annotations.area[objects],
        findings=findings,
        source=source,
        record=lambda n: record(int(image_of[objects[n]])),
    )
    return replace(people, rows=objects[people.rows], listed=annotations)


def person_class(
    skeleton: Skeleton, classes: Sequence[str] | None, split: Split, findings: Findings
) -> ClassInfo:
    """The one class of data that has nothing but people. Raises DataError where `classes` asks for others."""
    names = choose_classes(["person"], classes, split, findings)
    return ClassInfo(tuple(names), **skeleton.class_info)


def read_people(
    *,
    source_ids: Sequence[ImageId],
    files: Sequence[str],
    sizes: Sequence[Size] | np.ndarray,
    keypoints: np.ndarray,
    visible: np.ndarray,
    findings: Findings,
    source: str,
    record: Callable[[int], str],
    boxes: np.ndarray | None = None,
    area: np.ndarray | None = None,
    head_sizes: np.ndarray | None = None,
) -> People:
    """Check N people and keep those who can be learnt: with a labelled joint, and a box that has area.

    A joint outside the image by more than `TOLERANCE` becomes unlabelled, with a note; one that is not a number, or
    farther off than the image is long, is an error. People without a labelled joint are left out, with a note.

    source_ids, files, sizes: of each person's image. Where no two people share an image, its id is the person's.
    keypoints: [N, J, 2], continuous. visible: [N, J]. source: names the file. record: names person n.
    boxes: float64 [N, 4]; None: made from the labelled joints. area: float64 [N], in pixels; None: not known.

    Raises DataError.
    """
    size = np.asarray(sizes, np.int64).reshape(-1, 2)
    visible, keep = _check_joints(keypoints, visible, size, findings, record)
    keypoints = np.where((visible > 0)[..., None] & keep[:, None, None], keypoints, 0)
    labelled = visible.any(1)
    if (keep & ~labelled).any():
        findings.note(f"left out people without a labelled joint ({(keep & ~labelled).sum()})")
    keep &= labelled
    if boxes is None:
        boxes, found = _around(keypoints, visible > 0)
        boxes = clipped_to(boxes, size)
        for n in np.flatnonzero(keep & ~found).tolist():
            findings.repaired("left out people whose labelled joints are all in one place", record(n))
        keep &= found
    rows = np.flatnonzero(keep)
    clipped, sound = check_boxes(
        boxes[rows], boxes[rows], size[rows], findings, lambda n: record(int(rows[n]))
    )
    rows, clipped = rows[sound], clipped[sound]
    if not len(rows):
        raise findings.fatal(f"{source}: there is no person with a labelled joint; expected one or more")
    kept = rows.tolist()
    unknown = np.full(len(files), np.nan)
    return People(
        Annotations(
            image_ids=_person_ids(source_ids, kept),
            files=Strings(files[n] for n in kept),
            sizes=size[rows],
            ends=np.arange(len(rows) + 1),
            boxes=clipped,
            labels=np.zeros(len(rows), np.int64),
            ignore=np.zeros(len(rows), bool),
            area=(unknown if area is None else area)[rows],
            keypoints=keypoints[rows].astype(np.float32),
            visible=visible[rows].astype(np.uint8),
        ),
        pack_ids([source_ids[n] for n in kept]),
        (unknown if head_sizes is None else head_sizes)[rows],
        rows,
    )


def clipped_to(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] cut at the edges of images [N, 2] (height, width; 0 is not known)."""
    return np.clip(boxes, 0, np.where(sizes > 0, sizes, LARGEST)[:, [1, 0, 1, 0]])


def _check_joints(
    keypoints: np.ndarray,
    visible: np.ndarray,
    sizes: np.ndarray,
    findings: Findings,
    record: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray]:
    """What is visible now [N, J], and who can be kept, bool [N]."""
    limit = np.where(sizes > 0, sizes, LARGEST)[:, None, ::-1]
    labelled = visible > 0
    with np.errstate(invalid="ignore"):
        off = np.maximum(-keypoints, keypoints - limit).max(2)
        sane = np.isfinite(keypoints).all(2) & (np.abs(keypoints / limit - 0.5) <= 1.5).all(2)
    wrong = labelled & ~sane
    for n in np.flatnonzero(wrong.any(1)).tolist():
        j = int(wrong[n].argmax())
        x, y = keypoints[n, j].tolist()
        width, height = limit[n, 0].tolist()
        findings.error(
            record(n),
            f"joint {j + 1} is at ({x:g}, {y:g}), far outside the image, which is {width:g} x {height:g} pixels",
        )
    outside = labelled & sane & (off > TOLERANCE)
    for n in np.flatnonzero(outside.any(1) & ~wrong.any(1)).tolist():
        findings.repaired("left out joints that lie outside the image, of", record(n))
    return np.where(outside, 0, visible), ~wrong.any(1)


def _around(keypoints: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes around the labelled joints, float64 [N, 4], and which of them have any extent, bool [N]."""
    points = keypoints.astype(np.float64)
    low = np.where(labelled[..., None], points, np.inf).min(1)
    high = np.where(labelled[..., None], points, -np.inf).max(1)
    low, high = (np.where(np.isfinite(side), side, 0) for side in (low, high))
    centre, extent = (low + high) / 2, high - low
    half = np.maximum(extent, THIN * extent.max(1, keepdims=True)) / 2
    return np.concatenate((centre - half, centre + half), 1), extent.max(1) >= 1


def _person_ids(source_ids: Sequence[ImageId], kept: list[int]) -> np.ndarray | Strings:
    """The image's own ids, or, where people share an image, <image id>#<n> with n from 1."""
    if len(set(source_ids)) == len(source_ids):
        return pack_ids([source_ids[n] for n in kept])
    seen: Counter[ImageId] = Counter()
    ids = []
    for source in source_ids:
        seen[source] += 1
        ids.append(f"{source}#{seen[source]}")
    return Strings(ids[n] for n in kept)
