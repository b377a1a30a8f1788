"""ImageNet's classification and localization data (ILSVRC 2012, Russakovsky et al., IJCV 2015) as its archive unpacks.

    cvtasks train task=localization dataset=imagenet_loc dataset.root=/data/imagenet

    ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_18.xml    ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_18.JPEG
    ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml     ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG
    LOC_synset_mapping.txt: n01440764 tench, Tinca tinca           LOC_val_solution.csv, LOC_train_solution.csv

Boxes are those of the image's own class. Learnt and judged is the largest; ILSVRC counts a guess that fits any of them.
Deviation: training images without boxes (LOC has them for 544,546 of 1,281,167) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from cvtasks.data.annotations import Findings, OnError
from cvtasks.data.labelled import LabelledImages
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.single import Select, choose_objects, of_one_object
from cvtasks.data.splits import read_list
from cvtasks.data.voc_xml import BoxedObject, Document, read_documents, read_xml
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Split

KIND = "CLS-LOC"


class ImageNetSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    annotations: str | None
    """The folder of XML files, or a file as LOC_val_solution.csv"""


class ImageNetLocReader(LabelledImages):
    """One split of ImageNet with boxes (protocol `Reader`). An image's id is its name, with the folder of its class.

    The classes are the synsets that occur, in the order of LOC_synset_mapping.txt, under the first name that it gives
    each (with the synset where two have the same); without that file, the synsets themselves.

    root: with ILSVRC/ in it nothing else is needed, nor with Annotations/ and Data/ themselves. Where there are no XML
        files of a split, LOC_train_solution.csv or LOC_val_solution.csv is read.
    train, val: any other layout.
    select: which object, where a task takes one.
    on_error: raise stops at the first record that is wrong; skip leaves out the image and says so in `notes`.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "ignore", "label"})

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = provides,
        root: str | None = None,
        train: ImageNetSplit | None = None,
        val: ImageNetSplit | None = None,
        classes: Sequence[str] | None = None,
        select: Select = "largest",
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("imagenet_loc", on_error)
        base = root_folder(root)
        labels, images = _place(root, base, split, (train if split == "train" else val) or {})
        names = _names(base, findings)
        order = {name: position for position, name in enumerate(names.values())}
        options: dict[str, Any] = {
            "split": split,
            "one_based": False,
            "classes": classes,
            "findings": findings,
            "class_of": lambda stem, name: names.get(name, name),
            "in_order": lambda name: (order.get(name, len(order)), name),
        }
        if labels.is_dir():
            annotations = Folder(labels)
            stems = [name[:-4] for name in annotations.tree() if name.lower().endswith(".xml")]
            found, self.classes = read_xml(annotations, images, stems, **options)
            record: Callable[[str], str] = lambda stem: f"{stem}.xml"  # noqa: E731
        else:
            lines = _solution(labels, findings)
            record = lambda stem: f"{labels.name}: line {lines[stem][0]}"  # noqa: E731
            document: Callable[[str], Document] = lambda stem: _document(lines[stem][1])  # noqa: E731
            found, self.classes = read_documents(
                document, list(lines), images, record=record, source=labels, **options
            )
        self._folder = images.path
        self._labels = found
        if of_one_object(fields):
            self._labels = choose_objects(
                found, select, findings, labels, lambda i: record(str(found.image_id(i))), fields=fields
            )
        self.notes = findings.notes()


def _place(root: str | None, base: Path, split: Split, own: ImageNetSplit) -> tuple[Path, Folder]:
    """The XML files' folder or the CSV file, and the images' folder."""
    inner = base / "ILSVRC" if (base / "ILSVRC").is_dir() else base
    usual = [inner / "Annotations" / KIND / split, base / f"LOC_{split}_solution.csv"]
    named, images = own.get("annotations"), own.get("images")
    labels = base / Path(named).expanduser() if named else next((p for p in usual if p.exists()), usual[0])
    folder = base / Path(images).expanduser() if images else inner / "Data" / KIND / split
    if not labels.exists() or not folder.is_dir():
        lacking = folder if labels.exists() else labels
        given = "" if root is None else f"there is no {lacking}; "
        raise ConfigError(
            f"dataset imagenet_loc: {given}type dataset.root=DIR for a folder with ILSVRC/Annotations/{KIND}/{split} and "
            f"ILSVRC/Data/{KIND}/{split}, or dataset.{split}.annotations=DIR dataset.{split}.images=DIR"
        )
    return labels, Folder(folder)


def _names(base: Path, findings: Findings) -> dict[str, str]:
    """The class of each synset, in the mapping's order; nothing without that file."""
    path = base / "LOC_synset_mapping.txt"
    if not path.is_file():
        return {}
    first: dict[str, str] = {}
    for number, line in read_list(path, findings).items():
        synset, _, names = line.partition(" ")
        if not names:
            raise findings.fatal(
                f"{path.name}: line {number} is {quoted(line)}; expected a synset and its names"
            )
        first[synset] = names.split(",")[0].strip()
    count = Counter(first.values())
    return {synset: name if count[name] == 1 else f"{name} ({synset})" for synset, name in first.items()}


def _solution(path: Path, findings: Findings) -> dict[str, tuple[int, str]]:
    """The number and the boxes of each line, by the image's name, with the folder of its class if it has one."""
    lines: dict[str, tuple[int, str]] = {}
    for number, line in read_list(path, findings).items():
        image, _, boxes = line.partition(",")
        if image == "ImageId":
            continue
        stem = f"{image.rpartition('_')[0]}/{image}" if image.startswith("n") else image
        if stem in lines:
            findings.error(f"{path.name}: line {number}", f"{quoted(image)} is there twice")
            continue
        lines[stem] = (number, boxes)
    return lines


def _document(boxes: str) -> Document:
    """Of `n03995372 85 1 499 272 n03995372 ...`. Raises DataError."""
    words = boxes.split()
    if len(words) % 5:
        raise DataError("its boxes are not times a synset and four numbers")
    objects, problems = [], []
    for number, start in enumerate(range(0, len(words), 5), 1):
        try:
            x1, y1, x2, y2 = map(float, words[start + 1 : start + 5])
        except ValueError:
            problems.append((number, "its box is not four numbers"))
            continue
        objects.append(BoxedObject(number, words[start], (x1, y1, x2, y2)))
    return Document("", None, objects, problems)
