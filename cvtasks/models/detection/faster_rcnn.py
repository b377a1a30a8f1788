"""Faster R-CNN (Ren et al., NIPS 2015), on a feature pyramid (Lin et al., CVPR 2017) or on one map as in its paper.

Proposer and head are trained jointly, as in the paper's later versions, or by its four alternating steps
(`training=alternating`, see `nn.alternating`).

Deviations: anchors and regions are sampled for each image, with the numbers of torchvision and detectron2 in the pyramid's
form.

    cvtasks train task=faster_rcnn
    cvtasks train task=faster_rcnn task.training=alternating
    cvtasks train task=faster_rcnn_vgg16 dataset=voc dataset.root=/data/VOC2007 backbone.weights=imagenet
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Unpack

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import (
    Count,
    PositiveNumber,
    TwoStageOptions,
    box_options,
    check_levels,
    make_proposer,
    make_sampler,
    make_trunk,
)
from cvtasks.nn.alternating import AlternatingDetector
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.fpn import FeaturePyramid, SingleMap, SubsampledLevel
from cvtasks.nn.heads import BoxHead
from cvtasks.nn.norm import NormKind
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import RegionFeatures
from cvtasks.ops.losses import DETECTION_BETA
from cvtasks.types import ClassInfo


def faster_rcnn(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    levels: Sequence[str] = ("c2", "c3", "c4", "c5"),
    fpn_channels: Count | None = 256,
    fpn_norm: NormKind | None = None,
    anchor_sizes: Sequence[Sequence[PositiveNumber]] = ((32,), (64,), (128,), (256,), (512,)),
    region_features: Literal["roi_align", "roi_pool"] = "roi_align",
    region_bins: Count = 7,
    sampling_ratio: Annotated[int, Range(min=0)] = 2,
    head: Literal["two_fc", "conv_fc", "vgg_fc"] = "two_fc",
    head_channels: Count = 1024,
    head_norm: NormKind | None = None,
    training: Literal["joint", "alternating"] = "joint",
    **options: Unpack[TwoStageOptions],
) -> RegionDetector:
    """Put the parts together. Defaults are torchvision's for the pyramid; `conf/task` explains each of them.

    levels: the backbone's maps, finest first; exactly one where `fpn_channels` is None. Stages above the last one go.
    anchor_sizes: a list for each level, in pixels; one list more adds a level above the pyramid, for the proposer alone.
    rpn_before_nms_*: for each level; rpn_proposals_*: in all.
    head: "vgg_fc" takes fc6 and fc7 over from the backbone, with their weights (`backbone.with_classifier=true`).
    Raises ConfigError where the parts do not fit.
    """
    check_levels(backbone, levels=levels)
    neck: FeaturePyramid | SingleMap
    if fpn_channels is None:
        if len(levels) > 1:
            raise ConfigError(
                f"task.levels={list(levels)}: without a pyramid there is one level; type task.levels=[c4], or set "
                "task.fpn_channels"
            )
        neck = SingleMap(backbone.specs, levels[0])
    else:
        extra = SubsampledLevel() if len(anchor_sizes) == len(levels) + 1 else None
        neck = FeaturePyramid(backbone.specs, levels, channels=fpn_channels, norm=fpn_norm, extra=extra)
    backbone.truncate(levels[-1])
    proposer = make_proposer(neck.specs, anchor_sizes, options, beta=options.get("box_beta", DETECTION_BETA))
    features = RegionFeatures(
        dict(list(neck.specs.items())[: len(levels)]),
        kind=region_features,
        bins=region_bins,
        sampling_ratio=sampling_ratio,
    )
    trunk = make_trunk(head, backbone, features.channels, region_bins, outputs=head_channels, norm=head_norm)
    box_head = BoxHead(features, trunk, len(classes), **box_options(options))
    kind = {"joint": RegionDetector, "alternating": AlternatingDetector}[training]
    return kind(backbone, neck, proposer, {"box": box_head}, sampler=make_sampler(options))
