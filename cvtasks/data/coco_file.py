"""COCO's JSON, read whole and checked: every record is either sound, or named in an error or a note.

    {"images": [{"id", "file_name", "width", "height"}],
     "categories": [{"id", "name", "keypoints", "skeleton"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height],
                      "area", "iscrowd", "segmentation", "keypoints": [x, y, v, ...]}]}

width, height, area, iscrowd, segmentation, keypoints and an annotation's id may be missing. Outlines are
packed while the JSON is parsed, since as lists of floats they would take ten times the memory.
"""

from __future__ import annotations

import gc
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvtasks.data.annotations import (
    LARGEST,
    Annotations,
    Findings,
    Strings,
    check_boxes,
    choose_classes,
    group_by_image,
    locate_image,
    note_left_out,
    pack_ids,
)  # fmt: skip
from cvtasks.data.images import MAX_PIXELS, Size
from cvtasks.data.paths import Folder, is_name, quoted
from cvtasks.data.people import of_one_person
from cvtasks.data.segmentations import Outline, Segmentations, numbers, read_outline
from cvtasks.data.skeletons import Skeleton
from cvtasks.errors import DataError
from cvtasks.types import ClassInfo, ImageId, Split

MAX_SIDE = 65_535


def read_coco(
    path: Path,
    folder: Folder | None,
    *,
    fields: frozenset[str],
    classes: Sequence[str] | None,
    split: Split,
    findings: Findings,
    skeleton: Skeleton | None = None,
) -> tuple[Annotations, ClassInfo]:
    """The file's labels for `fields`, and its classes. Raises DataError naming file and record.

    folder: of the images; None if only the labels are wanted: then no image is looked for.
    skeleton: of all classes that have joints, or of all where none has, in place of the file's own.
    """
    document = _load(path, findings, outlines="masks" in fields)
    categories = _categories(document["categories"], path, findings)
    names = list(categories)
    if of_one_person(fields):
        with_joints = [name for name, record in categories.items() if record.get("keypoints")]
        names = with_joints or (names if skeleton else [])
        if not names:
            raise findings.fatal(f"{path.name}: no category has keypoints, so there are no joints to learn")
    chosen = choose_classes(names, classes, split, findings)
    info = _class_info(chosen, categories, path, findings)
    if skeleton is not None:
        info = _with_skeleton(info, skeleton, path, findings)
    images = _images(document["images"], path, folder, findings)
    objects = _objects(document["annotations"], path, images, info, categories, fields, findings)
    return objects, info


