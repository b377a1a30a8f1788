"""MPII Human Pose (Andriluka et al., CVPR 2014): 16 joints of each person, and the size of the head.

    cvtasks train task=pose_heatmap dataset=mpii dataset.root=/data/mpii
    cvtasks train task=pose_heatmap dataset=mpii dataset.root=/data/mpii dataset.val_fraction=0.1 \\
                  dataset.train.annotations=mpii_human_pose_v1_u12_1.mat

Read are the JSON files of Simple Baselines and HRNet (annot/train.json and valid.json, with gt_valid.mat for the heads),
or the data set's own .mat, whose test images have no labels. A person's box is the square of `scale` x 200 pixels about
`center`, 15 x `scale` pixels lower, as HRNet has it before its margin. `visible` of the JSON's joints is 2 where they are
labelled: it does not say which are hidden. Pixels are counted from 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypedDict

import numpy as np

from cvtasks.config.schema import Range
from cvtasks.data.annotations import LARGEST, Findings, OnError
from cvtasks.data.labelled import LabelledImages
from cvtasks.data.matlab import array_of, read_mat, structures
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.people import Pictures, clipped_to, person_class, read_people
from cvtasks.data.skeletons import MPII
from cvtasks.data.splits import part, source_of
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Split

JOINTS = len(MPII.names)
HEAD = 0.6
"""Of the head box's diagonal, for PCKh"""
UNIT = 200.0
"""Pixels that a person of scale 1 is tall"""
LOWER = 15.0
MAT = "mpii_human_pose_v1_u12_1.mat"


class MpiiSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    annotations: str | None
    """The JSON file, or the .mat"""


class MpiiReader(LabelledImages):
    """One split of MPII (protocol `Reader`): one person a sample, whose id is <image>#<n>, n from 1.

    root: with annot/train.json, annot/valid.json and images/ in it nothing else is needed.
    train, val: any other layout. images: null is the folder `images` of root.
    val_fraction: this part of the images is taken out of the training data for validation, in place of `val`.
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
        train: MpiiSplit | None = None,
        val: MpiiSplit | None = None,
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = None,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("mpii", on_error)
        source = source_of(split, val_fraction, val_given=any((val or {}).values()))
        own = (train if source == "train" else val) or {}
        file, images = _place(root, source, own, whole=val_fraction is not None)
        found = _from_mat(file, findings) if file.suffix.lower() == ".mat" else _from_json(file, findings)
        located = Pictures(images, findings)
        kept = []
        for person in found:
            try:
                name, size = located.find(person.image)
                kept.append((person._replace(image=name), size))
            except DataError as error:
                findings.error(person.record, str(error))
        if val_fraction is not None:
            names = sorted({person.image for person, _ in kept})
            chosen = set(part(names, split, val_fraction, split_seed))
            kept = [(person, size) for person, size in kept if person.image in chosen]
        people = [person for person, _ in kept]
        sizes = np.array([size for _, size in kept], np.int64).reshape(-1, 2)
        boxes = np.array([person.box for person in people]).reshape(-1, 4)
        self._folder = images.path
        self._labels = read_people(
            source_ids=[Path(person.image).stem for person in people],
            files=[person.image for person in people],
            sizes=sizes,
            keypoints=np.array([person.joints for person in people]).reshape(-1, JOINTS, 2),
            visible=np.array([person.visible for person in people]).reshape(-1, JOINTS),
            boxes=clipped_to(boxes, sizes),
            head_sizes=np.array([person.head_size for person in people]),
            findings=findings,
            source=file.name,
            record=lambda n: people[n].record,
        )
        self.classes = person_class(MPII, classes, split, findings)
        self.notes = findings.notes()


class _Person(NamedTuple):
    record: str
    image: str
    joints: np.ndarray
    """float64 [16, 2], continuous"""
    visible: np.ndarray
    """int64 [16]"""
    box: np.ndarray
    """float64 [4]"""
    head_size: float


def _place(root: str | None, split: Split, own: MpiiSplit, *, whole: bool) -> tuple[Path, Folder]:
    """The annotations and the folder of images."""
    base = root_folder(root)
    named = own.get("annotations")
    usual = f"annot/{'train' if split == 'train' else 'valid'}.json"
    if named is None and root is None:
        raise ConfigError(
            f"dataset mpii: there is no {split} data; type dataset.root=DIR for a folder with {usual} and images, or "
            f"dataset.{split}.annotations=FILE dataset.{split}.images=DIR"
        )
    file = base / Path(named or usual).expanduser()
    if not file.is_file():
        raise ConfigError(f"dataset mpii: there is no file {file}; type dataset.{split}.annotations=FILE")
    if file.name == MAT and not whole and split == "val":
        raise ConfigError(f"dataset mpii: {MAT} has labels for training only; type dataset.val_fraction=0.1")
    images = base / Path(own.get("images") or "images").expanduser()
    if not images.is_dir():
        raise ConfigError(f"dataset mpii: there is no folder {images}; type dataset.{split}.images=DIR")
    return file, Folder(images)


def _box(center: Any, scale: Any) -> np.ndarray:
    """The person's square. Raises DataError."""
    middle, size = array_of(center, (2,)), array_of(scale, ())
    if middle is None or not (np.abs(middle) <= LARGEST).all():
        raise DataError("its center is not two numbers")
    if size is None or not 0 < size <= LARGEST:
        raise DataError("its scale is not a number above 0, so its box has no area")
    middle = middle - 0.5 + np.array([0, LOWER * float(size)])
    half = UNIT / 2 * size
    return np.concatenate((middle - half, middle + half))


