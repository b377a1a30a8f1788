"""One person for each sample, by hand: from COCO's lists and from generated scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtasks.data.coco import CocoReader
from cvtasks.data.shapes import ShapesReader
from cvtasks.data.skeletons import SKELETONS
from cvtasks.errors import ConfigError, DataError

from .files import Document, coco_document, write_coco

POSE = frozenset({"keypoints", "visible", "boxes"})


@pytest.fixture
def document() -> Document:
    """Image 10: a labelled person, a crowd, and another labelled person; image 11: one without a joint, and a cup."""
    document = coco_document()
    document["categories"][1] |= {
        "name": "person",
        "keypoints": ["nose", "left", "right"],
        "skeleton": [[2, 3]],
    }
    person: dict[str, Any] = {"category_id": 3, "bbox": [5, 5, 20, 20], "area": 77, "iscrowd": 0}
    document["annotations"] = [
        person | {"id": 1, "image_id": 10, "keypoints": [7, 8, 2, 9, 10, 1, 50, 50, 0]},
        person | {"id": 2, "image_id": 10, "keypoints": [7, 8, 2, 9, 10, 1, 0, 0, 0], "iscrowd": 1},
        person | {"id": 3, "image_id": 11, "keypoints": [0] * 9},
        person | {"id": 4, "image_id": 10, "keypoints": [0, 0, 0, 0, 0, 0, 11, 12, 2], "bbox": [1, 2, 3, 4]},
        {"id": 5, "image_id": 11, "category_id": 90, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
    ]
    return document


def read(folder: Path, document: Document, **options: Any) -> CocoReader:
    return write_coco(folder, document).read(*POSE, **options)


def test_each_person_with_a_labelled_joint_is_a_sample(tmp_path: Path, document: Document) -> None:
    reader = read(tmp_path, document)
    assert reader.classes.names == ("person",)
    assert (reader.classes.flip_index, reader.classes.skeleton) == ((0, 2, 1), ((1, 2),))
    truths = [reader.truth(i) for i in range(len(reader))]
    assert [t["image_id"] for t in truths] == ["10#1", "10#2"]
    assert [t["source_id"] for t in truths] == [10, 10]
    assert truths[0]["keypoints"].tolist() == [[[7.5, 8.5], [9.5, 10.5], [0, 0]]]
    assert truths[0]["visible"].tolist() == [[2, 1, 0]]
    assert truths[1]["boxes"].tolist() == [[1, 2, 4, 6]]
    assert truths[0]["area"].tolist() == [77]
    assert reader.notes == [
        "dataset coco: left out crowds, which are not one person (1)",
        "dataset coco: left out people without a labelled joint (1)",
    ]
    sample = reader[1]
    assert set(sample) == {"image", "image_id", "orig_size", *POSE}
    assert sample["visible"].tolist() == [[0, 0, 2]]


def test_each_person_knows_who_else_is_in_the_image_and_not_judged(
    tmp_path: Path, document: Document
) -> None:
    """The crowd of image 10, and one more without a joint; not the other sample, nor what is no person."""
    nobody: dict[str, Any] = {"category_id": 3, "bbox": [8, 9, 4, 3], "area": 12, "iscrowd": 0}
    document["annotations"] += [
        nobody | {"id": 6, "image_id": 10, "keypoints": [0] * 9},
        nobody | {"id": 7, "image_id": 10, "category_id": 90},
    ]
    reader = read(tmp_path, document)
    for index in range(2):
        bystanders = reader.truth(index)["bystanders"]
        assert bystanders["boxes"].tolist() == [[5, 5, 25, 25], [8, 9, 12, 12]]
        assert bystanders["area"].tolist() == [77, 12]
        assert bystanders["ignore"].tolist() == [True, False]


def test_a_list_of_objects_with_keypoints_is_not_of_one_person(tmp_path: Path, document: Document) -> None:
    reader = write_coco(tmp_path, document).read("keypoints", "visible", "boxes", "labels")
    assert len(reader) == 3
    assert len(reader.truth(0)["keypoints"]) == 3


def test_a_file_without_joints_or_with_two_skeletons_is_one_line(tmp_path: Path, document: Document) -> None:
    document["categories"][2] |= {"keypoints": ["nose", "tail"]}
    with pytest.raises(DataError, match=r"'dog': has other keypoints .*dataset\.classes=\[NAME\]"):
        read(tmp_path, document)
    assert len(read(tmp_path, document, classes=["person"])) == 2
    with pytest.raises(DataError, match=r"labels\.json: no category has keypoints"):
        read(tmp_path, coco_document())


def test_a_joint_outside_the_image_is_unlabelled_and_one_far_off_an_error(
    tmp_path: Path, document: Document
) -> None:
    document["annotations"][0]["keypoints"][:2] = [50, 8]
    reader = read(tmp_path, document)
    assert reader.truth(0)["visible"].tolist() == [[0, 1, 0]]
    assert "left out joints that lie outside the image, of (1): labels.json: image 10" in reader.notes[0]
    document["annotations"][0]["keypoints"][:2] = [500, 8]
    with pytest.raises(DataError, match=r"labels\.json: annotation 1: keypoints .* far outside the image"):
        read(tmp_path, document)


def test_all_unlabelled_or_a_box_without_area_is_one_line(tmp_path: Path, document: Document) -> None:
    document["annotations"][3]["bbox"] = [1, 2, 0, 4]
    with pytest.raises(DataError, match=r"labels\.json: annotation 4: box has no area .*on_error=skip"):
        read(tmp_path, document)
    reader = read(tmp_path, document, on_error="skip")
    assert (len(reader), len(reader.notes)) == (1, 3)
    for record in document["annotations"][:4]:
        record["keypoints"] = [0] * 9
    for on_error in ("raise", "skip"):
        document["annotations"][3]["bbox"] = [1, 2, 3, 4]
        with pytest.raises(DataError, match=r"labels\.json: there is no person with a labelled joint"):
            read(tmp_path, document, on_error=on_error)


def test_a_skeleton_can_be_named(tmp_path: Path, document: Document) -> None:
    with pytest.raises(DataError, match=r"labels\.json: has 3 keypoints, and the skeleton of .* 14"):
        read(tmp_path, document, skeleton="crowdpose")
    names = ["left_shoulder", *(f"j{n}" for n in range(13))]
    document["categories"][1] |= {"keypoints": names, "skeleton": [[16, 14]]}
    for record in document["annotations"][:4]:
        record["keypoints"] = [7, 8, 2] * 14
    classes = read(tmp_path, document, skeleton="crowdpose").classes
    assert classes.keypoint_names == SKELETONS["crowdpose"].names
    assert classes.skeleton == SKELETONS["crowdpose"].class_info["skeleton"]


def test_one_object_or_person_and_masks_are_not_read_together(tmp_path: Path, document: Document) -> None:
    with pytest.raises(ConfigError, match="one object in a sample, or masks"):
        write_coco(tmp_path, coco_document()).read("label", "boxes", "masks", on_error="skip")


def test_shapes_have_one_person_as_a_scene() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.scene=localization: .* set dataset\.scene=pose"):
        ShapesReader(split="val", fields=POSE, scene="localization")
    reader, whole = (ShapesReader(split="val", scene="pose", **kw) for kw in ({"fields": POSE}, {}))  # type: ignore[arg-type]
    truth = reader.truth(3)
    assert np.array_equal(truth["keypoints"], whole.truth(3)["keypoints"])
    assert truth["keypoints"].dtype == np.float64
    assert truth["area"].tolist() == [whole[3]["masks"].sum()]
    assert truth["source_id"] == truth["image_id"] == 3
    assert np.isnan(truth["head_size"])
    assert {"labels", "label", "ignore"}.isdisjoint(truth)
    assert set(reader[3]) == {"image", "image_id", "orig_size", *POSE}
