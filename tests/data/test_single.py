"""One object for each image, by hand: of several the largest, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cvtasks.data.shapes import ShapesReader
from cvtasks.errors import ConfigError, DataError

from .files import Document, read_voc, voc_object, voc_xml, write_coco, write_image, write_voc
from .localization_files import ONE, labels_of


def test_a_sample_of_one_object_has_a_label_and_one_box(tmp_path: Path) -> None:
    reader = read_voc(write_voc(tmp_path, train=["a", "b"]), fields=ONE)
    sample, truth = reader[1], reader.truth(1)
    assert set(sample) == {"image", "image_id", "orig_size", "boxes", "label"}
    assert (sample["label"].shape, sample["label"].dtype, int(sample["label"])) == ((), torch.int64, 1)
    assert sample["boxes"].tolist() == truth["boxes"].tolist() == [[5, 5, 15, 25]]
    assert truth["boxes"].dtype == np.float64
    assert truth["label"] == 1
    assert type(truth["label"]) is int


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """a: a small cat, a large dog, and a larger one that is difficult. b: one cat. c: nothing but a difficult dog."""
    root = write_voc(tmp_path / "voc", train=["a", "b", "c"])
    hard = voc_object((1, 1, 40, 30), "dog", "<difficult>1</difficult>")
    objects = {"a": [voc_object((1, 1, 5, 5)), voc_object((3, 3, 20, 20), "dog"), hard], "c": [hard]}
    for stem, own in objects.items():
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(f"{stem}.jpg", *own))
    return root


def test_of_several_objects_none_is_taken_or_the_largest(several: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.xml: has 2 objects, .* set dataset\.select=largest; .*on_error=skip"
    ):
        read_voc(several, fields=ONE)
    with pytest.raises(DataError, match=r"c\.xml: has no object, and this task takes one; .*on_error=skip"):
        read_voc(several, fields=ONE, select="largest")
    skipped = read_voc(several, fields=ONE, on_error="skip")
    assert labels_of(skipped) == {"b": "dog"}  # the files' second image has one
    assert len(skipped.notes) == 2
    largest = read_voc(several, fields=ONE, select="largest", on_error="skip")
    assert labels_of(largest) == {"a": "dog", "b": "dog"}
    assert largest.truth(0)["boxes"].tolist() == [[2, 2, 20, 20]]
    # As a list of objects, all are there.
    assert [len(read_voc(several).truth(i)["boxes"]) for i in range(3)] == [3, 1, 1]


def test_an_image_whose_classes_are_left_out_has_no_object(several: Path) -> None:
    reader = read_voc(several, fields=ONE, classes=["cat"], on_error="skip")
    assert labels_of(reader) == {"a": "cat"}


def test_coco_counts_no_crowd_and_takes_the_largest_area(tmp_path: Path, document: Document) -> None:
    files = write_coco(tmp_path, document)
    with pytest.raises(DataError, match=r"labels\.json: image 12: has no object, and this task takes one"):
        files.read(*ONE)
    reader = files.read(*ONE, on_error="skip")
    assert labels_of(reader) == {10: "dog", 11: "cat"}
    assert reader[0]["boxes"].tolist() == [[5, 5, 15, 15]]
    # The area that the file gives decides, not that of the box.
    document["annotations"].append(
        {"id": 9, "image_id": 10, "category_id": 3, "bbox": [0, 0, 30, 30], "area": 99, "iscrowd": 0}
    )
    files = write_coco(tmp_path, document)
    assert labels_of(files.read(*ONE, on_error="skip")) == {11: "cat"}
    assert labels_of(files.read(*ONE, on_error="skip", select="largest")) == {10: "dog", 11: "cat"}


def test_shapes_have_one_object_as_a_scene_or_the_largest_of_many() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.scene=detection: .* dataset\.scene=localization"):
        ShapesReader(split="val", fields=ONE)
    reader = ShapesReader(split="val", fields=ONE, scene="localization")
    assert reader[0]["boxes"].shape == (1, 4)
    # Oracle: the same scenes as lists of objects.
    single, many = ShapesReader(split="val", fields=ONE, select="largest"), ShapesReader(split="val")
    empty = 0
    for index in range(60):
        all_of_it, truth, sample = many.truth(index), single.truth(index), single[index]
        assert sample["boxes"].tolist() == truth["boxes"].tolist()
        assert int(sample["label"]) == truth["label"]
        if len(all_of_it["boxes"]):
            largest = all_of_it["area"].argmax()
            assert truth["boxes"].tolist() == [all_of_it["boxes"][largest].tolist()]
            assert truth["label"] == all_of_it["labels"][largest]
            assert truth["area"].tolist() == [all_of_it["area"][largest]]
        else:
            empty += 1
            assert len(truth["boxes"]) == 1
    assert empty


# Images and XML side by side


def side_by_side(root: Path, **folders: list[str]) -> Path:
    for folder, stems in folders.items():
        for stem in stems:
            write_image(root / folder / f"{stem}.jpg").rename(root / folder / f"{stem}.JPG")
            (root / folder / f"{stem}.xml").write_text(
                voc_xml(f"{stem}.JPG", voc_object((6, 6, 15, 25), "king"))
            )
    return root


def test_folders_train_and_test_with_lists_of_file_names_need_root_alone(tmp_path: Path) -> None:
    root = side_by_side(tmp_path, train=["a", "b", "c"], test=["d", "e"])
    (root / "train.txt").write_text("a.JPG\nc.JPG\n")
    (root / "test.txt").write_text("e.JPG\n")
    train, val = (read_voc(root, split=split, fields=ONE) for split in ("train", "val"))
    assert (list(labels_of(train)), list(labels_of(val))) == (["a", "c"], ["e"])
    assert train.notes == []
    assert val.notes == ["dataset voc: there is no folder val; the val data is in test"]
    assert train[0]["image"].shape == (3, 30, 40)
    side_by_side(tmp_path, val=["f", "g"])  # without a list, all of the folder
    assert list(labels_of(read_voc(root, split="val", fields=ONE))) == ["f", "g"]
    assert list(labels_of(read_voc(root, split="val", val={"split": "test"}, fields=ONE))) == ["e"]
    parts = [read_voc(root, split=s, val_fraction=0.5, fields=ONE) for s in ("train", "val")]
    assert sorted(stem for each in parts for stem in labels_of(each)) == ["a", "c"]