# ------------------------------------------------------------------------------- the JSON of HRNet


def _from_json(path: Path, findings: Findings) -> list[_Person]:
    try:
        records = json.loads(path.read_bytes())
    except OSError as error:
        raise findings.fatal(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise findings.fatal(f"{path.name}: is nested too deeply to be MPII's JSON") from None
    except ValueError as error:
        raise findings.fatal(f"{path.name}: is not JSON ({error})") from None
    if not isinstance(records, list) or not records:
        raise findings.fatal(f"{path.name}: is not a list of people, as HRNet's annot/train.json")
    heads = _heads(path, len(records), findings)
    people = []
    for n, record in enumerate(records):
        where = f"{path.name}: person {n + 1}"
        try:
            people.append(_json_person(where, record, float(heads[n])))
        except DataError as error:
            findings.error(where, str(error))
    return people


def _json_person(where: str, record: Any, head_size: float) -> _Person:
    if not isinstance(record, dict):
        raise DataError("is not a record")
    image = record.get("image")
    if not isinstance(image, str):
        raise DataError(f"its image is {quoted(image)}, not the name of a file")
    joints = array_of(record.get("joints"), (JOINTS, 2))
    if joints is None:
        raise DataError(f"its joints are not {JOINTS} times x, y")
    labelled = array_of(record.get("joints_vis"), (JOINTS,))
    if labelled is None or not np.isin(labelled, (0, 1)).all():
        raise DataError(f"its joints_vis are not {JOINTS} times 0 or 1")
    box = _box(record.get("center"), record.get("scale"))
    return _Person(where, image, joints - 0.5, 2 * labelled.astype(np.int64), box, head_size)


def _heads(path: Path, count: int, findings: Findings) -> np.ndarray:
    """Head sizes from gt_valid.mat beside valid.json, in its order; NaN where there is none."""
    file = path.with_name(f"gt_{path.stem}.mat")
    if not file.is_file():
        return np.full(count, np.nan)
    corners = read_mat(file, ["headboxes_src"], findings)["headboxes_src"]
    if getattr(corners, "shape", ()) != (2, 2, count) or corners.dtype.kind not in "fiu":
        raise findings.fatal(
            f"{file.name}: headboxes_src has the shape {getattr(corners, 'shape', ())}; expected numbers (2, 2, "
            f"{count}), as {path.name} has {count} people"
        )
    return _head_sizes(corners[0].T.astype(np.float64), corners[1].T.astype(np.float64))


def _head_sizes(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Of head boxes with these corners, [..., 2] each; NaN where there is no such box."""
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = HEAD * np.hypot(*np.moveaxis(high - low, -1, 0))
    return np.where((sizes > 0) & (sizes <= LARGEST), sizes, np.nan)


# -------------------------------------------------------------------------- the data set's own .mat


def _from_mat(path: Path, findings: Findings) -> list[_Person]:
    release = read_mat(path, ["RELEASE"], findings, simple=True)["RELEASE"]
    images = structures(release.get("annolist")) if isinstance(release, dict) else []
    # One alone comes as itself.
    used = array_of(release.get("img_train"), (len(images),) if len(images) > 1 else ()) if images else None
    if used is None:
        raise findings.fatal(f"{path.name}: RELEASE has not one annolist and img_train for each image")
    people = []
    for i in np.flatnonzero(used == 1).tolist():
        image = images[i].get("image") if isinstance(images[i], dict) else None
        name = image.get("name") if isinstance(image, dict) else None
        rects = structures(images[i].get("annorect")) if isinstance(name, str) else []
        if not isinstance(name, str):
            findings.error(f"{path.name}: image {i + 1}", "has no name")
        for n, rect in enumerate(rects):
            if not isinstance(rect, dict) or not structures(rect.get("annopoints")):
                continue  # somebody who was not labelled: another's neighbour
            where = f"{path.name}: image {i + 1}: person {n + 1}"
            try:
                people.append(_mat_person(where, str(name), rect))
            except DataError as error:
                findings.error(where, str(error))
    return people


def _mat_person(where: str, image: str, rect: dict[str, Any]) -> _Person:
    joints, visible = np.zeros((JOINTS, 2)), np.zeros(JOINTS, np.int64)
    for point in _points(rect):
        number, place = array_of(point.get("id"), ()), array_of([point.get("x"), point.get("y")], (2,))
        if number is None or not 0 <= number < JOINTS or number != int(number) or place is None:
            raise DataError(f"has a joint that is not x, y and an id from 0 to {JOINTS - 1}")
        hidden = str(point.get("is_visible")) in ("0", "0.0", "False")  # as a number, text, or nothing
        joints[int(number)], visible[int(number)] = place - 0.5, 1 if hidden else 2
    place = rect.get("objpos")
    center = [place.get("x"), place.get("y")] if isinstance(place, dict) else None
    head = array_of([rect.get(key) for key in ("x1", "y1", "x2", "y2")], (4,))
    size = np.nan if head is None else float(_head_sizes(head[:2], head[2:]))
    return _Person(where, image, joints, visible, _box(center, rect.get("scale")), size)


def _points(rect: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for points in structures(rect["annopoints"]):
        for point in structures(points.get("point") if isinstance(points, dict) else None):
            if not isinstance(point, dict):
                raise DataError("has a joint that is no structure")
            yield point
