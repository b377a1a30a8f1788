"""Label maps made of objects: generated scenes, COCO's outlines, and VOC's own label images.

Oracle: the masks of the same objects, painted one by one here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvtasks.data.object_maps import drawn, with_background
from cvtasks.data.shapes import ShapesReader
from cvtasks.data.voc import VocReader
from cvtasks.data.voc_segmentation import VOC_CLASSES
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import ClassInfo

from .files import Document, label_values, read_voc, write_coco, write_image, write_label, write_voc

ONLY_MAP = frozenset({"segmentation"})
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own


@settings(max_examples=50)
@given(seed=st.integers(0, 9999), n=st.integers(0, 6))
def test_each_pixel_is_of_the_smallest_object_on_it_and_crowds_lie_below_all(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    masks, labels = rng.random((n, 5, 6)) < 0.4, rng.integers(0, 9, n)
    ignore, area = rng.random(n) < 0.3, rng.permutation(n).astype(float)
    found = drawn(masks, labels, ignore, area)
    assert found.dtype == np.uint8
    for y, x in np.ndindex(5, 6):
        here = [k for k in range(n) if masks[k, y, x]]
        objects = [k for k in here if not ignore[k]]
        smallest = min(objects, key=lambda k: area[k], default=None)
        expected = labels[smallest] + 1 if smallest is not None else 255 if here else 0
        assert found[y, x] == expected


def test_the_ground_comes_before_the_objects() -> None:
    info = with_background(ClassInfo(("cat", "dog"), (3, 7), colors=((9, 9, 9), (8, 8, 8))))
    assert info.names == ("background", "cat", "dog")
    assert info.category_ids == (0, 3, 7)
    assert info.colors[:2] == ((0, 0, 0), (9, 9, 9))
    assert with_background(ClassInfo(("cat",), (0,))).category_ids == (-1, 0)
    with pytest.raises(ConfigError, match="one of the classes is called background"):
        with_background(info)
    with pytest.raises(ConfigError, match="254 classes and the ground"):
        with_background(ClassInfo(tuple(map(str, range(254)))))


# Generated scenes


def test_shapes_have_the_ground_as_a_class_where_the_map_alone_is_asked_for() -> None:
    objects, pixels = ShapesReader(split="val"), ShapesReader(split="val", fields=ONLY_MAP)
    assert pixels.classes.names == ("background", *objects.classes.names)
    assert objects.classes.names[0] == "circle"
    for index in range(8):
        sample, whole = pixels[index], objects[index]
        assert sample.keys() == {"image", "image_id", "orig_size", "segmentation"}
        assert torch.equal(sample["segmentation"], whole["segmentation"])
        assert torch.equal(sample["image"], whole["image"])
        truth = pixels.truth(index)
        assert truth.keys() == {"image_id", "file", "orig_size", "segmentation"}
        assert np.array_equal(truth["segmentation"], whole["segmentation"].numpy())
        for label, mask in zip(whole["labels"], whole["masks"], strict=True):
            assert (sample["segmentation"][mask] == label + 1).all()


def test_shapes_with_the_classes_of_a_trained_model_are_the_same_shapes() -> None:
    train = ShapesReader(split="train", fields=ONLY_MAP, classes=["ring", "star"])
    assert train.classes.names == ("background", "ring", "star")
    val = ShapesReader(split="val", fields=ONLY_MAP, classes=list(train.classes.names))
    assert val.classes == train.classes
    assert {int(v) for i in range(9) for v in val[i]["segmentation"].unique()} == {0, 1, 2}
    with pytest.raises(ConfigError, match="cannot draw 'background'"):
        ShapesReader(split="val", classes=list(train.classes.names))


# COCO


def test_coco_objects_are_painted_and_crowds_are_void(tmp_path: Path, document: Document) -> None:
    document["annotations"].append(document["annotations"][0] | {
        "id": 4, "category_id": 3, "bbox": [0, 0, 12, 12], "area": 144, "segmentation": [[0, 0, 12, 0, 12, 12, 0, 12]]
    })  # fmt: skip
    files = write_coco(tmp_path, document)
    reader = files.read("segmentation")
    assert reader.classes.names == ("background", "cat", "dog", "cup")
    assert reader.classes.category_ids == (0, 3, 7, 90)
    expected = np.zeros((30, 40), np.uint8)
    expected[2:6, 1:3] = 255  # the crowd, which the cat covers
    expected[:12, :12] = 1
    expected[5:15, 5:15] = 2  # of 100 pixels, where the cat has 144
    sample = reader[0]
    assert sample.keys() == {"image", "image_id", "orig_size", "segmentation"}
    assert isinstance(sample["segmentation"], tv_tensors.Mask)
    assert sample["segmentation"].tolist() == expected.tolist()
    truth = files.read("segmentation", images=False).truth(0)
    assert truth.keys() == {"image_id", "file", "orig_size", "segmentation"}
    assert truth["segmentation"].tolist() == expected.tolist()
    assert not reader[2]["segmentation"].any()


def test_coco_classes_that_are_left_out_are_ground(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    train = files.read("segmentation", classes=["cup", "cat"])
    assert train.classes.names == ("background", "cup", "cat")
    assert np.unique(train.truth(0)["segmentation"]).tolist() == [0, 255]
    assert np.unique(train.truth(1)["segmentation"]).tolist() == [2]
    assert files.read("segmentation", classes=list(train.classes.names)).classes == train.classes


def test_coco_objects_beside_the_map_keep_their_own_classes(tmp_path: Path) -> None:
    reader = write_coco(tmp_path).read("boxes", "labels", "segmentation")
    assert reader.classes.names == ("cat", "dog", "cup")
    assert reader[1]["labels"].tolist() == [0]
    assert (
        reader[1]["segmentation"].unique().tolist()
        == [1]
        == np.unique(reader.truth(1)["segmentation"]).tolist()
    )
    assert "boxes" in reader.truth(1)


# VOC


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = write_voc(tmp_path / "voc", train=["a", "b", "c"], val=["d"])
    palette = np.zeros((256, 3), np.uint8)
    palette[:21] = [[k, 2 * k, 255 - k] for k in range(21)]
    for stem, ids in {"a": (0, 15), "b": (8, 255, 0), "d": (20,)}.items():
        write_label(root / "SegmentationClass" / f"{stem}.png", label_values(*ids), palette)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir()
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("d\n")
    return root


def read(root: Path, **options: Any) -> VocReader:
    return read_voc(root, **{"fields": ONLY_MAP} | options)


def test_vocs_label_images_are_read_by_their_own_lists(voc: Path) -> None:
    reader = read(voc)
    assert [reader.truth(i)["image_id"] for i in range(len(reader))] == ["b", "a"]
    assert reader.classes.names == ("background", *VOC_CLASSES)
    assert reader.classes.category_ids == tuple(range(21))
    assert reader.classes.colors[:3] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert reader[0]["segmentation"].tolist() == label_values(8, 255, 0).tolist()
    assert np.unique(read(voc, split="val").truth(0)["segmentation"]).tolist() == [20]
    assert read(voc, split="val", classes=list(reader.classes.names)).classes == reader.classes
    assert read_voc(voc).classes.names == ("cat", "dog")  # boxes are as they were


def test_voc_classes_that_are_left_out_are_ground(voc: Path) -> None:
    reader = read(voc, classes=["person", "cow"])
    assert reader.classes.names == ("background", "person", "cow")
    assert reader.classes.category_ids == (0, 15, 10)
    assert [np.unique(reader.truth(i)["segmentation"]).tolist() for i in range(2)] == [[0, 255], [0, 1]]
    with pytest.raises(ConfigError, match="did you mean person"):
        read(voc, classes=["persons"])


def test_other_folders_and_lists_of_voc_may_be_named(voc: Path) -> None:
    (voc / "SegmentationClass").rename(voc / "SegmentationClassAug")
    with pytest.raises(
        ConfigError, match=r"there is no .*SegmentationClass; type dataset\.root=DIR .* dataset=masks"
    ):
        read(voc)
    (voc / "trainaug.txt").write_text("a\nb\nd\n")
    own = {"annotations": "SegmentationClassAug", "list": "trainaug.txt"}
    assert len(read(voc, train=own)) == 3
    parts = [read(voc, train=own, split=split, val_fraction=0.3) for split in ("train", "val")]
    assert sorted(len(part) for part in parts) == [1, 2]


def test_wrong_voc_label_images_are_named_or_skipped(voc: Path) -> None:
    write_label(voc / "SegmentationClass" / "a.png", label_values(0, 21))
    with pytest.raises(
        DataError, match=r"a\.png: pixel x=20, y=0 has the id 21; expected 0 to 20, or 255 for void"
    ):
        read(voc)
    reader = read(voc, on_error="skip")
    assert (len(reader), len(reader.notes)) == (1, 1)
    write_image(voc / "JPEGImages" / "b.jpg", width=41)
    with pytest.raises(DataError, match="is 41 x 30 pixels"):
        read(voc)


def test_voc_has_boxes_or_label_images_for_a_task() -> None:
    with pytest.raises(ConfigError, match="not both"):
        VocReader(split="train", fields=frozenset({"boxes", "segmentation"}))
