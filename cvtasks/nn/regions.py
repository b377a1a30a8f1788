"""What the parts of a region-based detector promise, and what they hand to each other.

Letters: B images, N objects, R regions, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.ops.roi import roi_align, roi_pool
from cvtasks.types import Batch, Prediction

Maps: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Proposals:
    """Regions that may hold an object; `valid` tells them from padding."""

    boxes: Tensor
    """float32 [B, R, 4], in the pixels of the batch's images"""
    valid: Tensor
    """bool [B, R]"""


@dataclass(frozen=True)
class Samples:
    """Regions to learn from, with what they should become. The same for all heads."""

    boxes: Tensor
    """float32 [B, R, 4]"""
    drawn: Tensor
    """bool [B, R]: False in places that nothing fills"""
    positive: Tensor
    """bool [B, R]; within `drawn`"""
    index: Tensor
    """int64 [B, R]: the object that a positive region shows"""


class Sampler(Protocol):
    """Chooses the regions that the heads learn from."""

    def __call__(self, maps: Maps, proposals: Proposals, batch: Batch, head: Any) -> Samples:
        """`head` is the detector's first, a `MinedHead` where the choice asks for losses."""
        ...


class Proposer(Protocol):
    """Finds regions, and may learn to."""

    def learn(self, maps: Maps, batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for training the heads, and the proposer's own losses (none, if it does not learn)."""
        ...

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        """Proposals for prediction."""
        ...


class Head(Protocol):
    """Says something of each region. The detector's first head makes the detections, the others add to them."""

    def losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]: ...


class DetectingHead(Head, Protocol):
    def detect(self, maps: Maps, proposals: Proposals, batch: Batch) -> list[Prediction]:
        """`boxes` (in the pixels of the batch's images), `scores` and `labels` of each image, best first."""
        ...


class MinedHead(DetectingHead, Protocol):
    def region_losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """`losses` of each region by itself, [B, R]; what is not drawn may have any."""
        ...


class AddingHead(Head, Protocol):
    def add(self, maps: Maps, predictions: list[Prediction], batch: Batch) -> None:
        """Put this head's own entry into each prediction, whose boxes are in the pixels of the batch's images."""
        ...


def split_objects(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Objects to be found, bool [B, N], and objects to be ignored (crowd, difficult) where they are known."""
    assert batch.valid is not None
    if batch.ignore is None:
        return batch.valid, None
    return batch.valid & ~batch.ignore, batch.valid & batch.ignore


class RegionFeatures(nn.Module):
    """A fixed-size map for each region, read from the level of `specs` that fits it, or from the only one."""

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        *,
        kind: Literal["roi_align", "roi_pool"] = "roi_align",
        bins: int = 7,
        sampling_ratio: int = 2,
    ) -> None:
        super().__init__()
        self.strides = {level: spec.stride for level, spec in specs.items()}
        self.kind, self.bins, self.sampling_ratio = kind, bins, sampling_ratio
        self.channels = next(iter(specs.values())).channels
        if kind == "roi_pool" and len(specs) > 1:
            raise ConfigError(
                "task.region_features=roi_pool reads one map, and this pyramid has "
                f"{', '.join(specs)}; type task.fpn_channels=null task.levels=[c4], or use roi_align"
            )

    def forward(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Boxes [B, R, 4] -> [B * R, C, bins, bins]; with RoI align channels-last in memory."""
        strides = list(self.strides.values())
        used: Sequence[Tensor] = [maps[level] for level in self.strides]
        if self.kind == "roi_pool":
            return roi_pool(used[0], strides[0], boxes, bins=self.bins)
        return roi_align(used, strides, boxes, bins=self.bins, sampling_ratio=self.sampling_ratio)
