"""Oracle: stripes of ids that `files.write_masks` paints, and what the test says they mean."""

from __future__ import annotations

import inspect
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision import tv_tensors

from cvtasks.config.compose import compose
from cvtasks.data import label_maps
from cvtasks.data.label_images import LabelDecoder
from cvtasks.data.masks import MasksReader
from cvtasks.errors import ConfigError, DataError

from .files import label_values, read_masks, write_image, write_label, write_masks

CONF = Path(__file__).parents[2] / "conf" / "dataset"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "set", train={"a": (0, 2), "b": (1, 255, 0)}, val={"c": (2, 1)})


def wrong(root: Path, kind: type[Exception] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_masks(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def unique(reader: MasksReader) -> list[list[int]]:
    return [np.unique(reader.truth(i)["segmentation"]).tolist() for i in range(len(reader))]


def test_a_sample_holds_the_image_and_its_label_map(root: Path) -> None:
    reader = read_masks(root)
    assert len(reader) == 2
    assert reader.notes == []
    sample = reader[1]
    assert (sample["image_id"], sample["orig_size"]) == ("b", (30, 40))
    assert sample["image"].shape == (3, 30, 40)
    assert isinstance(sample["segmentation"], tv_tensors.Mask)
    assert sample["segmentation"].dtype == torch.uint8
    assert sample["segmentation"].tolist() == label_values(1, 255, 0).tolist()
    truth = reader.truth(1)
    assert truth["segmentation"].tolist() == label_values(1, 255, 0).tolist()
    assert truth["file"] == str(root.resolve() / "images" / "train" / "b.jpg")
    assert truth.keys() == {"image_id", "file", "orig_size", "segmentation"}
    with pytest.raises(IndexError):
        reader.truth(2)


# Classes


def test_classes_are_found_in_the_training_data_and_kept_for_the_others(root: Path) -> None:
    train = read_masks(root)
    assert train.classes.names == ("class_0", "class_1", "class_2")
    assert train.classes.category_ids == (0, 1, 2)
    val = read_masks(root, split="val", classes=list(train.classes.names))
    assert val.classes == train.classes
    assert val.notes == []


def test_names_come_from_a_list_a_file_or_the_table_of_colours(root: Path) -> None:
    (root / "names.txt").write_text("road\nparked car\nsky")
    (root / "table.csv").write_text("road,1,1,1\nparked car,2,2,2\nsky,3,3,3")
    for options in (
        {"classes": ["road", "parked car", "sky"]},
        {"classes": "names.txt"},
        {"colors": "table.csv"},
    ):
        assert read_masks(root, **options).classes.names == ("road", "parked car", "sky")
    assert read_masks(root, colors="table.csv").classes.colors == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert "names 'a' twice" in wrong(root, ConfigError, classes=["a", "b", "a"])
    assert "is empty" in wrong(root, ConfigError, classes=[])


def test_a_map_of_ids_makes_classes_of_them_and_the_rest_void(root: Path) -> None:
    reader = read_masks(root, label_map={2: 0, 0: 1, 255: 1}, classes=["x", "y"])
    assert unique(reader) == [[0, 1], [1, 255]]
    assert reader.classes.category_ids == (2, 0)
    assert read_masks(root, label_map={2: 0, 0: 1}).classes.names == ("class_0", "class_1")
    assert "an id becomes class 2, but there are 2" in wrong(
        root, ConfigError, label_map={0: 2}, classes=["x", "y"]
    )
    assert "'a' is not an id" in wrong(root, ConfigError, label_map={"a": 1})
    assert "all ids become void" in wrong(root, ConfigError, label_map={0: 255})
    assert "at most 254" in wrong(root, ConfigError, classes=[str(k) for k in range(255)])


def test_void_may_be_any_id_and_any_colour(root: Path) -> None:
    assert unique(read_masks(root, ignore_index=2, label_map=None, split="val")) == [[1, 255]]
    table = np.array([[9, 9, 9], [0, 200, 0], [7, 0, 7]])
    for path in root.glob("labels/*/*.png"):
        write_label(path, table[np.minimum(np.array(Image.open(path)), 2)])
    reader = read_masks(root, colors={"grass": [0, 200, 0], "stone": [9, 9, 9]}, ignore_color=[7, 0, 7])
    assert reader.classes.names == ("grass", "stone")
    assert unique(reader) == [[1, 255], [0, 1, 255]]
    message = wrong(root, colors={"grass": [0, 200, 0], "stone": [9, 9, 9]})
    assert "a.png: pixel x=20, y=0 has the colour [7,0,7], which is not in dataset.colors" in message


def test_colours_of_palettes_are_shown_where_nothing_else_is_given(root: Path) -> None:
    palette = np.arange(768).reshape(256, 3)
    for path in root.glob("labels/*/*.png"):
        write_label(path, np.array(Image.open(path)), palette)
    assert read_masks(root).classes.colors == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    other = write_label(root / "labels" / "train" / "b.png", label_values(0, 1), palette[::-1])
    assert f"{other}: its palette has [253,254,255] for the id 0" in wrong(root)


def test_odd_classes_are_noted(root: Path) -> None:
    reader = read_masks(root, classes=["a", "b", "c", "d", "e"])
    assert reader.notes == ["dataset masks: 2 of 5 classes have no pixel in the training data: 3, 4"]
    binary = write_masks(root.parent / "binary", train={"a": (0, 255)})
    (note,) = read_masks(binary).notes
    assert "only one class; for masks of 0 and 255 type 'dataset.label_map={0: 0, 255: 1}'" in note
    reader = read_masks(binary, label_map={0: 0, 255: 1})
    assert (len(reader.classes), reader.notes) == (2, [])


def test_images_of_void_alone_are_noted_and_nothing_but_void_is_refused(root: Path) -> None:
    write_label(root / "labels" / "train" / "a.png", label_values(255))
    assert read_masks(root).notes == ["dataset masks: label images that are void throughout (1): a.png"]
    write_label(root / "labels" / "train" / "b.png", label_values(255))
    assert "there is no class, all is void (see dataset.ignore_index)" in wrong(root)


# What is wrong


def test_an_unknown_id_is_found_at_the_start_or_where_there_is_too_much_when_it_is_used(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = wrong(root, classes=["x", "y"])
    assert str(root.resolve() / "labels" / "train" / "a.png") + ": pixel x=20, y=0 has the id 2" in message
    monkeypatch.setattr(label_maps, "CHECKED_PIXELS", 2399)  # two of 30 x 40 are more
    reader = read_masks(root, classes=["x", "y"])
    assert reader[1]["segmentation"].shape == (30, 40)
    with pytest.raises(DataError, match=r"a\.png: pixel x=20, y=0 has the id 2"):
        reader[0]
    with pytest.raises(DataError, match=r"a\.png: pixel x=20, y=0 has the id 2"):
        reader.truth(0)
    assert len(read_masks(root).classes) == 3  # where classes are to be found, all is read
    assert len(read_masks(root, classes=["x", "y"], on_error="skip")) == 1


def test_a_label_image_of_another_size_is_named_with_both_sizes(root: Path) -> None:
    label = write_label(root / "labels" / "train" / "a.png", label_values(0, 1, width=30, height=40))
    message = wrong(root)
    assert "a.jpg is 40 x 30 pixels (width x height), but its label image" in message
    assert f"{label.resolve()} is 30 x 40" in message
    # the image of a camera held upright is stored lying
    write_image(root / "images" / "train" / "a.jpg", orientation=6)
    sample = read_masks(root)[0]
    assert sample["image"].shape[1:] == sample["segmentation"].shape == (40, 30)


def test_whatever_is_wrong_is_skipped_and_counted_if_asked(root: Path) -> None:
    images, labels = root / "images" / "train", root / "labels" / "train"
    for stem in "cdefgh":
        write_image(images / f"{stem}.jpg")
        write_label(labels / f"{stem}.png", label_values(0, 1))
    (labels / "c.png").unlink()
    (images / "d.jpg").unlink()
    Image.open(labels / "e.png").save(labels / "e.png", format="JPEG")
    (images / "f.jpg").write_bytes((images / "f.jpg").read_bytes()[:400])
    (labels / "g.png").write_bytes((labels / "g.png").read_bytes()[:-40])
    write_label(labels / "h.png", label_values(0, 9))
    for stem, what in {
        "c": "no label image",
        "d": "no image",
        "e": "JPEG",
        "g": "damaged",
        "h": "the id 9",
    }.items():
        only = write_masks(root.parent / f"only_{stem}", train={"a": (0, 1)})
        for name in (f"images/train/{stem}.jpg", f"labels/train/{stem}.png"):
            if (root / name).exists():
                os.link(root / name, only / name)
        assert what in wrong(only, classes=["x", "y", "z"])
    reader = read_masks(root, classes=["x", "y", "z"], on_error="skip")
    assert [reader.truth(i)["image_id"] for i in range(len(reader))] == ["a", "b"]
    assert reader.notes[-1] == "dataset masks: skipped: 1 more, 6 in all"


def test_nothing_left_is_an_error_also_when_skipping(root: Path) -> None:
    for path in root.glob("labels/train/*.png"):
        path.write_bytes(b"")
    assert "no label images are left" in wrong(root, on_error="skip")


def test_a_link_that_leaves_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    secret = write_label(tmp_path / "secret.png", label_values(0, 1))
    label = root / "labels" / "train" / "a.png"
    label.unlink()
    label.symlink_to(secret)
    assert "leads out of" in wrong(root)
    assert len(read_masks(root, on_error="skip")) == 1


# Where things lie


LAYOUTS = [
    ("images/train", "labels/train"),
    ("images/train", "annotations/train"),
    ("train/images", "train/masks"),
    ("train", "trainannot"),
]


@pytest.mark.parametrize(("images", "labels"), LAYOUTS)
def test_known_layouts_need_the_root_alone(tmp_path: Path, images: str, labels: str) -> None:
    write_image(tmp_path / images / "a.jpg")
    write_label(tmp_path / labels / "a.png", label_values(0, 1))
    assert read_masks(tmp_path)[0]["image_id"] == "a"
    assert "has no such folders as images/val and labels/val" in wrong(tmp_path, ConfigError, split="val")


def test_folders_may_be_named_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    named = {"images": "images/val", "labels": "labels/val", "list": None}
    assert len(MasksReader(split="val", val=named)) == 1  # type: ignore[arg-type]
    message = "type dataset.val.images=DIR dataset.val.labels=DIR, or dataset.root=DIR"
    with pytest.raises(ConfigError, match=message):
        MasksReader(split="val")
    with pytest.raises(
        ConfigError, match=r"no folder images/test; type dataset\.val\.images=DIR \(or dataset\.root"
    ):
        MasksReader(split="val", val=named | {"images": "images/test"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"dataset\.train\.images is not given"):
        MasksReader(split="train", train={"labels": "labels/train"})
    with pytest.raises(ConfigError, match=r"there is no list no\.txt"):
        MasksReader(split="train", train={"list": "no.txt"})
    with pytest.raises(ConfigError, match=r"dataset\.root=nowhere"):
        MasksReader(split="train", root="nowhere")


def test_truths_need_no_images(root: Path) -> None:
    reader = MasksReader(split="val", val={"labels": str(root / "labels" / "val")})
    assert unique(reader) == [[1, 2]]
    assert reader.truth(0)["image_id"] == "c"
    with pytest.raises(ConfigError, match=r"dataset\.val\.images=DIR"):
        reader[0]


def test_a_list_of_pairs_is_relative_to_its_own_folder_or_the_root(root: Path) -> None:
    (root / "both.txt").write_text(
        "images/val/c.jpg labels/val/c.png\nimages/train/a.jpg labels/train/a.png\n"
    )
    for reader in (
        MasksReader(split="train", train={"list": str(root / "both.txt")}),
        read_masks(root, train={"list": "both.txt"}),
    ):
        assert [reader.truth(i)["image_id"] for i in range(2)] == ["c", "a"]
        assert unique(reader) == [[1, 2], [0, 2]]


def test_images_of_one_name_in_two_folders_keep_their_folders(tmp_path: Path) -> None:
    for stem in ("x/a", "y/a", "y/b"):
        write_image(tmp_path / "images" / "train" / f"{stem}.jpg")
        write_label(tmp_path / "labels" / "train" / f"{stem}.png", label_values(0, 1))
    reader = read_masks(tmp_path)
    assert [reader.truth(i)["image_id"] for i in range(3)] == ["x/a", "y/a", "y/b"]


def test_a_part_of_the_training_data_may_be_held_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for n in range(10):
        write_image(root / "images" / f"{n}.jpg")
        write_label(root / "masks" / f"{n}.png", label_values(0, 1 if n else 7))
    parts = {}
    for split in ("train", "val"):
        reader = read_masks(root, split=split, val_fraction=0.3)
        parts[split] = {reader.truth(i)["image_id"] for i in range(len(reader))}
        assert len(reader.classes) == 8  # the rarest class may be in either part
    assert len(parts["val"]) == 3
    assert parts["train"] | parts["val"] == {str(n) for n in range(10)}
    assert parts["train"].isdisjoint(parts["val"])
    other = {"val": {"images": "x"}, "val_fraction": 0.3}
    assert "both say what to validate on" in wrong(root, ConfigError, **other)


def test_it_can_be_sent_to_a_worker(root: Path) -> None:
    reader = read_masks(root, colors=[[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    twin = pickle.loads(pickle.dumps(reader))
    assert twin[1]["segmentation"].tolist() == reader[1]["segmentation"].tolist()


# Configuration


def test_the_yaml_lists_every_tunable_with_its_default() -> None:
    node = yaml.safe_load((CONF / "masks.yaml").read_text())
    parameters = inspect.signature(MasksReader.__init__).parameters
    defaults = {k: p.default for k, p in parameters.items() if k not in ("self", "split")}
    empty = {"images": None, "labels": None, "list": None}
    assert {k: v for k, v in node.items() if k not in ("name", "_target_")} == defaults | {
        "train": empty,
        "val": empty,
    }


def built(dataset: str, root: Path, split: str) -> MasksReader:
    """As the command line does."""
    node = compose("train", ["task=faster_rcnn", f"dataset={dataset}", "task.requires=[segmentation]"])[
        "dataset"
    ]
    options = {key: value for key, value in node.items() if key not in ("name", "_target_")}
    return MasksReader(**options | {"split": split, "root": str(root)})


def test_cityscapes_label_ids_become_its_19_train_ids(tmp_path: Path) -> None:
    for split, ids in {"train": (7, 8, 0, 33), "val": (26, 29, 255)}.items():
        write_image(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_0_leftImg8bit.png")
        name = tmp_path / "gtFine" / split / "ulm" / "ulm_0_gtFine_"
        write_label(Path(f"{name}labelIds.png"), label_values(*ids))
        write_label(Path(f"{name}color.png"), np.zeros((30, 40, 3)))
    train, val = built("cityscapes", tmp_path, "train"), built("cityscapes", tmp_path, "val")
    names = train.classes.names
    assert len(names) == 19
    assert (names[0], names[13], names[18]) == ("road", "car", "bicycle")
    assert train.classes.colors[0] == (128, 64, 128)
    assert unique(train) == [[0, 1, 18, 255]]
    assert unique(val) == [[13, 255]]  # a caravan, and a number plate
    assert val.truth(0)["image_id"] == "ulm_0"


def test_ade20k_has_150_classes_counted_from_1_and_0_is_void(tmp_path: Path) -> None:
    for split, ids in {"training": (1, 150, 0), "validation": (21,)}.items():
        write_image(tmp_path / "images" / split / "ADE_1.jpg")
        write_label(tmp_path / "annotations" / split / "ADE_1.png", label_values(*ids))
    train, val = built("ade20k", tmp_path, "train"), built("ade20k", tmp_path, "val")
    assert len(set(train.classes.names)) == 150
    assert (train.classes.names[0], train.classes.names[20], train.classes.names[149]) == (
        "wall",
        "car",
        "flag",
    )
    assert unique(train) == [[0, 149, 255]]
    assert unique(val) == [[20]]


def test_decoding_is_the_only_thing_that_waits_for_the_labels(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set too large to be read at the start, no label image is decoded beyond the first one's palette."""
    read: list[str] = []
    decode = LabelDecoder.read

    def counted(self: LabelDecoder, path: Path) -> np.ndarray:
        read.append(path.name)
        return decode(self, path)

    monkeypatch.setattr(LabelDecoder, "read", counted)
    monkeypatch.setattr(label_maps, "CHECKED_PIXELS", 0)
    reader = read_masks(root, classes=["a", "b", "c"])
    assert read == []
    reader.truth(1)
    assert read == ["b.png"]
