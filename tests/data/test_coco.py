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

from .files import coco_document, write_coco, write_image

# pycocotools' own, in every mask that it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

Document = dict[str, list[dict[str, Any]]]


@pytest.fixture
def document() -> Document:
    return coco_document()


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


# What is wrong


def spoil(document: Document, kind: str, position: int, **values: Any) -> None:
    record = document[kind][position]
    record.update(values)
    for key in [key for key, value in values.items() if value == "delete"]:
        del record[key]


BAD_ANNOTATIONS = [
    ({"bbox": [5, 5, 0, 10]}, "annotation 1: box has no area (x1 = x2 = 5)"),
    ({"bbox": [5, 5, -3, 10]}, "annotation 1: box has no area"),
    (
        {"bbox": [35, 5, 10, 10]},
        "annotation 1: box (35, 5, 45, 15) lies outside the image, which is 40 x 30 pixels",
    ),
    ({"bbox": [5, 5, float("nan"), 10]}, "annotation 1: bbox has a number that is not finite"),
    ({"bbox": [5, 5, float("inf"), 10]}, "annotation 1: bbox has a number that is not finite"),
    ({"bbox": [5, 5, 1e308, 10]}, "too large"),
    ({"bbox": [5, 5, 10**400, 10]}, "too large"),
    ({"bbox": [5, 5, 10]}, "four numbers"),
    ({"bbox": [5, 5, "10", 10]}, "four numbers"),
    ({"bbox": [5, 5, True, 10]}, "four numbers"),
    ({"bbox": None}, "four numbers"),
    ({"category_id": 8}, "annotation 1: category_id 8 is not among the categories"),
    ({"category_id": "7"}, "category_id '7'"),
    ({"category_id": [7]}, "category_id a list"),
    ({"image_id": 99}, "annotation 1: image_id 99 is not among the images"),
    ({"image_id": {}}, "image_id a dict"),
    ({"id": 3}, "annotation 3: this id is there twice"),
    ({"id": [3]}, "its id is neither"),
    ({"iscrowd": 2}, "iscrowd 2"),
    ({"iscrowd": "yes"}, "iscrowd 'yes'"),
    ({"area": float("nan")}, "area nan"),
    ({"area": -1}, "area -1"),
    ({"area": "big"}, "area 'big'"),
    ({"segmentation": [[1, 2, 3]]}, "annotation 1: polygon has an odd number of coordinates (3)"),
    ({"segmentation": []}, "has no segmentation"),
    ({"segmentation": {"size": [40, 30], "counts": [1200]}}, "run-lengths are for (40, 30)"),
]


@pytest.mark.parametrize(("values", "message"), BAD_ANNOTATIONS, ids=lambda v: str(v)[:50])
def test_a_wrong_annotation_is_named_or_skipped(
    tmp_path: Path, document: Document, values: dict[str, Any], message: str
) -> None:
    spoil(document, "annotations", 0, **values)
    files = write_coco(tmp_path, document)
    with pytest.raises(DataError) as caught:
        files.read("masks")
    line = str(caught.value)
    assert line.startswith("dataset coco: labels.json: annotation ")
    assert message in line
    assert line.endswith("; fix the file or set dataset.on_error=skip")
    assert "\n" not in line
    reader = files.read("masks", on_error="skip")
    assert len(reader) == 3
    assert sum(len(reader.truth(i)["labels"]) for i in range(3)) == 2
    assert len(reader.notes) == 1
    assert reader.notes[0].startswith("dataset coco: skipped: labels.json: annotation ")


BAD_IMAGES = [
    ({"id": 11}, "image 11: this id is there twice"),
    ({"id": None}, "image 1 of the list: needs an id"),
    ({"id": 1.5}, "image 1 of the list: needs an id"),
    ({"file_name": "delete"}, "image 10: has no file_name"),
    ({"file_name": 7}, "image 10: has no file_name"),
    ({"file_name": "missing.jpg"}, "image 10: there is no image 'missing.jpg' in "),
    ({"file_name": "../images/10.jpg"}, "image 10: the file name '../images/10.jpg' leads out"),
    ({"width": 0}, "image 10: width 0, height 30: not whole numbers from 1 to 65535"),
    ({"width": 2**31}, "width 2147483648"),
    ({"width": "40"}, "width '40'"),
    ({"width": float("nan")}, "width nan"),
    ({"width": 60_000, "height": 60_000}, "60000 x 60000 is larger"),
]


