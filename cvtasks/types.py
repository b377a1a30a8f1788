"""The nouns that every room shares. Letters: B images, N objects, J joints, H x W pixels.

Boxes are `(x1, y1, x2, y2)` in absolute pixels, continuous coordinates: a box that covers the whole
image is `(0, 0, W, H)`. Labels run from 0 to K - 1; background is never a class of objects, but where a
data set of objects gives a label map it is the map's class 0.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

ImageId: TypeAlias = int | str
Split: TypeAlias = Literal["train", "val"]

Sample: TypeAlias = dict[str, Any]
"""One image and its labels, before and after transforms.

Always `image` (tv_tensors.Image, uint8 [3, H, W]), `image_id` and `orig_size` (H, W of the file's
image). Whatever the reader provides: `boxes` (tv_tensors.BoundingBoxes XYXY, float32 [N, 4]),
`labels` (int64 [N]), `ignore` (bool [N]: crowd or difficult, neither positive nor negative), `masks`
(tv_tensors.Mask, bool [N, H, W]), `keypoints` (float32 [N, J, 2], pixel centres at +0.5),
`visible` (int64 [N, J]: 0 unlabelled, 1 hidden, 2 visible), `segmentation` (tv_tensors.Mask, uint8
[H, W], 255 ignored), `label` (int64 []), `proposals` (float32 [P, 4]). A pipeline of constant shape adds
`pad_to` (height, width) for collate (and `divisor`, if not a multiple of 32), and one that crops to a person `window`
(float32 [4], see `Batch`).

Without `labels`, a sample with `label` is of one object, and one with `keypoints` and `boxes` of one person: N is 1.
"""

Truth: TypeAlias = dict[str, Any]
"""What an evaluator compares with: NumPy arrays in the ORIGINAL image's pixels, untouched by transforms.

`image_id`, `file` (str), `orig_size` (H, W), `boxes` float64 [N, 4], `labels` int64 [N], `ignore` bool [N],
`area` float64 [N] (the mask's where there is one, else the box's), and what else the reader provides:
`rles` (list of N COCO run-length dicts), `keypoints` [N, J, 2] with `visible` [N, J], `segmentation` [H, W].

