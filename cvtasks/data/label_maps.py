"""The images of a split with their label images: looked for, checked, and held as a few arrays.

Which checks come when: names, formats and sizes are read from the files' headers at the start (15 us each). Whether
every pixel has a known class takes decoding (0.4 ms for 480 x 360 pixels), so it is done at the start where that
takes a few seconds, and where the classes are to be found or wrong files skipped; else when a label image is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torchvision import tv_tensors
from tqdm import tqdm

from cvtasks.data.annotations import Findings, Strings
from cvtasks.data.images import Size, check_image, has_size, image_size, read_image
from cvtasks.data.label_images import LabelDecoder, label_size, read_label
from cvtasks.data.pairs import Pair
from cvtasks.data.paths import Folder
from cvtasks.data.transforms import VOID
from cvtasks.errors import DataError
from cvtasks.types import Sample, Truth

CHECKED_PIXELS = 2**30
"""Of a split with no more than these all label images are decoded at the start: 3 s on one core."""


class Located(NamedTuple):
    pair: Pair
    size: Size


def locate(pairs: Iterable[Pair], images: Folder | None, labels: Folder, findings: Findings) -> list[Located]:
    """The pairs whose files are there, are what they should be, and agree in size.

    With on_error=skip images are decoded as well, so that training does not stop at them later.
    """
    found = []
    for pair in pairs:
        try:
            label = _file(labels, pair.label)
            size = label_size(label)
            if images is not None and pair.image is not None:
                image = _file(images, pair.image)
                if not has_size(image, size):
                    height, width = image_size(image)
                    raise DataError(
                        f"{image} is {width} x {height} pixels (width x height), but its label image {label} is "
                        f"{size[1]} x {size[0]}"
                    )
                if findings.on_error == "skip":
                    check_image(image, size)
        except DataError as error:
            findings.error(pair.key, str(error))
            continue
        found.append(Located(pair, size))
    if not found:
        raise findings.fatal(f"{labels.path}: no label images are left")
    return found


def _file(folder: Folder, name: str) -> Path:
    path = folder.find(name)
    if path is None:
        raise DataError(f"there is no {name} in {folder.path}")
    return path


def first_palette(located: Sequence[Located], labels: Folder) -> np.ndarray | None:
    """Of the first label image that can be read, uint8 [P, 3]; None where it has none."""
    for found in located:
        try:
            return read_label(labels.path / found.pair.label).palette
        except DataError:
            continue  # to be told when all are read
    return None


def affordable(located: Sequence[Located]) -> bool:
    """Whether decoding all label images takes no more than seconds."""
    return sum(height * width for _, (height, width) in located) <= CHECKED_PIXELS


def check_labels(
    located: Sequence[Located], labels: Folder, decoder: LabelDecoder, findings: Findings
) -> tuple[list[Located], np.ndarray]:
    """Decode all label images. Those without a mistake, and which values occur in them, bool [256]."""

    def values_in(found: Located) -> np.ndarray | DataError:
        try:
            return np.bincount(decoder.read(labels.path / found.pair.label).ravel(), minlength=256) > 0
        except DataError as error:
            return error

    sound, seen = [], np.zeros(256, bool)
    pool = ThreadPoolExecutor()  # Pillow decodes without holding Python's lock
    try:
        each = tqdm(
            pool.map(values_in, located),
            "check label images",
            len(located),
            unit=" image",
            leave=False,
            disable=None,
        )
        for found, values in zip(located, each, strict=True):
            if isinstance(values, DataError):
                findings.error(found.pair.key, str(values))
                continue
            if not values[:VOID].any():
                findings.repaired("label images that are void throughout", found.pair.label)
            sound.append(found)
            seen |= values
    finally:
        pool.shutdown(cancel_futures=True)
    if not sound:
        raise findings.fatal(f"{labels.path}: no label images are left")
    return sound, seen


@dataclass
class LabelMaps:
    """What a reader of label images holds of its split."""

    image_ids: Strings
    images: Strings | None
    labels: Strings
    sizes: np.ndarray
    """int64 [I, 2]: height and width"""
    image_folder: Path | None
    label_folder: Path
    decoder: LabelDecoder

    @classmethod
    def of(
        cls, located: Sequence[Located], images: Folder | None, labels: Folder, decoder: LabelDecoder
    ) -> LabelMaps:
        """An image's id is its name alone; with its folders where two images would have the same."""
        keys = [found.pair.key for found in located]
        last = [key.rpartition("/")[2] for key in keys]
        return cls(
            image_ids=Strings(last if max(Counter(last).values()) == 1 else keys),
            images=None if images is None else Strings(str(found.pair.image) for found in located),
            labels=Strings(found.pair.label for found in located),
            sizes=np.array([found.size for found in located], np.int64),
            image_folder=None if images is None else images.path,
            label_folder=labels.path,
            decoder=decoder,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def truth(self, index: int) -> Truth:
        index = range(len(self))[index]
        return {
            "image_id": self.image_ids[index],
            "file": str(self._image(index) or self.label_folder / self.labels[index]),
            "orig_size": self._size(index),
            "segmentation": self._read(index),
        }

    def sample(self, index: int) -> Sample:
        """Raises DataError as `read_image` and the decoder do."""
        index = range(len(self))[index]
        image = self._image(index)
        assert image is not None, "a reader without images refuses before"
        return {
            "image": read_image(image, self._size(index)),
            "image_id": self.image_ids[index],
            "orig_size": self._size(index),
            "segmentation": tv_tensors.Mask(torch.from_numpy(self._read(index))),
        }

    def _read(self, index: int) -> np.ndarray:
        return self.decoder.read(self.label_folder / self.labels[index])

    def _size(self, index: int) -> Size:
        height, width = self.sizes[index].tolist()
        return height, width

    def _image(self, index: int) -> Path | None:
        if self.image_folder is None or self.images is None:
            return None
        return self.image_folder / self.images[index]
