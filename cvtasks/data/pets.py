"""Oxford-IIIT Pet (Parkhi et al., CVPR 2012): cats and dogs of 37 breeds, one in each image, with a box around its head.

    cvtasks train task=localization dataset=pets dataset.root=/data/oxford-iiit-pet

    annotations/trainval.txt, test.txt: lines `Abyssinian_100 1 1 1` (image, breed, species, breed within the species)
    annotations/xmls/Abyssinian_100.xml: VOC's XML, whose object is called cat or dog
    images/Abyssinian_100.jpg

Only images of trainval have boxes (3,686 of them), so a part of these is for validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cvtasks.config.schema import Range
from cvtasks.data.annotations import Findings, OnError
from cvtasks.data.labelled import LabelledImages
from cvtasks.data.paths import Folder, quoted
from cvtasks.data.single import Select, choose_objects, of_one_object
from cvtasks.data.splits import part, read_list
from cvtasks.data.voc_xml import read_xml
from cvtasks.errors import ConfigError
from cvtasks.types import Split


class PetsReader(LabelledImages):
    """One split of Oxford-IIIT Pet (protocol `Reader`). An image's id is its file's name without the ending.

    root: holds annotations/ (trainval.txt, test.txt, xmls/) and images/.
    labels: the classes are the 37 breeds, or the two species.
    val_fraction: this part of trainval.txt is for validation; null: what test.txt lists and has boxes.
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
        labels: Literal["breed", "species"] = "breed",
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = 0.2,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
        select: Select = "one",
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("pets", on_error)
        base = Path(root or "").expanduser()
        xmls, images = base / "annotations" / "xmls", base / "images"
        source = "test.txt" if split == "val" and val_fraction is None else "trainval.txt"
        listed = base / "annotations" / source
        for path, there in ((xmls, xmls.is_dir()), (images, images.is_dir()), (listed, listed.is_file())):
            if root is None or not there:
                lacking = "" if root is None else f"there is no {path}; "
                raise ConfigError(
                    f"dataset pets: {lacking}type dataset.root=DIR for a folder with annotations/{source}, "
                    "annotations/xmls and images"
                )
        annotations = Folder(xmls)
        stems = _stems(listed, annotations, findings)
        if val_fraction is not None:
            stems = part(stems, split, val_fraction, split_seed)
        found, self.classes = read_xml(
            annotations,
            Folder(images),
            stems,
            split=split,
            one_based=True,
            classes=classes,
            findings=findings,
            class_of=lambda stem, name: _breed(stem) if labels == "breed" else name,
        )
        self._folder = Folder(images).path
        self._labels = found
        if of_one_object(fields):
            self._labels = choose_objects(
                found, select, findings, xmls, lambda i: f"{found.image_id(i)}.xml", fields=fields
            )
        self.notes = findings.notes()


def _breed(stem: str) -> str:
    """`great_pyrenees_12` -> great pyrenees"""
    return stem.rpartition("_")[0].replace("_", " ")


def _stems(path: Path, annotations: Folder, findings: Findings) -> list[str]:
    """The images of a list that have boxes."""
    known = {name[:-4] for name in annotations.names() if name.lower().endswith(".xml")}
    stems: dict[str, int] = {}
    for number, line in read_list(path, findings).items():
        stem = line.split()[0]
        if stem.startswith("#"):
            continue
        if stem in stems or not _breed(stem):
            why = "is there twice" if stem in stems else "is no breed and number, as Abyssinian_100"
            findings.error(f"{path.name}: line {number}", f"{quoted(stem)} {why}")
            continue
        stems[stem] = number
    boxed = [stem for stem in stems if stem in known]
    if len(boxed) < len(stems):
        findings.note(f"left out images of {path.name} without an XML file ({len(stems) - len(boxed)})")
    if not boxed:
        raise findings.fatal(f"{path.name}: none of its images has an XML file in {annotations.path}")
    return boxed