def _load(path: Path, findings: Findings, *, outlines: bool) -> dict[str, list[Any]]:
    def pack(record: dict[str, Any]) -> dict[str, Any]:
        if "segmentation" in record:
            wanted = outlines or record.get("area") is None
            record["segmentation"] = read_outline(record["segmentation"]) if wanted else None
        return record

    collecting = gc.isenabled()
    gc.disable()  # a million new objects and no cycles: half of the time would go into looking for some
    try:
        document = json.loads(path.read_bytes(), object_hook=pack)
    except OSError as error:
        raise findings.fatal(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise findings.fatal(f"{path.name}: is nested too deeply to be COCO's JSON") from None
    except ValueError as error:
        raise findings.fatal(f"{path.name}: is not JSON ({error})") from None
    finally:
        if collecting:
            gc.enable()
    if isinstance(document, list):
        raise findings.fatal(
            f"{path.name}: is a list, as results are; expected images, annotations, categories"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise findings.fatal(f'{path.name}: has no list "{key}", so it is not a COCO data set')
    return document


def _categories(records: list[Any], path: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """By name, in the order of their ids."""
    categories: dict[str, dict[str, Any]] = {}
    ids = set()
    for position, record in enumerate(records):
        where = f"{path.name}: category {position + 1}"
        category_id = _whole(record.get("id")) if isinstance(record, dict) else None
        name = record.get("name") if isinstance(record, dict) else None
        if category_id is None or not isinstance(name, str) or not is_name(name):
            raise findings.fatal(f"{where}: needs an id (a whole number) and a name")
        if category_id in ids or name in categories:
            raise findings.fatal(f"{where}: the id {category_id} or the name {quoted(name)} is there twice")
        ids.add(category_id)
        categories[name] = record | {"id": category_id}
    if not categories:
        raise findings.fatal(f"{path.name}: has no categories")
    return dict(sorted(categories.items(), key=lambda item: item[1]["id"]))


def _class_info(
    chosen: list[str], categories: dict[str, dict[str, Any]], path: Path, findings: Findings
) -> ClassInfo:
    unused = max(record["id"] for record in categories.values()) + 1
    ids = [categories[n]["id"] if n in categories else unused + k for k, n in enumerate(chosen)]
    joints: list[str] = []
    skeleton: list[tuple[int, int]] = []
    for name in chosen:
        record = categories.get(name, {})
        own = record.get("keypoints")
        if not own:
            continue
        where = f"{path.name}: category {quoted(name)}"
        if not isinstance(own, list) or not all(is_name(joint) for joint in own):
            raise findings.fatal(f"{where}: keypoints are not a list of names")
        if len({joint.lower() for joint in own}) < len(own):
            raise findings.fatal(f"{where}: two keypoints have the same name")
        if joints and own != joints:
            raise findings.fatal(
                f"{where}: has other keypoints than the categories before it; choose one: dataset.classes=[NAME]"
            )
        joints, skeleton = own, _skeleton(record.get("skeleton"), len(own), where, findings)
    return ClassInfo(
        names=tuple(chosen),
        category_ids=tuple(ids),
        keypoint_names=tuple(joints),
        flip_index=tuple(_mirrored(joint, joints) for joint in range(len(joints))),
        skeleton=tuple(skeleton),
    )


def _with_skeleton(info: ClassInfo, skeleton: Skeleton, path: Path, findings: Findings) -> ClassInfo:
    own = len(info.keypoint_names)
    if own not in (0, len(skeleton.names)):
        raise findings.fatal(
            f"{path.name}: has {own} keypoints, and the skeleton of dataset.skeleton {len(skeleton.names)}"
        )
    return replace(info, **skeleton.class_info)


def _skeleton(limbs: Any, num_joints: int, where: str, findings: Findings) -> list[tuple[int, int]]:
    """COCO counts joints from 1. A limb that is drawn wrongly spoils no training: it is left out."""
    pairs = [numbers(limb) for limb in (limbs if isinstance(limbs, list) else [limbs])] if limbs else []
    sound = [
        (int(pair[0]) - 1, int(pair[1]) - 1)
        for pair in pairs
        if pair is not None and len(pair) == 2 and ((pair >= 1) & (pair <= num_joints)).all()
    ]
    if len(sound) < len(pairs):
        findings.note(f"{where}: {len(pairs) - len(sound)} limbs of the skeleton name no joint; left out")
    return sound


_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)


def _mirrored(joint: int, names: list[str]) -> int:
    """The joint that has the same name with left and right exchanged, or itself."""
    other = {"left": "right", "right": "left", "l": "r", "r": "l"}
    plain = [name.lower() for name in names]
    mirrored = _SIDE.sub(lambda side: other[side.group()], plain[joint])
    return plain.index(mirrored) if mirrored in plain else joint


class _Images(NamedTuple):
    ids: list[ImageId]
    files: list[str]
    sizes: list[Size]
    position: dict[Any, int]
    """Of each id; -1 where the image was skipped."""


def _images(records: list[Any], path: Path, folder: Folder | None, findings: Findings) -> _Images:
    images = _Images([], [], [], {})
    for position, record in enumerate(records):
        where = f"{path.name}: image {position + 1} of the list"
        if not isinstance(record, dict):
            findings.error(where, "is not a record")
            continue
        image_id = record.get("id")
        image_id = image_id if isinstance(image_id, str) else _whole(image_id)
        if image_id is None or isinstance(image_id, str) != isinstance((images.ids or [image_id])[0], str):
            findings.error(where, "needs an id that is a whole number, or one that is text as all others")
            continue
        where = f"{path.name}: image {quoted(image_id)}"
        if image_id in images.position:
            findings.error(where, "this id is there twice")
            continue
        images.position[image_id] = -1
        try:
            file, size = _image(record, str(image_id), folder, findings)
        except DataError as error:
            findings.error(where, str(error))
            continue
        images.position[image_id] = len(images.ids)
        images.ids.append(image_id)
        images.files.append(file)
        images.sizes.append(size)
    if not images.ids:
        raise findings.fatal(f"{path.name}: no images{' are left' if records else ' in it'}")
    return images


def _image(record: dict[str, Any], name: str, folder: Folder | None, findings: Findings) -> tuple[str, Size]:
    """The file's name and size; (0, 0) where neither the record nor an image tells. Raises DataError."""
    file = record.get("file_name", None if folder else name)
    if not isinstance(file, str):
        raise DataError("has no file_name")
    size = None
    if record.get("height") is not None and record.get("width") is not None:
        height, width = _whole(record["height"]), _whole(record["width"])
        if height is None or width is None or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            sides = f"width {quoted(record['width'])}, height {quoted(record['height'])}"
            raise DataError(f"{sides}: not whole numbers from 1 to {MAX_SIDE}")
        if height * width > MAX_PIXELS:
            raise DataError(f"{width} x {height} is larger than {MAX_PIXELS} pixels, the limit")
        size = (height, width)
    if folder is None:
        return file, size or (0, 0)
    return locate_image(folder, file, size, findings)


def _objects(
    records: list[Any],
    path: Path,
    images: _Images,
    info: ClassInfo,
    categories: dict[str, dict[str, Any]],
    fields: frozenset[str],
    findings: Findings,
) -> Annotations:
    names = {record["id"]: name for name, record in categories.items()}
    label_of: dict[Any, int] = {c: info.names.index(n) if n in info.names else -1 for c, n in names.items()}
    num_joints = len(info.keypoint_names) if "keypoints" in fields else 0
    positions, rows, joints = array("q"), array("d"), array("d")
    outlines: list[Outline] = []
    left_out: Counter[str] = Counter()
    seen: set[ImageId] = set()
    for position, record in enumerate(records):
        try:
            row = _object(record, images, label_of, seen)
            if row is None:
                continue
            if row.label < 0:
                name = names[record["category_id"]]
                # That objects without joints are no people is no news.
                left_out[name] += bool(not of_one_person(fields) or categories[name].get("keypoints"))
                continue
            size = images.sizes[row.image]
            outline = record.get("segmentation")
            checked = [_checked(outline, size)] if "masks" in fields else []
            points = _joints(record.get("keypoints"), num_joints, size) if num_joints else []
        except DataError as error:
            findings.error(_name(record, position, path), str(error))
            continue
        area = row.area
        if area is None:
            area = outline.area if isinstance(outline, Outline) else row.box[2] * row.box[3]
        x, y, width, height = row.box
        outlines.extend(checked)
        joints.extend(points)
        positions.append(position)
        rows.extend((row.image, row.label, row.crowd, area, x, y, x + width, y + height))
    note_left_out(+left_out, findings)

    columns = np.array(rows, np.float64).reshape(-1, 8)
    image_of, boxes = columns[:, 0].astype(np.int64), columns[:, 4:]
    sizes = np.array(images.sizes, np.int64)
    named: Callable[[int], str] = lambda n: _name(records[positions[n]], positions[n], path)  # noqa: E731
    clipped, keep = check_boxes(boxes, boxes, sizes[image_of], findings, named)
    order, ends = group_by_image(image_of[keep], len(images.ids))
    kept = np.flatnonzero(keep)[order]
    pose = np.array(joints, np.float32).reshape(len(columns), num_joints, 3)[kept] if num_joints else None
    return Annotations(
        image_ids=pack_ids(images.ids),
        files=Strings(images.files),
        sizes=sizes,
        ends=ends,
        boxes=clipped[kept],
        labels=columns[kept, 1].astype(np.int64),
        ignore=columns[kept, 2].astype(bool),
        area=columns[kept, 3],
        keypoints=None if pose is None else pose[:, :, :2].copy(),
        visible=None if pose is None else pose[:, :, 2].astype(np.uint8),
        segmentations=Segmentations([outlines[n] for n in kept]) if "masks" in fields else None,
    )


class _Object(NamedTuple):
    image: int
    label: int
    crowd: int
    area: float | None
    box: list[float]
    """x, y, width, height"""


def _object(record: Any, images: _Images, label_of: dict[Any, int], seen: set[ImageId]) -> _Object | None:
    """An annotation's numbers; None where its image was skipped. Raises DataError."""
    if not isinstance(record, dict):
        raise DataError("is not a record")
    own = record.get("id")
    if own is not None:
        if not isinstance(own, int | str):
            raise DataError("its id is neither a whole number nor text")
        if own in seen:
            raise DataError("this id is there twice")
        seen.add(own)
    image_id, category_id = record.get("image_id"), record.get("category_id")
    image = images.position.get(image_id) if isinstance(image_id, int | float | str) else None
    if image is None:
        raise DataError(f"image_id {quoted(image_id)} is not among the images")
    if image < 0:
        return None
    label = label_of.get(category_id) if isinstance(category_id, int | float) else None
    if label is None:
        raise DataError(f"category_id {quoted(category_id)} is not among the categories")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        raise DataError("bbox is not a list of four numbers (x, y, width, height)")
    if not all(abs(v) <= LARGEST for v in box):
        raise DataError("bbox has a number that is not finite, or too large")
    crowd = record.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise DataError(f"iscrowd {quoted(crowd)} is neither 0 nor 1")
    area = record.get("area")
    if area is not None and not (type(area) in (int, float) and 0 <= area <= LARGEST**2):
        raise DataError(f"area {quoted(area)} is not a number of pixels")
    return _Object(image, label, crowd, area, box)


def _checked(outline: Outline | str | None, size: Size) -> Outline:
    if outline is None:
        raise DataError("has no segmentation, from which its mask would be made")
    if isinstance(outline, str):
        raise DataError(outline)
    if size == (0, 0):
        raise DataError("its image has no width and height, without which there is no mask")
    problem = outline.problem(size)
    if problem:
        raise DataError(problem)
    return outline


def _joints(value: Any, num_joints: int, size: Size) -> list[float]:
    """x, y, v of each joint, continuous (COCO gives the pixel's index); zeros where it is not labelled."""
    if value is None:
        return [0.0] * (3 * num_joints)
    points = numbers(value)
    if points is None or len(points) != 3 * num_joints:
        raise DataError(f"keypoints are not {num_joints} times x, y, v")
    points = points.reshape(-1, 3).astype(np.float64)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise DataError("keypoints have a visibility v that is not 0, 1 or 2")
    labelled = points[:, 2] > 0
    points[:, :2] += 0.5
    points[~labelled] = 0
    limit = np.array(size[::-1] if size != (0, 0) else (LARGEST, LARGEST))
    if not (np.abs(points[labelled, :2] / limit - 0.5) <= 1.5).all():  # also false for NaN
        raise DataError("keypoints have a number that is not finite, or far outside the image")
    return points.ravel().tolist()


def _whole(value: Any) -> int | None:
    """A whole number that fits 64 bits; some tools write 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _name(record: Any, position: int, path: Path) -> str:
    own = record.get("id") if isinstance(record, dict) else None
    return (
        f"{path.name}: annotation {position + 1} of the list"
        if own is None
        else f"{path.name}: annotation {quoted(own)}"
    )
