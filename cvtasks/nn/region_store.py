"""Features of all regions of all training images on disk: a stage that is solved reads them again and again.

One file for each image, below a folder whose name is a checksum of what they were computed with: a run that was killed
goes on with the files that are there, and never with those of other weights. Of several processes that share the disk, the
first to have a file writes it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvtasks.types import ImageId


class RegionStore:
    """Tensors of images, in the order in which they were added. Iterating reads them from the disk, one image at a time.

    folder: where files last; None for a temporary one. checksum: of all that the tensors depend on; asked for when the
    first image comes, as the model is then as it computes.
    """

    def __init__(self, folder: Path | None, checksum: Callable[[], str]) -> None:
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        self._parent = Path(self._temporary.name) if self._temporary else Path(str(folder))
        self._checksum, self._added, self._found = checksum, list[ImageId](), set[ImageId]()

    def __enter__(self) -> RegionStore:
        return self

    def __exit__(self, *error: object) -> None:
        if self._temporary:
            self._temporary.cleanup()

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for image in self._added:
            with np.load(self._path(image)) as arrays:
                yield _Tensors(arrays)

    def find(self, image: ImageId, boxes: Tensor) -> dict[str, Tensor] | None:
        """What was added of an image, if it was of the same boxes [R, 4]; None if there is nothing that can be used."""
        try:
            with np.load(self._path(image)) as arrays:
                found = dict(_Tensors(arrays))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            return None
        if not torch.equal(found["boxes"], boxes.cpu()):
            return None
        self._found.add(image)
        return found

    def add(self, image: ImageId, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of an image; `boxes` is among them."""
        path = self._path(image)
        if image not in self._found and self.find(image, tensors["boxes"]) is None:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **{n: each.cpu().numpy() for n, each in tensors.items()})
            temporary.replace(path)
        self._added.append(image)

    def _path(self, image: ImageId) -> Path:
        return self._folder / f"{hashlib.sha1(repr(image).encode()).hexdigest()}.npz"

    @functools.cached_property
    def _folder(self) -> Path:
        folder = self._parent / self._checksum()
        folder.mkdir(parents=True, exist_ok=True)
        for other in self._parent.iterdir():
            if other.name != folder.name:
                shutil.rmtree(other, ignore_errors=True)
        return folder


class _Tensors(Mapping[str, Tensor]):
    """The arrays of a file, each read when it is asked for."""

    def __init__(self, arrays: np.lib.npyio.NpzFile) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays.files)

    def __len__(self) -> int:
        return len(self._arrays.files)


def checksum(tensors: Mapping[str, Tensor], *settings: object) -> str:
    """Of weights and of settings, in hexadecimal."""
    found = zlib.crc32(repr(settings).encode())
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        found = zlib.crc32(value.numpy().data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"
