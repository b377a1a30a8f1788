"""Small images that lie in memory as one array, each with one label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torchvision import tv_tensors

from cvtasks.data.annotations import pack_ids
from cvtasks.types import ImageId, Sample, Truth

CHUNK = 2**20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_at_most(limit: int, file: Readable) -> bytes:
    """All of an open file, or, where it holds more than `limit` bytes, a little more than these.

    In pieces: asked for a gigabyte at once, Python would take the memory before it looks at the file.
    """
    parts, size = [], 0
    while size <= limit and (part := file.read(CHUNK)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


class PixelArrays:
    """A `Reader`, but for `provides`, `classes` and `notes`.

    pixels: uint8 [N, 3, H, W], or [N, 1, H, W] of grey ones.
    labels: int64 [N]. source: names the data.
    """

    def __init__(
        self, *, pixels: np.ndarray, labels: np.ndarray, image_ids: Sequence[ImageId], source: str
    ) -> None:
        assert len(pixels) == len(labels) == len(image_ids)
        self._pixels, self._labels, self._source = pixels, labels, source
        self._ids = pack_ids(image_ids)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        truth = self.truth(index)
        pixels = torch.from_numpy(self._pixels[index]).expand(3, -1, -1)
        return {
            # Channels last, as images from files are, and a copy.
            "image": tv_tensors.Image(pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)),
            "image_id": truth["image_id"],
            "orig_size": truth["orig_size"],
            "label": torch.tensor(truth["label"]),
        }

    def truth(self, index: int) -> Truth:
        index = range(len(self))[index]
        found = self._ids[index]
        height, width = self._pixels.shape[2:]
        return {
            "image_id": found if isinstance(found, str) else int(found),
            "file": f"{self._source}/{found}",
            "orig_size": (height, width),
            "label": int(self._labels[index]),
        }
