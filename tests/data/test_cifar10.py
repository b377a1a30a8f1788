"""CIFAR-10's binary files: records taken apart by hand, and files that are not what they should be."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cvtasks.data import cifar10
from cvtasks.errors import ConfigError, DataError

from .classification_files import cifar10_bytes, read_cifar10, write_cifar10
from .localization_files import labels_of


def test_a_record_is_a_label_and_a_red_a_green_and_a_blue_plane(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path / "data")
    content = bytes([6]) + bytes(range(32)) * 32 + b"\x01" * 1024 + b"\x02" * 1024
    (root / "test_batch.bin").write_bytes(content)
    reader = read_cifar10(root, split="val")
    sample = reader[0]
    assert reader.classes.names[int(sample["label"])] == "frog"
    assert (sample["image_id"], sample["orig_size"]) == ("test_batch/0", (32, 32))
    red, green, blue = sample["image"].numpy()
    assert (red == np.arange(32)).all()  # along a row
    assert (green == 1).all()
    assert (blue == 2).all()
    assert sample["image"].stride(0) == 1  # channels last, as from files


def test_training_is_all_batches_in_their_order(tmp_path: Path) -> None:
    reader = read_cifar10(write_cifar10(tmp_path / "cifar-10-batches-bin"))
    assert labels_of(reader) == {
        "data_batch_1/0": "cat", "data_batch_1/1": "airplane", "data_batch_2/0": "truck", "data_batch_2/1": "cat"
    }  # fmt: skip
    assert labels_of(read_cifar10(tmp_path)) == labels_of(reader)  # the folder around it
    assert len(reader.classes) == 10
    pixels = np.frombuffer(cifar10_bytes(9, 3, seed=1), np.uint8)[3074:].reshape(3, 32, 32)
    assert np.array_equal(reader[3]["image"].numpy(), pixels)


def test_classes_can_be_chosen(tmp_path: Path) -> None:
    reader = read_cifar10(write_cifar10(tmp_path / "data"), classes=["truck", "cat"])
    assert [reader.truth(i)["label"] for i in range(len(reader))] == [1, 0, 1]
    assert reader.notes == [
        "dataset cifar10: 1 objects of classes that dataset.classes leaves out: airplane (1)"
    ]
    assert np.array_equal(reader[2]["image"].numpy(), read_cifar10(tmp_path / "data")[3]["image"].numpy())


@pytest.mark.parametrize(
    ("content", "message", "left"),
    [
        (cifar10_bytes(1, 10), r"data_batch_1\.bin: record 1: its label is 10; expected 0 to 9", 3),
        (cifar10_bytes(1, 2)[:-1], r"data_batch_1\.bin: record 1: has 3072 of 3073 bytes: .*cut off", 3),
        (b"", r"data_batch_1\.bin: record 0: is not there: the file is empty", 2),
        (b"<html>", r"data_batch_1\.bin: record 0: has 6 of 3073 bytes", 2),
    ],
)
def test_a_wrong_record_is_named_or_skipped(tmp_path: Path, content: bytes, message: str, left: int) -> None:
    root = write_cifar10(tmp_path / "data")
    (root / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_cifar10(root)
    skipped = read_cifar10(root, on_error="skip")
    assert len(skipped) == left
    assert len(skipped.notes) == 1
    kept = dict.fromkeys(labels_of(skipped))
    assert list(kept)[-2:] == ["data_batch_2/0", "data_batch_2/1"]


def test_the_python_version_is_refused_unread_with_where_the_binary_one_is(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    for folder in (tmp_path / "cifar-10-batches-py", tmp_path / "other"):
        folder.mkdir()
        for name in ("data_batch_1", "test_batch"):
            (folder / name).write_bytes(pickle.dumps(Payload()))
    for root in (tmp_path, tmp_path / "other"):
        for split in ("train", "val"):
            with pytest.raises(
                ConfigError, match=r"pickles can run code.* take the binary .*cifar-10-binary\.tar\.gz"
            ):
                read_cifar10(root, split=split)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_any_size_is_not_taken_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "MAX_BYTES", 4000)
    with pytest.raises(DataError, match=r"data_batch_1\.bin: is larger than 4000 bytes, the limit"):
        read_cifar10(write_cifar10(tmp_path / "data"))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no data_batch_1\.bin in .*; type dataset\.root=DIR"):
        read_cifar10(tmp_path)
    with pytest.raises(ConfigError, match=r"^dataset cifar10: type dataset\.root=DIR"):
        read_cifar10(tmp_path, root=None)
