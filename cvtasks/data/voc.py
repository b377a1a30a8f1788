"""Pascal VOC's format (Everingham et al., IJCV 2010): one XML file of boxes for each image, or one label image.

    cvtasks train task=faster_rcnn dataset=voc dataset.root=/data/VOCdevkit/VOC2007
    cvtasks train task=faster_rcnn dataset=voc dataset.train.images=DIR dataset.train.annotations=DIR \\
                  dataset.val_fraction=0.2
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, TypedDict

import numpy as np

from cvtasks.config.schema import Range
from cvtasks.data.annotations import (
    Annotations,
    Findings,
    OnError,
    Strings,
    check_boxes,
    choose_classes,
    group_by_image,
    locate_image,
    note_left_out,
)  # fmt: skip
from cvtasks.data.images import IMAGE_SUFFIXES, Size
from cvtasks.data.label_maps import LabelMaps
from cvtasks.data.object_maps import of_pixels_only
from cvtasks.data.paths import Folder, quoted
from cvtasks.data.splits import part, read_list
from cvtasks.data.voc_segmentation import read_voc_segmentation
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import ClassInfo, Sample, Split, Truth

MAX_BYTES = 2**24
"""Of one XML file: some fifty thousand objects."""


class VocSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    annotations: str | None
    list: str | None
    """A text file with one image on each line: the stem, or the file's name"""
    split: str | None
    """In VOC's own layout: which file of ImageSets/Main"""


TRAIN: VocSplit = {"split": "train"}
VAL: VocSplit = {"split": "val"}


