"""MNIST's IDX files: torchvision's reader as the oracle, and files that are not what they should be."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from cvtasks.data import mnist
from cvtasks.errors import ConfigError, DataError

from .classification_files import idx, read_mnist, write_mnist
from .localization_files import labels_of


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", [".", "MNIST/raw"])
def test_files_packed_or_not_are_read_wherever_they_are(tmp_path: Path, packed: bool, below: str) -> None:
    write_mnist(tmp_path / below, packed=packed)
    reader = read_mnist(tmp_path)
    assert reader.classes.names == tuple("0123456789")
    assert labels_of(reader) == {0: "7", 1: "0", 2: "9"}
    assert labels_of(read_mnist(tmp_path, split="val")) == {0: "1", 1: "7"}


def test_images_and_labels_are_torchvisions(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    oracle, reader = MNIST(str(tmp_path), train=True), read_mnist(tmp_path)
    for index in range(3):
        sample = reader[index]
        assert sample["label"] == oracle.targets[index]
        assert sample["orig_size"] == (28, 28)
        for plane in sample["image"]:
            assert torch.equal(plane.as_subclass(torch.Tensor), oracle.data[index])


def test_names_and_a_choice_of_them(tmp_path: Path) -> None:
    root = write_mnist(tmp_path, train=(2, 0, 1, 0))
    reader = read_mnist(root, names=["shirt", "shoe", "bag"], classes=["bag", "shirt"])
    assert labels_of(reader) == {0: "bag", 1: "shirt", 3: "shirt"}
    assert [reader.truth(i)["label"] for i in range(3)] == [0, 1, 1]


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
THREE = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "message", "left"),
    [
        (LABELS, idx(np.array([7, 10, 9], np.uint8)), r"labels.*: record 1: its label is 10; expected 0 to 9", 2),
        (LABELS, idx(np.array([7, 0], np.uint8)), r"labels.*: record 2: there are 2 labels for the 3 images", 2),
        (IMAGES, idx(THREE)[:-1], r"images.*: record 2: .*3 records of 784 bytes, and has 2351", 2),
        (IMAGES, idx(THREE) + b"x", r"images.*: record 3: .*3 records of 784 bytes, and has 2353", 3),
        (IMAGES, b"", r"images.*: begins with nothing; expected an IDX file of 3 dimensions, 00 00 08 03", None),
        (IMAGES, idx(THREE[0]), r"images.*: begins with 00 00 08 02; expected", None),
        (IMAGES, b"<html>" * 9, r"images.*: begins with 3c 68 74 6d", None),
        (IMAGES, idx(THREE[:0]), r"images.*: there are no records in it", None),
        (IMAGES, idx(THREE[:, :0]), r"images.*: says that its images have 0 rows and 28 columns", None),
        (IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 3, 2**32 - 1, 2**32 - 1), r"says that its images have 42949", None),
        (IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 28, 28) + bytes(784), r"record 1: .*4294967295 rec", 1),
        (IMAGES, gzip.compress(idx(THREE))[:-9], r"images.*: cannot be read", None),
        (IMAGES, b"\x1f\x8b\x08\0" + b"\xff" * 40, r"images.*: cannot be read", None),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_record_or_that_is_skipped(
    tmp_path: Path, name: str, content: bytes, message: str, left: int | None
) -> None:
    root = write_mnist(tmp_path)
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_mnist(root)
    assert "\n" not in str(caught.value)
    if left is None:
        with pytest.raises(DataError, match=message):
            read_mnist(root, on_error="skip")
    else:
        skipped = read_mnist(root, on_error="skip")
        assert len(skipped) == left
        assert skipped.notes


def test_a_file_that_unpacks_without_end_is_not_unpacked_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_mnist(tmp_path)
    (root / IMAGES).unlink()
    (root / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(np.zeros((5000, 28, 28), np.uint8))))
    monkeypatch.setattr(mnist, "MAX_BYTES", 2**20)
    read: list[int] = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n: read.append(n) or original(self, n))
    with pytest.raises(DataError, match="holds more than 1048576 bytes, the limit"):
        read_mnist(root)
    assert sum(read) <= 3 * 2**20  # of 3.7 MiB


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there are no train-images.* \(or \.gz\) in .*; type dataset\.root=DIR"
    ):
        read_mnist(tmp_path)
    (write_mnist(tmp_path) / LABELS).unlink()
    with pytest.raises(ConfigError, match="train-labels-idx1-ubyte"):
        read_mnist(tmp_path)
    with pytest.raises(ConfigError, match=r"^dataset mnist: type dataset\.root=DIR"):
        read_mnist(tmp_path, root=None)
