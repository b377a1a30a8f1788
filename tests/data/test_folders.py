"""A folder for each class: which classes and images there are, how they are divided, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from cvtasks.errors import ConfigError, DataError

from .classification_files import read_folders, write_folders
from .files import write_image
from .localization_files import labels_of


def test_classes_are_the_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    reader = read_folders(write_folders(tmp_path))
    assert reader.classes.names == ("Owl", "cat", "dog")
    assert labels_of(reader) == {
        "Owl/1.jpg": "Owl", "cat/more/1.jpg": "cat", "dog/10.png": "dog", "dog/2.jpg": "dog"
    }  # fmt: skip
    sample = reader[2]
    assert sample["image"].shape == (3, 30, 40)
    assert sample["label"].item() == 2
    assert (sample["image_id"], sample["orig_size"]) == ("dog/10.png", (30, 40))


def test_files_and_labels_are_those_of_torchvisions_image_folder(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    (root / "train" / "empty").rmdir()  # which it refuses
    (root / "train" / ".cache" / "1.jpg").unlink()  # and hidden ones it takes
    (root / "train" / "cat" / ".1.jpg").unlink()
    (root / "train" / ".cache").rmdir()
    oracle, reader = ImageFolder(str(root / "train")), read_folders(root)
    assert list(reader.classes.names) == oracle.classes
    truths = [reader.truth(i) for i in range(len(reader))]
    assert [(truth["file"], truth["label"]) for truth in truths] == oracle.samples


def test_validation_has_the_classes_of_training_and_says_what_it_lacks(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    write_image(root / "val" / "zebra" / "1.jpg")
    names = read_folders(root).classes.names
    val = read_folders(root, split="val", classes=names)
    assert val.classes.names == names
    assert labels_of(val) == {"cat/1.jpg": "cat", "dog/5.jpg": "dog"}
    assert val.notes == [
        "dataset folders: the val data has no Owl",
        "dataset folders: 1 objects of classes that dataset.classes leaves out: zebra (1)",
    ]


def test_classes_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    reader = read_folders(root, classes=["dog", "cat"])
    assert labels_of(reader) == {"cat/more/1.jpg": "cat", "dog/10.png": "dog", "dog/2.jpg": "dog"}
    assert [reader.truth(i)["label"] for i in range(3)] == [1, 0, 0]
    with pytest.raises(ConfigError, match="has no 'dogs'; did you mean dog"):
        read_folders(root, classes=["dogs"])


@pytest.mark.parametrize("below", ["train", "."])
def test_one_tree_is_divided_within_each_class(tmp_path: Path, below: str) -> None:
    for name in ("cat", "dog"):
        for number in range(10):
            write_image(tmp_path / below / name / f"{number}.jpg")
    train, val = (
        labels_of(read_folders(tmp_path, split=split, val_fraction=0.2)) for split in ("train", "val")
    )
    assert sorted([*val.values()]) == ["cat", "cat", "dog", "dog"]
    assert len(train) == 16
    assert not train.keys() & val.keys()
    other = labels_of(read_folders(tmp_path, split="val", val_fraction=0.2, split_seed=1))
    assert other.keys() != val.keys()


def test_other_folders_are_named_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folders(tmp_path)
    own = {"images": "val"}
    assert len(read_folders(root, train=own)) == 2
    monkeypatch.chdir(root)
    assert len(read_folders(root, root=None, train=own)) == 2


def test_a_wrong_image_is_named_or_skipped(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    path = root / "train" / "dog" / "2.jpg"
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"^dataset folders: dog/2\.jpg: .*is not an image.*on_error=skip$"):
        read_folders(root)
    skipped = read_folders(root, on_error="skip")
    assert len(skipped) == 3
    assert "skipped: dog/2.jpg: " in skipped.notes[0]
    image = Image.new("RGB", (400, 300), "red")
    image.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # its header is sound
    reader = read_folders(root)
    with pytest.raises(DataError, match=r"dog/2\.jpg: is truncated"):
        reader[3]
    assert len(read_folders(root, on_error="skip")) == 3


def test_links_that_lead_out_are_not_followed_and_not_passed_over_in_silence(tmp_path: Path) -> None:
    root, outside = write_folders(tmp_path / "data"), tmp_path / "secret"
    write_image(outside / "1.jpg")
    (root / "train" / "fox").symlink_to(outside)
    with pytest.raises(DataError, match="fox: is a link to a folder, which is not followed"):
        read_folders(root)
    (root / "train" / "fox").unlink()
    (root / "train" / "cat" / "link.jpg").symlink_to(outside / "1.jpg")
    with pytest.raises(DataError, match=r"cat/link\.jpg: .*leads out of"):
        read_folders(root)
    assert len(read_folders(root, on_error="skip")) == 4


def test_images_in_no_class_and_names_that_can_be_no_class_are_told(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    write_image(root / "train" / "loose.jpg")
    assert read_folders(root).notes == [
        f"dataset folders: left out images in {root / 'train'} itself, in no class's folder (1)"
    ]
    write_image(root / "train" / "two\nlines" / "1.jpg")
    with pytest.raises(DataError, match="can be no class's") as caught:
        read_folders(root)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"type dataset\.root=DIR .* or dataset\.train\.images=DIR"):
        read_folders(tmp_path, root=None)
    with pytest.raises(ConfigError, match=r"there is no folder .*train; .*dataset\.val_fraction=0\.2"):
        read_folders(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no folders with images, one for each class"):
        read_folders(tmp_path)