class VocReader:
    """One split of a VOC data set (protocol `Reader`). An image's id is the stem of its XML file.

    With "segmentation" in `fields` it reads label images, see `voc_segmentation`; what follows is about boxes.

    The classes are those of the split's objects, in alphabetical order. `difficult` objects are `ignore`. A
    box that is a single point (xmin = xmax and ymin = ymax) is left out, and one that is up to two pixels
    over the image's edge clipped, both with a note. The image is the one that <filename> names, else the one
    with the XML's stem.

    root: with VOC's own layout in it (Annotations, JPEGImages, ImageSets/Main) nothing else is needed; or one
        folder that holds images and XML, with `val_fraction`.
    train, val: any other layout. If only one of `images` and `annotations` is given, both are in that folder.
        Without `list` all XML files in the folder are taken.
    val_fraction: this part of the training data is taken out of it for validation, in place of `val`. Which
        images does not depend on how many there are, only on their names and `split_seed`.
    one_based: VOC counts pixels from 1 and includes the last, so that an object has the box (xmin - 1,
        ymin - 1, xmax, ymax); false if the files count from 0 and write (x1, y1, x2, y2).
    classes: which to use, in this order; null: all.
    on_error: raise stops at the first record that is wrong; skip leaves out the object or the image, says so
        in `notes`, and decodes every image once beforehand.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "ignore", "segmentation"})

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = frozenset({"boxes", "labels", "ignore"}),
        root: str | None = None,
        train: VocSplit = TRAIN,
        val: VocSplit = VAL,
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = None,
        split_seed: int = 0,
        one_based: bool = True,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("voc", on_error)
        own = train if split == "train" or val_fraction is not None else val
        if val_fraction is not None and any(val.get(key) for key in ("images", "annotations", "list")):
            raise ConfigError(
                "dataset.val and dataset.val_fraction both say what to validate on; set one to null"
            )
        self._maps: LabelMaps | None = None
        if "segmentation" in fields:
            if not of_pixels_only(fields):
                raise ConfigError("dataset voc: has boxes or label images for a task, not both")
            self._maps, self.classes = read_voc_segmentation(
                root, split, own, val_fraction, split_seed, classes, findings
            )
            self.notes = findings.notes()
            return
        place = _place(root, split, own, whole=val_fraction is not None)
        stems = _stems(place, findings)
        if val_fraction is not None:
            stems = part(stems, split, val_fraction, split_seed)
        self._folder = place.images.path
        self._annotations, self.classes = _read(place, stems, split, one_based, classes, findings)
        self.notes = findings.notes()

    def __len__(self) -> int:
        return len(self._annotations if self._maps is None else self._maps)

    def __getitem__(self, index: int) -> Sample:
        return (
            self._annotations.sample(index, self._folder) if self._maps is None else self._maps.sample(index)
        )

    def truth(self, index: int) -> Truth:
        return self._annotations.truth(index, self._folder) if self._maps is None else self._maps.truth(index)


class _Place(NamedTuple):
    annotations: Folder
    images: Folder
    list: Path | None


def _place(root: str | None, split: Split, own: VocSplit, *, whole: bool) -> _Place:
    """The folders and the list of a split. whole: without a list, take the folder and do not complain."""
    base = Path(root or "").expanduser()
    if not base.is_dir():
        raise ConfigError(f"dataset.root={root}: there is no such folder")
    typed = f"dataset.{split}.images=DIR dataset.{split}.annotations=DIR"
    annotations, images = (
        own.get("annotations") or own.get("images"),
        own.get("images") or own.get("annotations"),
    )
    list_file = own.get("list")
    if annotations is None and root is None:
        raise ConfigError(
            f"dataset voc: there is no {split} data; type {typed}, or dataset.root=DIR for a folder with "
            "Annotations, JPEGImages, ImageSets/Main; or dataset.val_fraction=0.2 to divide the training data"
        )
    if annotations is None:
        is_voc = (base / "Annotations").is_dir()
        annotations, images = ("Annotations", "JPEGImages") if is_voc else (".", ".")
        if not is_voc and not any(name.lower().endswith(".xml") for name in Folder(base).names()):
            raise ConfigError(
                f"dataset voc: {base} has neither Annotations nor XML files in it; type {typed}"
            )
        lists = f"ImageSets/Main/{own.get('split') or split}.txt"
        if list_file is None and (base / lists).is_file():
            list_file = lists
        if list_file is None and not whole:
            raise ConfigError(
                f"dataset voc: there is no list {base / lists}; type dataset.{split}.list=FILE, or "
                "dataset.val_fraction=0.2 to divide the folder at random"
            )
    assert images is not None
    folders = {
        "annotations": base / Path(annotations).expanduser(),
        "images": base / Path(images).expanduser(),
    }
    for key, folder in folders.items():
        if not folder.is_dir():
            raise ConfigError(f"dataset voc: there is no folder {folder}; type dataset.{split}.{key}=DIR")
    path = None if list_file is None else base / Path(list_file).expanduser()
    if path is not None and not path.is_file():
        raise ConfigError(f"dataset voc: there is no list {path}; type dataset.{split}.list=FILE")
    return _Place(Folder(folders["annotations"]), Folder(folders["images"]), path)


def _stems(place: _Place, findings: Findings) -> list[str]:
    """The images of the list, or of the folder, by the stems of their XML files."""
    if place.list is None:
        names = sorted(place.annotations.names())
        stems = [Path(name).stem for name in names if name.lower().endswith(".xml")]
        unlabelled = {Path(n).stem for n in place.images.names() if _is_image(n)} - set(stems)
        if unlabelled:
            findings.note(
                f"{len(unlabelled)} images in {place.images.path} have no XML file and are left out"
            )
        if not stems:
            raise findings.fatal(f"{place.annotations.path}: there are no XML files")
        return stems
    found: dict[str, int] = {}
    for number, line in read_list(place.list, findings).items():
        # VOC's lists for one class say after the name whether it is there: "000005 -1".
        name = re.sub(r"\s+-?[01]$", "", line)
        stem = name[: -len(Path(name).suffix)] if _is_image(name) or name.endswith(".xml") else name
        if stem in found:
            findings.error(f"{place.list.name}: line {number}", f"{quoted(stem)} is there twice")
        elif stem:
            found[stem] = number
    if not found:
        raise findings.fatal(f"{place.list.name}: names no images")
    return list(found)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


class _Object(NamedTuple):
    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


def _read(
    place: _Place,
    stems: list[str],
    split: Split,
    one_based: bool,
    classes: Sequence[str] | None,
    findings: Findings,
) -> tuple[Annotations, ClassInfo]:
    by_stem = {Path(name).stem: name for name in sorted(place.images.names()) if _is_image(name)}
    ids: list[str] = []
    files: list[str] = []
    sizes: list[Size] = []
    objects: list[tuple[int, _Object]] = []
    owner: dict[str, str] = {}
    for stem in stems:
        xml_name = f"{stem}.xml"
        try:
            xml = place.annotations.find(xml_name) or place.annotations.find(f"{stem}.XML")
            if xml is None:
                raise DataError(f"there is no such file in {place.annotations.path}")
            tree = _parse(xml)
            file = (tree.findtext("filename") or "").strip()
            if not file or place.images.find(file) is None:
                file = by_stem.get(stem, file or stem)
            file, size = locate_image(place.images, file, _size(tree), findings)
            if file in owner:
                raise DataError(f"its image {quoted(file)} is also that of {owner[file]}")
        except DataError as error:
            findings.error(xml_name, str(error))
            continue
        owner[file] = xml_name
        objects += [(len(ids), found) for found in _objects(tree, xml_name, findings)]
        ids.append(stem)
        files.append(file)
        sizes.append(size)
    if not ids:
        raise findings.fatal(f"{place.annotations.path}: no images are left")

    names = choose_classes(sorted({found.name for _, found in objects}), classes, split, findings)
    if not names:
        raise findings.fatal(f"{place.annotations.path}: there is not one object")
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
        lambda n: f"{ids[objects[n][0]]}.xml: object {objects[n][1].number}",
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


def _objects(tree: ElementTree.Element, xml_name: str, findings: Findings) -> list[_Object]:
    found = []
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
            findings.error(f"{xml_name}: object {number}", str(error))
            continue
        found.append(_Object(number, name, (x1, y1, x2, y2), bool(difficult)))
    return found


def _number(text: str | None, key: str) -> float:
    if text is None:
        raise DataError(f"has no <{key}>")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"<{key}> is {quoted(text)}, not a number") from None
