"""Oxford-IIIT Pet's layout: breeds from the files' names, species from their objects, and which images have boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvtasks.errors import ConfigError, DataError

from .files import voc_object, voc_xml
from .localization_files import labels_of, read_pets, write_pets


def test_pets_are_told_by_breed_or_by_species(tmp_path: Path) -> None:
    whole = read_pets(write_pets(tmp_path), val_fraction=None)
    assert whole.classes.names == ("Abyssinian", "great dane")
    assert labels_of(whole)["great_dane_7"] == "great dane"
    # By hand: VOC counts from 1 and includes the last pixel.
    assert whole.truth(0)["boxes"].tolist() == [[5, 5, 15, 25]]
    assert whole[0]["image"].shape == (3, 30, 40)
    species = read_pets(tmp_path, val_fraction=None, labels="species")
    assert species.classes.names == ("cat", "dog")
    assert labels_of(species)["great_dane_7"] == "dog"


def test_images_without_boxes_are_left_out_and_a_part_of_the_rest_is_for_validation(tmp_path: Path) -> None:
    whole = read_pets(write_pets(tmp_path), val_fraction=None)
    assert whole.notes == ["dataset pets: left out images of trainval.txt without an XML file (1)"]
    train, val = (
        labels_of(read_pets(tmp_path, split=split, val_fraction=0.25)) for split in ("train", "val")
    )
    assert sorted([*train, *val]) == sorted(labels_of(whole))
    assert (len(train), len(val)) == (3, 1)
    with pytest.raises(DataError, match=r"test\.txt: none of its images has an XML file in "):
        read_pets(tmp_path, split="val", val_fraction=None)


def test_an_image_with_no_object_or_several_is_named_or_skipped(tmp_path: Path) -> None:
    root = write_pets(tmp_path)
    xml = root / "annotations" / "xmls" / "Abyssinian_2.xml"
    cats = [voc_object((6, 6, 15, 25)), voc_object((1, 1, 40, 30))]
    for objects, message in (
        (cats, r"Abyssinian_2\.xml: has 2 objects, .*set dataset\.select=largest"),
        ([], r"Abyssinian_2\.xml: has no object, and this task takes one"),
        ([voc_object((6, 6, 15, 3))], r"Abyssinian_2\.xml: object 1: box has no area"),
        ([voc_object((6, 6, 99, 25))], r"Abyssinian_2\.xml: object 1: .* outside the image.* 40 x 30"),
    ):
        xml.write_text(voc_xml("Abyssinian_2.jpg", *objects))
        with pytest.raises(DataError, match=message):
            read_pets(root, val_fraction=None)
        skipped = read_pets(root, val_fraction=None, on_error="skip")
        assert list(labels_of(skipped)) == ["Abyssinian_1", "great_dane_7", "great_dane_8"]
        assert "Abyssinian_2.xml" in skipped.notes[0]
    xml.write_text(voc_xml("Abyssinian_2.jpg", *cats))
    largest = read_pets(root, val_fraction=None, select="largest")
    assert largest.truth(1)["boxes"].tolist() == [[0, 0, 40, 30]]


def test_upper_case_endings_are_found(tmp_path: Path) -> None:
    root = write_pets(tmp_path)
    for path in [*(root / "images").iterdir(), *(root / "annotations" / "xmls").iterdir()]:
        path.rename(path.with_suffix(path.suffix.upper()))
    reader = read_pets(root, val_fraction=None)
    assert len(reader) == 4
    assert reader[3]["image"].shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Abyssinian_1 1 1 1\nAbyssinian_1 1 1 1", r"line 2: 'Abyssinian_1' is there twice"),
        ("Abyssinian_1 1 1 1\nAbyssinian 1 1 1", r"line 2: 'Abyssinian' is no breed and number"),
    ],
)
def test_a_wrong_line_of_the_list_is_named(tmp_path: Path, lines: str, message: str) -> None:
    root = write_pets(tmp_path)
    (root / "annotations" / "trainval.txt").write_text(lines)
    with pytest.raises(DataError, match=r"trainval\.txt: " + message):
        read_pets(root)
    assert len(read_pets(root, val_fraction=None, on_error="skip")) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    typed = r"type dataset\.root=DIR for a folder with annotations/trainval\.txt"
    with pytest.raises(ConfigError, match=r"there is no .*xmls; " + typed):
        read_pets(write_pets(tmp_path) / "images")
    with pytest.raises(ConfigError, match="dataset pets: " + typed):
        read_pets(tmp_path, root=None)
