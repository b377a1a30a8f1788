"""Small data sets with one object an image on disk: ImageNet's layout and Oxford-IIIT Pet's, images of 40 x 30."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvtasks.data.imagenet_loc import ImageNetLocReader
from cvtasks.data.pets import PetsReader

from .files import voc_object, voc_xml, write_image

ONE = frozenset({"label", "boxes"})


def labels_of(reader: Any) -> dict[Any, str]:
    """The class of each image, by its id"""
    truths = [reader.truth(i) for i in range(len(reader))]
    return {truth["image_id"]: reader.classes.names[truth["label"]] for truth in truths}


def write_imagenet(root: Path) -> Path:
    inner = root / "ILSVRC"
    boxes = {
        "train/n02/n02_1": ["n02"],
        "train/n02/n02_7": ["n02", "n02"],
        "train/n01/n01_3": ["n01"],
        "val/v_1": ["n01"],
    }
    for stem, synsets in boxes.items():
        write_image(inner / "Data" / "CLS-LOC" / f"{stem}.jpg").rename(
            inner / "Data" / "CLS-LOC" / f"{stem}.JPEG"
        )
        xml = inner / "Annotations" / "CLS-LOC" / f"{stem}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        objects = [voc_object((5, 5, 10 + 9 * n, 20), synset) for n, synset in enumerate(synsets)]
        xml.write_text(voc_xml(Path(stem).name, *objects))  # without the ending, as ImageNet has it
    (root / "LOC_synset_mapping.txt").write_text(
        "n02 crane, wading bird\nn01 tench, Tinca tinca\nn03 crane\n"
    )
    return root


def read_imagenet(folder: Path, **options: Any) -> ImageNetLocReader:
    return ImageNetLocReader(**{"split": "train", "root": str(folder), "fields": ONE} | options)


def write_pets(root: Path) -> Path:
    stems = ["Abyssinian_1", "Abyssinian_2", "great_dane_7", "great_dane_8", "great_dane_9"]
    (root / "annotations" / "xmls").mkdir(parents=True)
    for stem in stems:
        write_image(root / "images" / f"{stem}.jpg")
        if stem != "great_dane_9":
            name = "cat" if stem[0].isupper() else "dog"  # the files' own rule
            xml = voc_xml(f"{stem}.jpg", voc_object((6, 6, 15, 25), name))
            (root / "annotations" / "xmls" / f"{stem}.xml").write_text(xml)
    lines = ["#Image CLASS-ID SPECIES BREED ID", *(f"{stem} 1 1 1" for stem in stems)]
    (root / "annotations" / "trainval.txt").write_text("\n".join(lines))
    (root / "annotations" / "test.txt").write_text("great_dane_9 1 1 1\n")
    return root


def read_pets(folder: Path, **options: Any) -> PetsReader:
    return PetsReader(**{"split": "train", "root": str(folder), "fields": ONE} | options)
