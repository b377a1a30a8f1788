"""Small data sets of one label an image on disk: a folder for each class, CIFAR-10's and MNIST's files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvtasks.data.cifar10 import Cifar10Reader
from cvtasks.data.folders import FoldersReader
from cvtasks.data.mnist import MnistReader

from .files import write_image


def write_folders(root: Path) -> Path:
    """Three classes in train/, two in val/, and what is no image of any class."""
    for name in ("train/dog/2.jpg", "train/dog/10.png", "train/cat/more/1.jpg", "train/Owl/1.jpg",
                 "val/cat/1.jpg", "val/dog/5.jpg"):  # fmt: skip
        write_image(root / name)
    for name in ("train/notes.txt", "train/cat/readme.md", "train/.cache/1.jpg", "train/cat/.1.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not an image")
    (root / "train" / "empty").mkdir()
    return root


def read_folders(folder: Path, **options: Any) -> FoldersReader:
    return FoldersReader(**{"split": "train", "root": str(folder)} | options)


def cifar10_bytes(*labels: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))


def write_cifar10(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "data_batch_1.bin").write_bytes(cifar10_bytes(3, 0))
    (root / "data_batch_2.bin").write_bytes(cifar10_bytes(9, 3, seed=1))
    (root / "test_batch.bin").write_bytes(cifar10_bytes(5, 3, 1, seed=2))
    (root / "batches.meta.txt").write_text("airplane\n")
    return root


def read_cifar10(folder: Path, **options: Any) -> Cifar10Reader:
    return Cifar10Reader(**{"split": "train", "root": str(folder)} | options)


def idx(values: np.ndarray) -> bytes:
    """An IDX file's bytes, by the format's description."""
    assert values.dtype == np.uint8
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(
    root: Path, train: Sequence[int] = (7, 0, 9), val: Sequence[int] = (1, 7), *, packed: bool = False
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, labels in (("train", train), ("t10k", val)):
        images = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            name, content = f"{prefix}-{kind}-ubyte", idx(values)
            if packed:
                name, content = f"{name}.gz", gzip.compress(content)
            (root / name).write_bytes(content)
    return root


def read_mnist(folder: Path, **options: Any) -> MnistReader:
    return MnistReader(**{"split": "train", "root": str(folder)} | options)
