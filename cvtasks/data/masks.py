"""Label images: a folder of images, and one of PNGs that hold the class of each pixel.

    cvtasks train task=unet dataset=masks dataset.train.images=DIR dataset.train.labels=DIR \\
                  dataset.val.images=DIR dataset.val.labels=DIR dataset.ignore_index=11
    cvtasks train task=unet dataset=cityscapes dataset.root=/data/cityscapes
    cvtasks train task=unet dataset=ade20k dataset.root=/data/ADEChallengeData2016
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias, TypedDict

import numpy as np

from cvtasks.config.schema import Range
from cvtasks.data.annotations import Findings, OnError, choose_classes
from cvtasks.data.class_table import Colors, class_colors, read_colors, read_names
from cvtasks.data.label_images import MAX_CLASSES, LabelDecoder, usable_palette
from cvtasks.data.label_maps import LabelMaps, affordable, check_labels, first_palette, locate
from cvtasks.data.pairs import Pairs
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.splits import part, source_of
from cvtasks.data.transforms import VOID
from cvtasks.errors import ConfigError
from cvtasks.types import ClassInfo, Sample, Split, Truth

Byte: TypeAlias = Annotated[int, Range(min=0, max=255)]
ColorOption: TypeAlias = tuple[Byte, Byte, Byte]

_LABELS = ("labels", "masks", "annotations")
LAYOUTS = (
    *(("images/{split}", f"{labels}/{{split}}") for labels in _LABELS),
    *(("{split}/images", f"{{split}}/{labels}") for labels in _LABELS),
    ("{split}", "{split}annot"),
)
"""What is looked for in `root`: the folders of images and of label images"""
WHOLE = tuple(("images", labels) for labels in _LABELS)
"""The same, to be divided by `val_fraction`"""


class MasksSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    labels: str | None
    list: str | None
    """A text file: on each line an image's name, or the names of an image and its label image (see `Pairs`)"""