Of one object: `label` (int) and `boxes` [1, 4]. Of one person: `keypoints` float64 [1, J, 2], `visible`, `boxes`, `area`
(NaN where not known), `head_size` (0.6 of the head box's diagonal; NaN where not known) and `source_id`, the image's own
id, where `image_id` is the person's. `bystanders`: `boxes` [U, 4], `area` and `ignore` [U] of the same image's people who
are not judged: crowds, and those without a labelled joint.
"""

Prediction: TypeAlias = dict[str, Tensor]
"""What a model says of one image, in the ORIGINAL image's pixels, on any device.

Detection: `boxes` float32 [D, 4], `scores` float32 [D] (descending), `labels` int64 [D]; others add `masks`,
`keypoints`. Localization: the same, a row for each guess, five at most. Classification: `labels` and `scores` alone, a
row for each guess. Semantic segmentation: `segmentation` uint8
[H, W], 0..K-1 (255: no class). Pose: `keypoints` float32 [1, J, 2], `keypoint_scores` float32 [1, J], `scores` [1],
`boxes` float32 [1, 4] (the person's, as given), and of a cascade `stages` float32 [S, J, 2], the last the same joints.
"""


@dataclass(frozen=True)
class ClassInfo:
    """The classes of a data set, as its files name them; stored in every checkpoint."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    """The ids of the classes in the files (COCO's have gaps); 1..K where the format has none."""
    keypoint_names: tuple[str, ...] = ()
    flip_index: tuple[int, ...] = ()
    """Joint j of the mirrored image is joint `flip_index[j]` of the image."""
    skeleton: tuple[tuple[int, int], ...] = ()
    ignore_index: int = 255
    colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue (0..255) of each class, for pictures; nothing where the data has none."""

    def __post_init__(self) -> None:
        if self.colors and [len(color) for color in self.colors] != [3] * len(self.names):
            raise TypeError(f"colors: expected (r, g, b) for each of {len(self.names)} classes")
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(1, len(self.names) + 1)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def joints(self) -> tuple[str, ...]:
        """The keypoints' names in one spelling: "left shoulder", be it left_shoulder, LeftShoulder or l-shoulder."""
        return tuple(map(_spelled, self.keypoint_names))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and values, for a checkpoint that `weights_only=True` can read."""
        return {f.name: _with(list, getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassInfo:
        return cls(**{name: _with(tuple, value) for name, value in values.items()})


def _spelled(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", name).lower().split()
    words = [{"l": "left", "r": "right"}.get(word, word) for word in words]
    return " ".join(sorted(words, key=lambda word: word not in ("left", "right")))


def _with(kind: type, value: Any) -> Any:
    """The same value with its sequences, and those in them, as lists or as tuples."""
    if not isinstance(value, list | tuple):
        return value
    return kind(kind(each) if isinstance(each, list | tuple) else each for each in value)


@dataclass
class Batch:
    """Padded tensors for B images; `valid` [B, N] tells objects from padding. Nothing in it is ragged.

    `images` are uint8, padded at the right and the bottom to one size that every stride of the model
    divides; the device normalises them (`Backbone.normalize`), and padding is zero after that.
    """

    images: Tensor
    """uint8 [B, 3, H, W]"""
    sizes: Tensor
    """int64 [B, 2]: height and width of each image inside `images`"""
    orig_sizes: Tensor
    """int64 [B, 2]: height and width of each image in its file"""
    image_ids: list[ImageId]
    valid: Tensor | None = None
    boxes: Tensor | None = None
    labels: Tensor | None = None
    ignore: Tensor | None = None
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    visible: Tensor | None = None
    segmentation: Tensor | None = None
    label: Tensor | None = None
    proposals: Tensor | None = None
    window: Tensor | None = None
    """float32 [B, 4]: x1, y1, x2, y2 of what the whole batch image shows, in the original image's pixels; it may reach
    outside of it. None: all of it. Where training turns the image it means nothing."""
    truth: list[Truth] | None = None
    """In evaluation: what the files say, for the evaluator. Stays on the host."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`, copied asynchronously where memory is pinned."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by torch's loader."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Any) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Batch(**{k: move(v) if isinstance(v, Tensor) else v for k, v in moved.items()})


class Reader(Protocol):
    """One split of a data set in some file format. Indexed by position; picklable for workers."""

    provides: ClassVar[frozenset[str]]
    """The fields of `Sample` that the format can hold, known before any file is opened."""
    classes: ClassInfo
    notes: list[str]
    """What the user should know, one line each: records skipped and why, categories left out."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The decoded image with its labels. Raises DataError naming file and record."""
        ...

    def truth(self, index: int) -> Truth:
        """The labels alone, without opening the image."""
        ...


class VisionModel(Protocol):
    """A model has two verbs, and no mode changes what they mean. Also a `torch.nn.Module`.

    It, or a module in it, may have `one_image_size` (True): what it has learnt holds for images of that size alone.
    """

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named, unweighted scalars that can be differentiated."""
        ...

    def predict(self, batch: Batch) -> list[Prediction]:
        """One prediction for each image, in its original pixels."""
        ...


class StagedModel(VisionModel, Protocol):
    """A model that trains in stages, one after the other: a cascade, or parts that are trained in turn.

    What a stage changes is in the state dict (also which stage it is), or is `requires_grad`. So a checkpoint knows how far
    it came, and `predict` uses the stages that have begun. A stage that has steps leaves something that wants gradients.

    It may have more: `solved`, the names of the stages whose work is done when `begin_stage` returns (they take no steps),
    and `collect(batch) -> list[Prediction]`, the tensors of each image that `begin_stage` reads in place of predictions.
    """

    stages: tuple[str, ...]
    """Their names"""
    stage: int
    """The one that is being trained, from 0 on"""

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> list[str] | None:
        """Freeze what is done, and let the parameters of stage `index` train, or solve for them; may return notes.

        predictions: of the training images, in order and without augmentation, with their truth; by the model as it
        stands (what `collect` gives, where it has that), on its device, computed as they are read. Stage 0 gets none.
        folder: a place of the run for what all stages may keep, features say; it is there again after a kill, and gone
        when the run is done. What is found in it may be of weights that have changed since. None: nothing lasts.
        """
        ...


class Evaluator(Protocol):
    """Collects predictions image by image and turns them into numbers; states of several processes merge."""

    judges: ClassVar[frozenset[str]]
    """The fields of `Sample` that predictions are compared with"""

    def reset(self) -> None: ...

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None: ...

    def state(self) -> Any:
        """What was collected, picklable, to be merged elsewhere."""
        ...

    def merge(self, states: Iterable[Any]) -> None: ...

    def compute(self) -> dict[str, float]:
        """Flat names, "box/AP50": value, the most telling first. A number that is not defined is NaN.

        A second slash stands before a class: "seg/IoU/road".
        """
        ...

    def write(self, folder: Path) -> None:
        """What was predicted, in the family's exchange format."""
        ...

    def plot_data(self) -> dict[str, Any]:
        """After `compute`: what `viz.plots` can draw, by the name of the plot."""
        ...


@dataclass(frozen=True)
class Task:
    """What the engine trains and judges: a model, its evaluator, and how its losses add up."""

    name: str
    model: Any
    """A VisionModel that is a torch.nn.Module"""
    evaluator: Evaluator
    requires: frozenset[str]
    """Fields of `Sample` without which the losses cannot be computed"""
    monitor: str
    """The metric that decides which checkpoint is best (`engine.direction`: which way)"""
    loss_weights: Mapping[str, float]
