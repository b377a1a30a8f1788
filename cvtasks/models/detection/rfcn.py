"""R-FCN (Dai et al., NIPS 2016): every layer is shared by all regions of an image, and none comes behind the pooling.

The last map, made by a 1x1 convolution of 1024 channels, gives k x k score maps for each class and the background, and
k x k x 4 maps for a box that all classes share. A region is cut into k x k bins; each reads its own maps alone, so that a
map of "the upper left part of a dog" learns to be just that, and the bins vote by their mean. Online hard example
mining is nearly free here (`roi_sampling=ohem`: Shrivastava et al., CVPR 2016).

Deviations: proposer and head are trained jointly. Stages 1 to 5 are torchvision's ResNet.

    cvtasks train task=rfcn
    cvtasks train task=rfcn dataset=voc dataset.root=/data/VOC2007 backbone=resnet101 backbone.weights=imagenet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import (
    Count,
    PositiveNumber,
    TwoStageOptions,
    box_options,
    check_levels,
    make_proposer,
    make_sampler,
)
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.fpn import convolution
from cvtasks.nn.heads import RegionHead
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import Maps
from cvtasks.ops.roi import ps_roi_align, ps_roi_pool
from cvtasks.types import ClassInfo

REGIONS = "regions"
"""The map that the head reads"""
Pooling = Literal["ps_roi_pool", "ps_roi_align"]


class ProposalAndRegionMaps(nn.Module):
    """The proposer's level as it is, and another one behind a 1x1 convolution as "regions"."""

    def __init__(
        self, specs: Mapping[str, FeatureSpec], level: str, region_level: str, *, channels: int
    ) -> None:
        super().__init__()
        self.level, self.region_level = level, region_level
        self.reduce = convolution(specs[region_level].channels, channels, 1, None)
        self.specs = {level: specs[level], REGIONS: FeatureSpec(channels, specs[region_level].stride)}

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.level: maps[self.level], REGIONS: F.relu(self.reduce(maps[self.region_level]))}


class PositionSensitiveHead(RegionHead):
    """k x k maps for each class and the background, k x k x 4 for boxes; regions pool from them and vote."""

    class_layers = ("scores",)

    def __init__(
        self, spec: FeatureSpec, num_classes: int, *, bins: int, pooling: Pooling, **options: Any
    ) -> None:
        super().__init__(num_classes, **options)
        self.stride, self.bins, self.pooling = spec.stride, bins, pooling
        self.scores = nn.Conv2d(spec.channels, bins**2 * (num_classes + 1), 1)
        self.offsets = nn.Conv2d(spec.channels, bins**2 * 4, 1)
        for layer in (self.scores, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [B, R, 4] -> scores [B, R, K + 1] (logits) and offsets [B, R, 1, 4], float32."""
        scores, offsets = (self.vote(layer(maps[REGIONS]), boxes) for layer in (self.scores, self.offsets))
        return scores, offsets[:, :, None]

    def vote(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Maps [B, C * k * k, H, W], the mean of what the bins of regions [B, R, 4] read: -> [B, R, C]."""
        pool = {"ps_roi_pool": ps_roi_pool, "ps_roi_align": ps_roi_align}[self.pooling]
        return pool(maps, self.stride, boxes, bins=self.bins).mean((3, 4))


def rfcn(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    proposal_level: str = "c4",
    level: str = "c5",
    dilate: bool = True,
    channels: Count = 1024,
    bins: Count = 3,
    pooling: Pooling = "ps_roi_pool",
    anchor_sizes: Sequence[PositiveNumber] = (128, 256, 512),
    **options: Unpack[TwoStageOptions],
) -> RegionDetector:
    """Put the parts together; `conf/task/rfcn.yaml` explains each setting. Raises ConfigError where they do not fit.

    proposal_level, level: of the backbone's maps, the one that the proposer reads and the one that the score maps are made
        of; stages above it go.
    dilate: that last stage keeps the resolution of the one before (stage 5 of a ResNet: stride 16).
    """
    check_levels(backbone, proposal_level=proposal_level, level=level)
    backbone.truncate(level)
    if proposal_level not in backbone.specs:
        raise ConfigError(
            f"task.proposal_level={proposal_level}: lies above task.level={level}; expected one of "
            f"{', '.join(backbone.specs)}"
        )
    if dilate:
        backbone.dilate()
    neck = ProposalAndRegionMaps(backbone.specs, proposal_level, level, channels=channels)
    proposer = make_proposer({proposal_level: neck.specs[proposal_level]}, [list(anchor_sizes)], options)
    head = PositionSensitiveHead(
        neck.specs[REGIONS], len(classes), bins=bins, pooling=pooling, **box_options(options)
    )
    return RegionDetector(backbone, neck, proposer, {"box": head}, sampler=make_sampler(options))