@pytest.mark.parametrize(("values", "message"), BAD_IMAGES, ids=lambda v: str(v)[:50])
def test_a_wrong_image_record_is_named_or_skipped_with_its_objects(
    tmp_path: Path, document: Document, values: dict[str, Any], message: str
) -> None:
    spoil(document, "images", 0, **values)
    files = write_coco(tmp_path, document)
    with pytest.raises(DataError) as caught:
        files.read()
    assert message in str(caught.value)
    assert "labels.json: image " in str(caught.value)
    reader = files.read(on_error="skip")
    assert len(reader) == 2
    assert len(reader.notes) >= 1
    assert [reader[i]["image_id"] for i in range(2)] == [11, 12]


def test_sizes_that_contradict_the_image_stop_at_the_image_or_are_skipped_beforehand(
    tmp_path: Path, document: Document
) -> None:
    spoil(document, "images", 0, width=50, height=50)
    files = write_coco(tmp_path, document)
    reader = files.read()
    assert reader[1]["image_id"] == 11
    with pytest.raises(DataError, match=r"10\.jpg: is 40 x 30 pixels .* its annotation says 50 x 50"):
        reader[0]
    reader = files.read(on_error="skip")
    assert len(reader) == 2
    assert "image 10: " in reader.notes[0]


def test_a_truncated_image_stops_when_it_is_decoded_or_is_skipped_beforehand(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    path = files.images / "10.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"10\.jpg: is truncated"):
        files.read()[0]
    reader = files.read(on_error="skip")
    assert [reader[i]["image_id"] for i in range(len(reader))] == [11, 12]


@pytest.mark.parametrize("swapped", [False, True])
def test_sizes_may_be_those_of_the_stored_or_the_turned_pixels(
    tmp_path: Path, document: Document, swapped: bool
) -> None:
    document["images"] = document["images"][:1]
    document["annotations"] = document["annotations"][:1]
    spoil(document, "images", 0, width=30 if swapped else 40, height=40 if swapped else 30)
    files = write_coco(tmp_path, document)
    write_image(files.images / "10.jpg", 40, 30, orientation=6)
    size = (40, 30) if swapped else (30, 40)
    assert files.read()[0]["image"].shape == (3, *size)
    assert files.read(on_error="skip").notes == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"images": [', "is not JSON"),
        ("[]", "is a list, as results are"),
        ("7", 'has no list "images"'),
        ('{"images": {}, "annotations": [], "categories": []}', 'has no list "images"'),
        ('{"images": [], "categories": []}', 'has no list "annotations"'),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images in it"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 10_000 + "}", "is not JSON"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_no_data_set_is_one_line(
    tmp_path: Path, text: str, message: str, on_error: str
) -> None:
    files = write_coco(tmp_path)
    files.labels.write_text(text)
    with pytest.raises(DataError) as caught:
        files.read(on_error=on_error)
    assert str(caught.value).startswith("dataset coco: labels.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    files.labels.write_bytes(b'{"images": "\xff\xfe\x80"}')
    with pytest.raises(DataError, match=r"labels\.json: is not JSON"):
        files.read()


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
        [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}],
        [{"id": 1}],
        [{"name": "cat"}],
        [{"id": 1, "name": " "}],
        [{"id": 1, "name": "two\nlines"}],
        [{"id": 1, "name": "\ud800"}],
        [{"id": "1", "name": "cat"}],
        ["cat"],
    ],
)
def test_categories_have_ids_and_names_of_their_own(
    tmp_path: Path, document: Document, categories: list[Any]
) -> None:
    document["categories"] = categories
    with pytest.raises(DataError, match=r"labels\.json: category [12]: "):
        write_coco(tmp_path, document).read(on_error="skip")


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
