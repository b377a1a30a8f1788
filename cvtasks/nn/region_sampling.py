"""Which regions a detector's heads learn from: drawn at random (Girshick, ICCV 2015, section 2.3), or the hardest ones.

Both look at the proposals and at the true boxes, as early in training there is nothing better.
Letters: B images, R regions, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cvtasks.nn.regions import Maps, Proposals, Samples, split_objects
from cvtasks.ops.matching import match, take
from cvtasks.ops.nms import suppress
from cvtasks.ops.sampling import sample
from cvtasks.types import Batch


@dataclass(frozen=True)
class RandomSampling:
    """A `Sampler`: up to `count` regions of each image, at most `positive_fraction` of them positive.

    A region is positive from an IoU of `positive_iou` with an object on. It is background below `negative_iou`, and from
    `background_iou` on: Fast R-CNN's 0.1 leaves out what nothing is near to.
    """

    count: int = 512
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    background_iou: float = 0.0

    @torch.no_grad()
    def __call__(self, maps: Maps, proposals: Proposals, batch: Batch, head: Any) -> Samples:
        regions = label_regions(
            proposals,
            batch,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            background_iou=self.background_iou,
        )
        index, drawn = sample(
            regions.positive,
            regions.drawn & ~regions.positive,
            count=self.count,
            positive_fraction=self.positive_fraction,
        )
        return _chosen(regions, index, drawn)


@dataclass(frozen=True)
class HardExampleMining:
    """A `Sampler`: of all regions of an image, the `count` with the largest loss (OHEM: Shrivastava et al., CVPR 2016).

    The head tells every region's loss, without a gradient. Regions that overlap by more than `nms_threshold` have about the
    same loss, so only the one with the largest is taken; 1 takes all, as R-FCN's code does. No share of positives is
    asked for, and no least overlap of the background.
    """

    count: int = 128
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    nms_threshold: float = 0.7

    @torch.no_grad()
    def __call__(self, maps: Maps, proposals: Proposals, batch: Batch, head: Any) -> Samples:
        regions = label_regions(
            proposals, batch, positive_iou=self.positive_iou, negative_iou=self.negative_iou
        )
        losses = torch.stack(list(head.region_losses(maps, regions, batch).values())).sum(0)
        # What is not a number is the hardest of all, so that it gets as far as the losses, where it is noticed.
        losses = losses.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(~regions.drawn, -torch.inf)
        if self.nms_threshold < 1:
            kept = suppress(regions.boxes, losses, [losses.shape[1]], iou=self.nms_threshold)
            losses = losses.masked_fill(~kept, -torch.inf)
        hardest, index = losses.topk(min(self.count, losses.shape[1]), dim=1)
        return _chosen(regions, index, hardest > -torch.inf)


def label_regions(
    proposals: Proposals,
    batch: Batch,
    *,
    positive_iou: float,
    negative_iou: float,
    background_iou: float = 0.0,
) -> Samples:
    """All proposals and true boxes as samples, R of them; `drawn` are those that are either positive or background."""
    assert batch.boxes is not None
    objects, ignored = split_objects(batch)
    boxes = torch.cat([proposals.boxes, batch.boxes], dim=1)
    valid = torch.cat([proposals.valid, objects], dim=1)
    matched = match(
        boxes,
        batch.boxes,
        objects=objects,
        ignored=ignored,
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        background_iou=background_iou,
        keep_best=False,
    )
    drawn = (matched.positive | matched.negative) & valid
    return Samples(boxes, drawn, matched.positive & valid, matched.index)


def _chosen(regions: Samples, index: Tensor, drawn: Tensor) -> Samples:
    positive = take(regions.positive, index) & drawn
    return Samples(take(regions.boxes, index), drawn, positive, take(regions.index, index))
