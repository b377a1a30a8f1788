"""A reader whose samples have `proposals`: computed from the image, and cached, or out of a file.

What is missing is computed beforehand with all cores (`computed`); a sample whose proposals are not there after all,
because its image was changed meanwhile, gets them when it is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from cvtasks.data.loader import stream
from cvtasks.errors import CvtasksError
from cvtasks.proposals.cache import ProposalCache, Proposed
from cvtasks.types import Reader, Sample, Truth

OUT_OF_MEMORY = "the proposals that are done are kept: type the same again, with fewer other programs"


class WithProposals(ABC):
    """A `Reader` around another one, which adds `proposals` float32 [P, 4] in the image's pixels, clipped to it."""

    provides: ClassVar[frozenset[str]] = frozenset({"proposals"})
    """Beside what the other one provides"""

    def __init__(self, reader: Reader, notes: Sequence[str] = ()) -> None:
        self.reader = reader
        self.classes = reader.classes
        self.notes = [*reader.notes, *notes]

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        sample = self.reader[index]
        boxes = self.boxes(index, pixels(sample["image"]))
        return sample | {"proposals": torch.from_numpy(within(boxes, sample["orig_size"]))}

    def truth(self, index: int) -> Truth:
        return self.reader.truth(index)

    @abstractmethod
    def boxes(self, index: int, image: np.ndarray) -> np.ndarray:
        """The proposals of image `index`, uint8 [H, W, 3], as they are: float32 [P, 4]."""


class ComputedProposals(WithProposals):
    """Proposals of a method, each computed once."""

    def __init__(self, reader: Reader, cache: ProposalCache, notes: Sequence[str] = ()) -> None:
        super().__init__(reader, notes)
        self.cache = cache

    def boxes(self, index: int, image: np.ndarray) -> np.ndarray:
        return self.cache.of(image).boxes

    def of(self, index: int) -> Proposed:
        return self.cache.of(pixels(self.reader[index]["image"]))


class GivenProposals(WithProposals):
    """Proposals that somebody else computed: of all images together [T, 4], image i's up to `ends[i]`."""

    def __init__(self, reader: Reader, boxes: Sequence[np.ndarray], notes: Sequence[str] = ()) -> None:
        super().__init__(reader, notes)
        # One array: as objects they would be copied into every worker, page by page.
        self._boxes = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        self._ends = np.cumsum([0, *map(len, boxes)])

    def boxes(self, index: int, image: np.ndarray) -> np.ndarray:
        return self.of(index)

    def of(self, index: int) -> np.ndarray:
        return self._boxes[self._ends[index] : self._ends[index + 1]]


def computed(
    reader: ComputedProposals, indices: Sequence[int], *, workers: int
) -> Generator[Proposed, None, None]:
    """The proposals of these images, in order; `workers` processes, of one thread each, compute those that are missing.

    Closing the generator, or an exception where it is used (Ctrl-C), ends the workers; what they finished is kept.
    """
    workers = min(workers, len(indices))
    # With one worker this process would only wait for it.
    return stream(_InWorker(reader), indices, workers=workers if workers > 1 else 0, remedy=OUT_OF_MEMORY)


def pixels(image: Tensor) -> np.ndarray:
    """uint8 [3, H, W] as [H, W, 3]."""
    return np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())


def within(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes clipped to an image of `size` (height, width), without those that are empty then."""
    height, width = size
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)]


class _InWorker:
    """What runs in a worker. Errors come out as values: torch would wrap a raised one in its worker's traceback."""

    def __init__(self, reader: ComputedProposals) -> None:
        self.reader = reader

    def __getitem__(self, index: int) -> Proposed | CvtasksError:
        try:
            return self.reader.of(index)
        except CvtasksError as error:
            return error
