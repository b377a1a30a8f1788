"""The XML files of Pascal VOC's format (Everingham et al., IJCV 2010), read and checked; other data sets have them too.

<annotation><filename/><size><width/><height/></size>
  <object><name/><difficult/><bndbox><xmin/><ymin/><xmax/><ymax/></bndbox></object></annotation>
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from cvtasks.data.annotations import (
    Annotations,
    Findings,
    Strings,
    check_boxes,
    choose_classes,
    group_by_image,
    locate_image,
    note_left_out,
)  # fmt: skip
from cvtasks.data.images import IMAGE_SUFFIXES, Size
from cvtasks.data.paths import Folder, quoted
from cvtasks.errors import DataError
from cvtasks.types import ClassInfo, Split

MAX_BYTES = 2**24
"""Of one XML file: some fifty thousand objects."""


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


class BoxedObject(NamedTuple):
    number: int
    """In its file, from 1"""
    name: str
    box: tuple[float, float, float, float]
    difficult: bool = False


class Document(NamedTuple):
    """What the file of one image says."""

    filename: str
    """Of the image; empty if it is not said"""
    size: Size | None
    objects: list[BoxedObject]
    problems: list[tuple[int, str]]
    """The numbers of objects that cannot be used, and why"""


def read_xml(
    annotations: Folder, images: Folder, stems: Sequence[str], *, findings: Findings, **options: Any
) -> tuple[Annotations, ClassInfo]:
    """The objects in the XML files `stems` of a folder, which may lie in folders below it, and their classes.

    Other arguments are those of `read_documents`. Raises DataError naming file and record.
    """

    def document(stem: str) -> Document:
        xml = annotations.find(f"{stem}.xml") or annotations.find(f"{stem}.XML")
        if xml is None:
            raise DataError(f"there is no such file in {annotations.path}")
        tree = _parse(xml)
        filename = (tree.findtext("filename") or "").strip()
        return Document(filename, _size(tree), *_objects(tree))

    record: Callable[[str], str] = lambda stem: f"{stem}.xml"  # noqa: E731
    return read_documents(
        document, stems, images, record=record, source=annotations.path, findings=findings, **options
    )


def read_documents(
    document: Callable[[str], Document],
    stems: Sequence[str],
    images: Folder,
    *,
    record: Callable[[str], str],
    source: Path,
    split: Split,
    one_based: bool,
    classes: Sequence[str] | None,
    findings: Findings,
    class_of: Callable[[str, str], str] = lambda stem, name: name,
    in_order: Callable[[str], Any] = str,
) -> tuple[Annotations, ClassInfo]:
    """The objects of the images `stems`, and their classes. An image's id is its stem.

    The image is the one that the document names, in the images' folder, else the one with the same stem.

    document: what is said of an image; raises DataError. record: names it in messages. source: where all that stands.
    one_based: pixels are counted from 1, and the box includes the last.
    class_of: the class of an object, from its image's stem and its name. in_order: the key to sort classes by.

    Raises DataError naming file and record.
    """
    by_stem = _Stems(images)
    ids: list[str] = []
    files: list[str] = []
    sizes: list[Size] = []
    objects: list[tuple[int, BoxedObject]] = []
    owner: dict[str, str] = {}
    for stem in stems:
        try:
            said = document(stem)
            file, size = locate_image(images, by_stem.image(stem, said.filename), said.size, findings)
            if file in owner:
                raise DataError(f"its image {quoted(file)} is also that of {owner[file]}")
        except DataError as error:
            findings.error(record(stem), str(error))
            continue
        owner[file] = record(stem)
        for number, problem in said.problems:
            findings.error(f"{record(stem)}: object {number}", problem)
        objects += [(len(ids), found._replace(name=class_of(stem, found.name))) for found in said.objects]
        ids.append(stem)
        files.append(file)
        sizes.append(size)
    if not ids:
        raise findings.fatal(f"{source}: no images are left")

    names = choose_classes(
        sorted({found.name for _, found in objects}, key=in_order), classes, split, findings
    )
    if not names:
        raise findings.fatal(f"{source}: there is not one object")
    label_of = {name: label for label, name in enumerate(names)}
    note_left_out(Counter(found.name for _, found in objects if found.name not in label_of), findings)
    objects = [(image, found) for image, found in objects if found.name in label_of]

    image_of = np.array([image for image, _ in objects], np.int64)
    written = np.array([found.box for _, found in objects], np.float64).reshape(-1, 4)
    if one_based and (written[:, :2] == 0).any():
        findings.note(
            "boxes begin at pixel 0, and VOC counts from 1; if yours does not: dataset.one_based=false"
        )
    all_sizes = np.array(sizes, np.int64)
    boxes, keep = check_boxes(
        written - np.array([1, 1, 0, 0]) * one_based,
        written,
        all_sizes[image_of],
        findings,
        lambda n: f"{record(ids[objects[n][0]])}: object {objects[n][1].number}",
    )
    order, ends = group_by_image(image_of[keep], len(ids))
    kept = np.flatnonzero(keep)[order]
    boxes = boxes[kept]
    return Annotations(
        image_ids=Strings(ids),
        files=Strings(files),
        sizes=all_sizes,
        ends=ends,
        boxes=boxes,
        labels=np.array([label_of[objects[n][1].name] for n in kept], np.int64),
        ignore=np.array([objects[n][1].difficult for n in kept], bool),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    ), ClassInfo(names=tuple(names))


class _Stems:
    """The images of a folder, and of those below it, by their names without ending; each folder is listed once."""

    def __init__(self, images: Folder) -> None:
        self._images = images
        self._names: dict[str, dict[str, str]] = {}

    def image(self, stem: str, filename: str) -> str:
        """The name below the folder of the image that belongs to an XML file, or what to look for in vain."""
        path = PurePosixPath(stem)
        below = "" if path.parent == PurePosixPath(".") else f"{path.parent}/"
        if filename and self._images.find(filename) is not None:
            return filename
        if below not in self._names:
            names = sorted(self._images.names(below.rstrip("/")))
            self._names[below] = {Path(name).stem: below + name for name in names if is_image(name)}
        return self._names[below].get(path.name, filename or stem)


def _parse(path: Path) -> ElementTree.Element:
    """The XML tree. Raises DataError; nothing outside the file is read, and no entity is ever defined."""
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from None
    if data is None:
        raise DataError(f"is larger than {MAX_BYTES} bytes, the limit")
    # A byte search is safe: apart from UTF-16, the parser only takes encodings that keep ASCII in its place.
    if b"\0" in data:
        raise DataError("is not UTF-8 (it holds NUL bytes)")
    if b"<!DOCTYPE" in data:
        raise DataError("holds a DOCTYPE, which no VOC file needs and which can name other files")
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not XML ({error})") from None
    if tree.tag != "annotation":
        raise DataError(f"is not VOC's XML: expected <annotation>, found <{tree.tag[:40]}>")
    return tree


def _size(tree: ElementTree.Element) -> Size | None:
    """Height and width; None where the file leaves them out or writes 0, as some tools do."""
    height, width = (tree.findtext(f"size/{key}") for key in ("height", "width"))
    if height is None or width is None:
        return None
    size = _number(height, "height"), _number(width, "width")
    if size == (0, 0):
        return None
    if not all(1 <= side <= 65_535 and side == int(side) for side in size):
        raise DataError(f"its size is {quoted(width)} x {quoted(height)}, not from 1 to 65535")
    return int(size[0]), int(size[1])


def _objects(tree: ElementTree.Element) -> tuple[list[BoxedObject], list[tuple[int, str]]]:
    found, problems = [], []
    for number, element in enumerate(tree.iterfind("object"), 1):
        try:
            name = " ".join((element.findtext("name") or "").split())
            if not name:
                raise DataError("has no <name>")
            x1, y1, x2, y2 = (
                _number(element.findtext(f"bndbox/{key}"), key) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            difficult = _number(element.findtext("difficult") or "0", "difficult")
            if difficult not in (0, 1):
                raise DataError(f"<difficult> is {difficult:g}, not 0 or 1")
        except DataError as error:
            problems.append((number, str(error)))
            continue
        found.append(BoxedObject(number, name, (x1, y1, x2, y2), bool(difficult)))
    return found, problems


def _number(text: str | None, key: str) -> float:
    if text is None:
        raise DataError(f"has no <{key}>")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"<{key}> is {quoted(text)}, not a number") from None