class MasksReader:
    """One split of a folder of images and one of label images (protocol `Reader`). An image's id is its name.

    A label image is a PNG of the image's size: grey or palette, whose values are class ids, or in colours. What is
    in folders below is found too, under the same names. Without the images' folder there are only truths.

    root: with one of `LAYOUTS` in it nothing else is needed; or one of `WHOLE`, with `val_fraction`.
    train, val: any other layout. If only `images` is given, label images are in that folder, too. With a `list` of
        pairs and neither, names are relative to `root`, or to the list's own folder.
    image_suffix, label_suffix: the names of an image and its label image are the same up to these, and the ending.
    ignore_index, ignore_color: the id and the colour of void, in the files.
    label_map: the class of each id in the files, from 0 on, or 255 for void; all other ids are void.
    colors: of each class: a list in their order, a mapping by name, or a text file with lines `r g b name` or
        `name,r,g,b`. Needed where label images have colours. Those in a palette mean classes then, and not its
        indices; grey values remain ids.
    classes: their names in the order of the ids, or a text file, one a line; null: those of `colors`, else class_0 to
        the largest id in the training data (with `val_fraction`, before it is divided).
    val_fraction: this part of the training data is taken out of it for validation, in place of `val`. Which
        images does not depend on how many there are, only on their names and `split_seed`.
    on_error: raise stops at the first file that is wrong; skip leaves out the pair, says so in `notes`, and decodes
        every file once beforehand.

    Raises DataError naming the file, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"segmentation"})

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        train: MasksSplit | None = None,
        val: MasksSplit | None = None,
        image_suffix: str = "",
        label_suffix: str = "",
        ignore_index: Byte | None = 255,
        ignore_color: ColorOption | None = None,
        label_map: Mapping[int, Byte] | None = None,
        colors: Sequence[ColorOption] | Mapping[str, ColorOption] | str | None = None,
        classes: Sequence[str] | str | None = None,
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = None,
        split_seed: int = 0,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("masks", on_error)
        self.split = split
        base = root_folder(root)
        known = _classes(base, split, classes, colors, ignore_color, findings)
        num_classes = _count(known.names, label_map)
        pairs = _place(root, split, train or {}, val or {}, val_fraction, image_suffix, label_suffix)
        located = locate(pairs.find(findings), pairs.images, pairs.labels, findings)
        palette = None if known.meaning else first_palette(located, pairs.labels)
        decoder = LabelDecoder(
            MAX_CLASSES if num_classes is None else num_classes,
            ignore_index=ignore_index,
            label_map=label_map,
            colors=known.meaning or None,
            palette=palette,
        )
        if num_classes is None or on_error == "skip" or affordable(located):
            located, seen = check_labels(located, pairs.labels, decoder, findings)
            if not seen[:VOID].any():
                raise findings.fatal(
                    f"{pairs.labels.path}: there is no class, all is void (see dataset.ignore_index)"
                )
            if num_classes is None:
                num_classes = 1 + int(np.flatnonzero(seen[:VOID]).max())
            _note_classes(seen, num_classes, split, ignore_index, findings)
        if val_fraction is not None:
            keys = set(part([found.pair.key for found in located], split, val_fraction, split_seed))
            located = [found for found in located if found.pair.key in keys]
        names = known.names or [f"class_{k}" for k in range(num_classes)]
        ids = _ids(num_classes, label_map)
        self.classes = ClassInfo(
            names=tuple(names), category_ids=ids, colors=known.shown or usable_palette(palette, ids)
        )
        self._maps = LabelMaps.of(located, pairs.images, pairs.labels, decoder)
        self.notes = findings.notes()

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index: int) -> Sample:
        if self._maps.image_folder is None:
            raise ConfigError(f"dataset masks: the images are needed; type dataset.{self.split}.images=DIR")
        return self._maps.sample(index)

    def truth(self, index: int) -> Truth:
        return self._maps.truth(index)


def _classes(
    base: Path,
    split: Split,
    classes: Sequence[str] | str | None,
    colors: Sequence[ColorOption] | Mapping[str, ColorOption] | str | None,
    ignore_color: ColorOption | None,
    findings: Findings,
) -> Colors:
    asked = read_names(base / Path(classes).expanduser(), findings) if isinstance(classes, str) else classes
    names = None if asked is None else choose_classes(asked, asked, split, findings)
    if isinstance(colors, str):
        colors = read_colors(base / Path(colors).expanduser(), findings)  # type: ignore[assignment]
    return class_colors(colors, names, ignore_color, findings)  # type: ignore[arg-type]


def _count(names: Sequence[str] | None, label_map: Mapping[int, int] | None) -> int | None:
    """How many classes there are; None where the files have to tell. Raises ConfigError."""
    if names is not None and len(names) > MAX_CLASSES:
        raise ConfigError(f"dataset.classes: {len(names)} classes; a label map has at most {MAX_CLASSES}")
    if label_map is None:
        return None if names is None else len(names)
    wrong = [value for value in label_map if not (type(value) is int and 0 <= value <= 255)]
    if wrong:
        raise ConfigError(f"dataset.label_map: {quoted(wrong[0])} is not an id from 0 to 255")
    largest = max((label for label in label_map.values() if label != VOID), default=-1)
    if largest < 0:
        raise ConfigError("dataset.label_map: all ids become void (255); expected a class from 0 on for some")
    count = largest + 1 if names is None else len(names)
    if largest >= min(count, MAX_CLASSES):
        raise ConfigError(
            f"dataset.label_map: an id becomes class {largest}, but there are {min(count, MAX_CLASSES)}, counted from 0"
        )
    return count


def _ids(num_classes: int, label_map: Mapping[int, int] | None) -> tuple[int, ...]:
    """The id in the files of each class, the lowest if there are several; -1 if there is none."""
    if label_map is None:
        return tuple(range(num_classes))
    return tuple(
        min((i for i, k in label_map.items() if k == label), default=-1) for label in range(num_classes)
    )


def _note_classes(
    seen: np.ndarray, num_classes: int, split: Split, ignore_index: int | None, findings: Findings
) -> None:
    """What is odd about the classes that occur, in the training data."""
    if split != "train":
        return
    unseen = np.flatnonzero(~seen[:num_classes]).tolist()
    if unseen:
        shown = ", ".join(map(str, unseen[:10])) + (", ..." if len(unseen) > 10 else "")
        findings.note(f"{len(unseen)} of {num_classes} classes have no pixel in the training data: {shown}")
    if num_classes - len(unseen) == 1:
        both = seen[0] and seen[VOID] and ignore_index == VOID
        hint = "; for masks of 0 and 255 type 'dataset.label_map={0: 0, 255: 1}'" if both else ""
        findings.note(f"there is only one class{hint}")


def _place(
    root: str | None,
    split: Split,
    train: MasksSplit,
    val: MasksSplit,
    val_fraction: float | None,
    image_suffix: str,
    label_suffix: str,
) -> Pairs:
    """The folders and the list of a split. Raises ConfigError."""
    source = source_of(split, val_fraction, val_given=any(val.values()))
    own = train if source == "train" else val
    images, labels, listed = (own.get(key) for key in ("images", "labels", "list"))
    base = Path(root or "").expanduser()
    typed = f"dataset.{source}.images=DIR dataset.{source}.labels=DIR"
    list_file = None if listed is None else base / Path(str(listed)).expanduser()
    if list_file is not None and not list_file.is_file():
        raise ConfigError(f"dataset masks: there is no list {list_file}; type dataset.{source}.list=FILE")
    if images is None and labels is None:
        if list_file is not None:
            images = labels = str(base if root is not None else list_file.parent)
        else:
            images, labels = _layout(root, base, source, WHOLE if val_fraction is not None else (), typed)
    labels = labels or images
    if images is None and split == "train":
        raise ConfigError(f"dataset masks: dataset.train.images is not given; type {typed}")
    folders = {}
    for key, name in (("images", images), ("labels", labels)):
        folder = None if name is None else base / Path(str(name)).expanduser()
        if folder is not None and not folder.is_dir():
            hint = " (or dataset.root=DIR)" if root is None else ""
            raise ConfigError(
                f"dataset masks: there is no folder {folder}; type dataset.{source}.{key}=DIR{hint}"
            )
        folders[key] = None if folder is None else Folder(folder)
    assert folders["labels"] is not None
    return Pairs(folders["images"], folders["labels"], list_file, image_suffix, label_suffix)


def _layout(
    root: str | None, base: Path, split: Split, more: Sequence[tuple[str, str]], typed: str
) -> tuple[str, str]:
    """The first of the known layouts that `root` has."""
    for images, labels in (*LAYOUTS, *more):
        names = images.format(split=split), labels.format(split=split)
        if root is not None and all((base / name).is_dir() for name in names):
            return names
    where = (
        f"{base} has no such folders as"
        if root is not None
        else f"there is no {split} data; type {typed}, or dataset.root=DIR for a folder with"
    )
    raise ConfigError(
        f"dataset masks: {where} images/{split} and labels/{split}, or {split}/images and {split}/labels"
        + (f"; type {typed}" if root is not None else "")
        + ("" if more else "; or dataset.val_fraction=0.2 to divide the training data")
    )
