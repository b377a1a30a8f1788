"""Pascal VOC's format (Everingham et al., IJCV 2010): one XML file of boxes for each image, or one label image.

    cvtasks train task=faster_rcnn dataset=voc dataset.root=/data/VOCdevkit/VOC2007
    cvtasks train task=faster_rcnn dataset=voc dataset.train.images=DIR dataset.train.annotations=DIR \\
                  dataset.val_fraction=0.2
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, TypedDict

from cvtasks.config.schema import Range
from cvtasks.data.annotations import Annotations, Findings, OnError
from cvtasks.data.label_maps import LabelMaps
from cvtasks.data.object_maps import of_pixels_only
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.single import Select, SingleObjects, choose_objects, of_one_object
from cvtasks.data.splits import part, read_list, source_of
from cvtasks.data.voc_segmentation import read_voc_segmentation
from cvtasks.data.voc_xml import is_image, read_xml
from cvtasks.errors import ConfigError
from cvtasks.types import Sample, Split, Truth


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

    With "segmentation" in `fields` it reads label images, see `voc_segmentation`; what follows is about boxes. With
    "label" each image has one object.

    The classes are those of the split's objects, in alphabetical order. `difficult` objects are `ignore`. A
    box that is a single point (xmin = xmax and ymin = ymax) is left out, and one that is up to two pixels
    over the image's edge clipped, both with a note. The image is the one that <filename> names, else the one
    with the XML's stem.

    root: with VOC's own layout in it (Annotations, JPEGImages, ImageSets/Main) nothing else is needed, nor with images
        and XML side by side in folders train and val (or valid, or test); or one folder that holds images and XML, with
        `val_fraction`.
    train, val: any other layout. If only one of `images` and `annotations` is given, both are in that folder.
        Without `list` all XML files in the folder are taken.
    val_fraction: this part of the training data is taken out of it for validation, in place of `val`. Which
        images does not depend on how many there are, only on their names and `split_seed`.
    one_based: VOC counts pixels from 1 and includes the last, so that an object has the box (xmin - 1,
        ymin - 1, xmax, ymax); false if the files count from 0 and write (x1, y1, x2, y2).
    classes: which to use, in this order; null: all.
    select: which object, where a task takes one; difficult ones do not count.
    on_error: raise stops at the first record that is wrong; skip leaves out the object or the image, says so
        in `notes`, and decodes every image once beforehand.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "ignore", "label", "segmentation"})

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
        select: Select = "one",
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("voc", on_error)
        named = any(val.get(key) for key in ("images", "annotations", "list"))
        source = source_of(split, val_fraction, val_given=named)
        own = train if source == "train" else val
        self._maps: LabelMaps | None = None
        if "segmentation" in fields:
            if not of_pixels_only(fields):
                raise ConfigError("dataset voc: has boxes or label images for a task, not both")
            self._maps, self.classes = read_voc_segmentation(
                root, split, own, val_fraction, split_seed, classes, findings
            )
            self.notes = findings.notes()
            return
        place = _place(root, source, own, findings, whole=val_fraction is not None)
        stems = _stems(place, findings)
        if val_fraction is not None:
            stems = part(stems, split, val_fraction, split_seed)
        self._folder = place.images.path
        found, self.classes = read_xml(
            place.annotations,
            place.images,
            stems,
            split=split,
            one_based=one_based,
            classes=classes,
            findings=findings,
        )
        self._annotations: Annotations | SingleObjects = found
        if of_one_object(fields):
            self._annotations = choose_objects(
                found,
                select,
                findings,
                place.annotations.path,
                lambda i: f"{found.image_id(i)}.xml",
                fields=fields,
            )
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


def _place(root: str | None, split: Split, own: VocSplit, findings: Findings, *, whole: bool) -> _Place:
    """The folders and the list of a split. whole: without a list, take the folder and do not complain."""
    base = root_folder(root)
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
        lists, together = f"ImageSets/Main/{own.get('split') or split}.txt", _side_by_side(base, split, own)
        if (base / "Annotations").is_dir():
            annotations, images = "Annotations", "JPEGImages"
        elif together is not None:
            annotations = images = together
            lists, whole = f"{together}.txt", True
            if together != split:
                findings.note(f"there is no folder {split}; the {split} data is in {together}")
        elif _has_xml(base):
            annotations = images = "."
        else:
            raise ConfigError(
                f"dataset voc: {base} has neither Annotations nor XML files in it; type {typed}"
            )
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


def _side_by_side(base: Path, split: Split, own: VocSplit) -> str | None:
    """The folder of `base` with the split's images and XML files, if there is one."""
    names = [own.get("split") or split, *(("valid", "test") if split == "val" else ())]
    return next((name for name in names if _has_xml(base / name)), None)


def _has_xml(folder: Path) -> bool:
    return any(name.lower().endswith(".xml") for name in Folder(folder).names())


def _stems(place: _Place, findings: Findings) -> list[str]:
    """The images of the list, or of the folder, by the stems of their XML files."""
    if place.list is None:
        names = sorted(place.annotations.names())
        stems = [Path(name).stem for name in names if name.lower().endswith(".xml")]
        unlabelled = {Path(n).stem for n in place.images.names() if is_image(n)} - set(stems)
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
        stem = name[: -len(Path(name).suffix)] if is_image(name) or name.endswith(".xml") else name
        if stem in found:
            findings.error(f"{place.list.name}: line {number}", f"{quoted(stem)} is there twice")
        elif stem:
            found[stem] = number
    if not found:
        raise findings.fatal(f"{place.list.name}: names no images")
    return list(found)
