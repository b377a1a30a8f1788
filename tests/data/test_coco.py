"""Oracle: the few records that `files.coco_document` writes, spelled out here."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cvtasks.data.coco import CocoReader
from cvtasks.errors import ConfigError, DataError

from .files import Document, write_coco, write_image

# pycocotools' own, in every mask that it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def test_a_sample_holds_the_image_and_its_labels_with_classes_in_the_order_of_ids(tmp_path: Path) -> None:
    reader = write_coco(tmp_path).read("boxes", "masks")
    assert reader.classes.names == ("cat", "dog", "cup")
    assert reader.classes.category_ids == (3, 7, 90)
    assert reader.notes == []
    assert len(reader) == 3
    sample = reader[0]
    assert sample["image_id"] == 10
    assert sample["orig_size"] == (30, 40)
    assert isinstance(sample["image"], tv_tensors.Image)
    assert sample["image"].shape == (3, 30, 40)
    assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes)
    assert sample["boxes"].dtype == torch.float32
    assert sample["boxes"].canvas_size == (30, 40)
    assert sample["boxes"].tolist() == [[5, 5, 15, 15], [1, 2, 4, 6]]
    assert sample["labels"].tolist() == [1, 2]
    assert sample["labels"].dtype == torch.int64
    assert sample["ignore"].tolist() == [False, True]
    assert isinstance(sample["masks"], tv_tensors.Mask)
    assert sample["masks"].dtype == torch.bool
    expected = torch.zeros(2, 30, 40, dtype=torch.bool)
    expected[0, 5:15, 5:15] = True
    expected[1, 2:6, 1:3] = True
    assert torch.equal(torch.as_tensor(sample["masks"]), expected)


def test_an_image_without_objects_is_kept(tmp_path: Path) -> None:
    sample = write_coco(tmp_path).read("masks")[2]
    assert sample["boxes"].shape == (0, 4)
    assert sample["labels"].shape == sample["ignore"].shape == (0,)
    assert sample["masks"].shape == (0, 30, 40)


def test_truth_is_exact_and_needs_no_image(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    reader = files.read(images=False)
    truth = reader.truth(1)
    assert truth["image_id"] == 11
    assert truth["file"] == "11.jpg"
    assert truth["orig_size"] == (30, 40)
    assert truth["boxes"].dtype == truth["area"].dtype == np.float64
    assert truth["boxes"].tolist() == [[0, 0, 40, 30]]
    assert truth["area"].tolist() == [700.5]
    assert "rles" not in truth
    with pytest.raises(ConfigError, match=r"type dataset\.val\.images=DIR"):
        reader[1]
    assert Path(files.read().truth(1)["file"]) == files.images.resolve() / "11.jpg"


def test_only_the_fields_asked_for_are_read(tmp_path: Path, document: Document) -> None:
    document["annotations"][0]["segmentation"] = [[1, 2, 3]]
    files = write_coco(tmp_path, document)
    assert "masks" not in files.read("boxes")[0]
    with pytest.raises(DataError, match="annotation 1: polygon has an odd number"):
        files.read("masks")


def test_optional_fields_may_be_missing(tmp_path: Path, document: Document) -> None:
    for record in document["annotations"]:
        del record["iscrowd"], record["area"], record["id"]
    del document["annotations"][1]["segmentation"]
    for record in document["images"]:
        del record["width"], record["height"]
    files = write_coco(tmp_path, document)
    reader = files.read()
    assert reader[0]["orig_size"] == (30, 40)
    # From the polygon, the run-lengths (not the box, which has 12), and the box where there is no outline.
    assert reader.truth(0)["area"].tolist() == [100, 8]
    assert reader.truth(1)["area"].tolist() == [1200]
    assert not reader.truth(0)["ignore"].any()
    assert files.read(images=False).truth(1)["boxes"].tolist() == [[0, 0, 40, 30]]
    with pytest.raises(DataError, match=r"labels\.json: annotation 2 of the list: has no segmentation"):
        files.read("masks")


def test_text_is_an_id_too(tmp_path: Path, document: Document) -> None:
    for record in document["images"]:
        record["id"] = f"image {record['id']}"
    for record in document["annotations"]:
        record["image_id"] = f"image {record['image_id']}"
    reader = write_coco(tmp_path, document).read()
    assert [reader[i]["image_id"] for i in range(3)] == ["image 10", "image 11", "image 12"]
    assert len(reader.truth(0)["labels"]) == 2


def test_the_layout_of_2017_is_found_from_the_root_alone(tmp_path: Path, document: Document) -> None:
    (tmp_path / "annotations").mkdir()
    person = {"id": 1, "name": "person", "keypoints": ["nose"], "skeleton": []}
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))
        for record in document["images"]:
            write_image(tmp_path / f"{split}2017" / record["file_name"])
    poses = document | {"categories": [person], "annotations": []}
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(poses))
    for split in ("train", "val"):
        assert len(CocoReader(split=split, root=str(tmp_path))[0]["boxes"]) == 2
    nodes = {"images": None, "annotations": None}
    pose = CocoReader(
        split="val", root=str(tmp_path), fields=frozenset({"keypoints"}), train=nodes, val=nodes
    )
    assert pose.classes.keypoint_names == ("nose",)
    with pytest.raises(
        ConfigError, match=r"person_keypoints_train2017\.json; type dataset\.train\.images=DIR"
    ):
        CocoReader(split="train", root=str(tmp_path), fields=frozenset({"keypoints"}))


def test_folders_are_relative_to_the_root_or_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path)
    val = {"images": "images", "annotations": "labels.json"}
    assert len(CocoReader(split="val", root=str(tmp_path), val=val)) == 3
    monkeypatch.chdir(tmp_path)
    assert CocoReader(split="val", val=val)[0]["orig_size"] == (30, 40)


def test_what_is_missing_on_the_command_line_is_said(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    train = {"images": str(files.images), "annotations": str(files.labels)}
    with pytest.raises(
        ConfigError, match=r"no val data; type dataset\.val\.images=DIR dataset\.val\.annotations=JSON"
    ):
        CocoReader(split="val", train=train)
    with pytest.raises(ConfigError, match=r"type dataset\.train\.images=DIR"):
        CocoReader(split="train", train=train | {"images": None})
    with pytest.raises(ConfigError, match=r"there is no folder .*; type dataset\.train\.images=DIR"):
        CocoReader(split="train", train=train | {"images": "nowhere"})
    with pytest.raises(ConfigError, match=r"there is no file .*; type dataset\.train\.images=DIR"):
        CocoReader(split="train", train=train | {"annotations": "nowhere"})
    with pytest.raises(ConfigError, match=r"dataset\.root=.*no such folder"):
        CocoReader(split="train", root=str(tmp_path / "nowhere"))


def test_classes_restrict_and_order_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    reader = files.read(classes=["cup", "cat"])
    assert reader.classes.names == ("cup", "cat")
    assert reader.classes.category_ids == (90, 3)
    assert reader.truth(0)["labels"].tolist() == [0]
    assert reader.truth(1)["labels"].tolist() == [1]
    assert reader.notes == ["dataset coco: 1 objects of classes that dataset.classes leaves out: dog (1)"]
    with pytest.raises(ConfigError, match=r"no 'dogs'; did you mean dog\?"):
        files.read(classes=["dogs"])


def test_a_class_that_validation_lacks_keeps_its_place_and_gets_an_unused_id(tmp_path: Path) -> None:
    reader = write_coco(tmp_path).read(classes=["bird", "cat"])
    assert reader.classes.names == ("bird", "cat")
    assert reader.classes.category_ids == (91, 3)
    assert reader.truth(1)["labels"].tolist() == [1]


# Keypoints


@pytest.fixture
def poses(document: Document) -> Document:
    names = ["nose", "left_eye", "right_eye", "L-foot", "R-foot", "leftover"]
    document["categories"] = [
        {"id": 3, "name": "ball"},
        {"id": 7, "name": "person", "keypoints": names, "skeleton": [[1, 2], [1, 3], [9, 1]]},
    ]
    one = [10, 12, 2, 11, 13, 1, 0, 0, 0, 39, 29, 2, 0, 0, 2, 7.5, 8, 1]
    document["annotations"] = [
        document["annotations"][0] | {"keypoints": one, "num_keypoints": 5},
        document["annotations"][1],
    ]
    return document


def test_keypoints_are_continuous_and_unlabelled_ones_zero(tmp_path: Path, poses: Document) -> None:
    reader = write_coco(tmp_path, poses).read("keypoints")
    expected = [[10.5, 12.5], [11.5, 13.5], [0, 0], [39.5, 29.5], [0.5, 0.5], [8, 8.5]]
    sample = reader[0]
    assert sample["keypoints"].tolist() == [expected]
    assert sample["keypoints"].dtype == torch.float32
    assert sample["visible"].tolist() == [[2, 1, 0, 2, 2, 1]]
    assert sample["visible"].dtype == torch.int64
    assert reader.truth(0)["keypoints"].tolist() == [expected]
    assert not reader[1]["visible"].any()  # the ball has none
    assert reader[2]["keypoints"].shape == (0, 6, 2)


def test_joints_are_paired_by_left_and_right_and_limbs_counted_from_zero(
    tmp_path: Path, poses: Document
) -> None:
    reader = write_coco(tmp_path, poses).read("keypoints")
    assert reader.classes.flip_index == (0, 2, 1, 4, 3, 5)
    assert reader.classes.skeleton == ((0, 1), (0, 2))
    assert reader.notes == [
        "dataset coco: labels.json: category 'person': 1 limbs of the skeleton name no joint; left out"
    ]


@pytest.mark.parametrize(
    "keypoints",
    [
        [1, 2, 2],
        [1, 2, 3] * 6,
        [float("nan"), 2, 2] * 6,
        [1e308, 2, 2] * 6,
        [500, 2, 2] * 6,
        "x",
        [[1, 2, 2]] * 6,
    ],
)
def test_wrong_keypoints_are_named(tmp_path: Path, poses: Document, keypoints: Any) -> None:
    poses["annotations"][0]["keypoints"] = keypoints
    files = write_coco(tmp_path, poses)
    with pytest.raises(DataError, match="annotation 1: keypoints "):
        files.read("keypoints", "masks")
    reader = files.read("keypoints", "masks", on_error="skip")
    assert len(reader[0]["labels"]) == 0
    assert reader[1]["masks"].sum() == 1200  # outlines and keypoints stay with their own object


# Memory and time


def test_what_workers_share_is_arrays(tmp_path: Path) -> None:
    reader = pickle.loads(pickle.dumps(write_coco(tmp_path).read("masks")))
    assert reader[0]["labels"].tolist() == [1, 2]
    packed = {"Strings", "ndarray", "Segmentations", "NoneType"}
    assert {type(value).__name__ for value in vars(reader._annotations).values()} <= packed
    held = [
        v for o in (reader._annotations.files, reader._annotations.segmentations) for v in vars(o).values()
    ]
    assert all(isinstance(value, np.ndarray) for value in held)


def test_twenty_thousand_annotations_load_in_seconds(tmp_path: Path, document: Document) -> None:
    rng = np.random.default_rng(0)
    document["annotations"] = [
        {"id": n, "image_id": int(rng.integers(10, 13)), "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12,
         "iscrowd": 0, "segmentation": [rng.uniform(0, 30, 40).round(2).tolist()]}
        for n in range(20_000)
    ]  # fmt: skip
    files = write_coco(tmp_path, document)
    start = time.perf_counter()
    reader = files.read("masks")
    assert time.perf_counter() - start < 5  # 0.5 s; a loop through pycocotools takes far longer
    assert len(reader._annotations.labels) == 20_000
