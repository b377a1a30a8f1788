"""RetinaNet (Lin et al., ICCV 2017): nine anchors at every position of five pyramid levels, and the focal loss.

Of a hundred thousand anchors a few dozen show an object. The focal loss takes the weight off those that are easily told to
be background, so that no proposer, no sampling and no mining need stand in front of the classifier. Two small networks, the
same for every level, say of each anchor which classes it shows, each with a probability of its own, and where the box ends.

The losses of an image are divided by the number of its positive anchors, and an object that no anchor overlaps by
`positive_iou` gets those that overlap it most, as in torchvision.
Deviations: anchors most of which lie in a crowd or a difficult object are left out; detections of no extent are dropped.

    cvtasks train task=retinanet
    cvtasks train task=retinanet dataset=coco dataset.root=/data/coco backbone.weights=imagenet
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Unpack

from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import (
    Count,
    DetectionOptions,
    PositiveNumber,
    Share,
    check_levels,
    make_suppression,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.dense_detector import (
    AnchorGrid,
    Assignment,
    BestOfEachLevel,
    BoxLoss,
    DenseDetector,
    IouMatching,
    box_losses,
    flatten_maps,
)
from cvtasks.nn.fpn import FeaturePyramid, StridedLevels
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.nn.regions import Maps
from cvtasks.ops.losses import DETECTION_BETA, focal
from cvtasks.types import ClassInfo


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, one for classes and one for boxes; their weights are shared by all levels.

    kinds: anchors at a position; prior: the probability that each class has at first (the paper's section 4.1), without
    which the many background anchors' loss would drown everything in the first steps.
    """

    class_layers = ("scores",)

    def __init__(
        self,
        channels: int,
        kinds: int,
        num_classes: int,
        *,
        convs: int = 4,
        norm: NormKind | None = None,
        group_channels: int = 8,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes

        def tower() -> nn.Sequential:
            layers = []
            for _ in range(convs):
                conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)
                norms = [] if norm is None else [make_norm(norm, channels, group_channels=group_channels)]
                layers.append(nn.Sequential(conv, *norms, nn.ReLU(inplace=True)))
            return nn.Sequential(*layers)

        self.class_tower, self.box_tower = tower(), tower()
        self.scores = nn.Conv2d(channels, kinds * num_classes, 3, padding=1)
        self.offsets = nn.Conv2d(channels, kinds * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.scores.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """Logits [B, N, K] and offsets [B, N, 4] of all anchors."""
        scores = [self.scores(self.class_tower(x)) for x in maps.values()]
        offsets = [self.offsets(self.box_tower(x)) for x in maps.values()]
        return flatten_maps(scores, self.num_classes), flatten_maps(offsets, 4)


@dataclass(frozen=True)
class RetinaNetLoss:
    """A `Criterion`: `classification`, the focal loss of all anchors but those in between, and `box_regression`."""

    alpha: float = 0.25
    gamma: float = 2.0
    box: BoxLoss = "l1"
    box_beta: float = DETECTION_BETA

    def __call__(self, scores: Tensor, offsets: Tensor, assigned: Assignment) -> dict[str, Tensor]:
        positive = assigned.positive
        each = box_losses(offsets, assigned, kind=self.box, beta=self.box_beta).masked_fill(~positive, 0)
        classes = focal(
            scores,
            assigned.labels,
            positive=positive,
            negative=assigned.negative,
            alpha=self.alpha,
            gamma=self.gamma,
        )
        number = positive.sum(1).clamp(min=1)
        return {
            "classification": (classes / number).mean(),
            "box_regression": (each.sum(1) / number).mean(),
        }


def retinanet(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    levels: Sequence[str] | None = None,
    level_strides: tuple[Count, Count] = (8, 32),
    fpn_channels: Count = 256,
    fpn_norm: NormKind | None = None,
    extra_levels: Annotated[int, Range(min=0)] = 2,
    extra_from: Literal["backbone", "pyramid"] = "backbone",
    anchor_scale: Annotated[float, Range(min=1)] = 4.0,
    anchor_octaves: Count = 3,
    anchor_ratios: Sequence[PositiveNumber] = (0.5, 1.0, 2.0),
    head_convs: Annotated[int, Range(min=0)] = 4,
    head_norm: NormKind | None = None,
    head_group_channels: Count = 8,
    prior: Annotated[float, Range(above=0, below=1)] = 0.01,
    positive_iou: Share = 0.5,
    negative_iou: Share = 0.4,
    focal_alpha: Share = 0.25,
    focal_gamma: Annotated[float, Range(min=0)] = 2.0,
    box_loss: BoxLoss = "l1",
    box_beta: Annotated[float, Range(min=0)] = DETECTION_BETA,
    candidates_per_level: Count = 1000,
    **options: Unpack[DetectionOptions],
) -> DenseDetector:
    """Put the parts together; `conf/task/retinanet.yaml` explains each setting.

    levels: the backbone's maps, finest first; None: those whose strides `level_strides` includes. Stages above go.
    anchor_scale: the side of a level's smallest anchors, in its strides.
    Raises ConfigError where the parts do not fit.
    """
    if levels is None:
        levels = levels_between(backbone, *level_strides)
    check_levels(backbone, levels=levels)
    if negative_iou > positive_iou:
        raise ConfigError(
            f"task.negative_iou={negative_iou}: expected at most task.positive_iou={positive_iou}"
        )
    backbone.truncate(levels[-1])
    from_pyramid = extra_from == "pyramid"
    inputs = fpn_channels if from_pyramid else backbone.specs[levels[-1]].channels
    neck = FeaturePyramid(
        backbone.specs,
        levels,
        channels=fpn_channels,
        norm=fpn_norm,
        extra=StridedLevels(inputs, fpn_channels, count=extra_levels, from_pyramid=from_pyramid),
    )
    # Whole pixels, as torchvision's: its published weights were trained with these.
    sizes = [
        [int(anchor_scale * spec.stride * 2 ** (n / anchor_octaves)) for n in range(anchor_octaves)]
        for spec in neck.specs.values()
    ]
    head = RetinaNetHead(
        fpn_channels,
        anchor_octaves * len(anchor_ratios),
        len(classes),
        convs=head_convs,
        norm=head_norm,
        group_channels=head_group_channels,
        prior=prior,
    )
    return DenseDetector(
        backbone,
        neck,
        head,
        AnchorGrid(sizes, anchor_ratios),
        matching=IouMatching(positive_iou, negative_iou, keep_best=True),
        criterion=RetinaNetLoss(focal_alpha, focal_gamma, box_loss, box_beta),
        choice=BestOfEachLevel(candidates_per_level),
        suppression=make_suppression(options),
    )


def levels_between(backbone: Backbone, finest: int, coarsest: int) -> list[str]:
    """The last map of each stride from `finest` to `coarsest`; of a network without any, of its last three strides."""
    last = [level for level in backbone.specs if level[1:].isdigit()]
    between = [level for level in last if finest <= backbone.specs[level].stride <= coarsest]
    return between or last[-3:]
