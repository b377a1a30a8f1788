"""What readers have in common whose labels are in one place, beside a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cvtasks.types import Sample, Truth


class Labels(Protocol):
    """The labels of a split: all objects of each image, one object, or one person."""

    def __len__(self) -> int: ...

    def sample(self, index: int, folder: Path) -> Sample: ...

    def truth(self, index: int, folder: Path | None) -> Truth: ...


class LabelledImages:
    """A `Reader`, but for `classes` and `notes`."""

    _labels: Labels
    _folder: Path

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        return self._labels.sample(index, self._folder)

    def truth(self, index: int) -> Truth:
        return self._labels.truth(index, self._folder)
