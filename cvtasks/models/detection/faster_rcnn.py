"""Faster R-CNN (Ren et al., NIPS 2015), on a feature pyramid (Lin et al., CVPR 2017) or on one map as in its paper.

Deviations: proposer and head are trained jointly, as in the paper's later versions, not by four alternating steps. Anchors
and regions are sampled for each image, with the numbers of torchvision and detectron2 in the pyramid's form.

    cvtasks train task=faster_rcnn
    cvtasks train task=faster_rcnn_vgg16 dataset=voc dataset.root=/data/VOC2007 backbone.weights=imagenet
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.fpn import FeaturePyramid, SingleMap
from cvtasks.nn.heads import BoxHead, ConvFC, PretrainedFC, TwoFC
from cvtasks.nn.norm import NormKind
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import RegionFeatures
from cvtasks.nn.rpn import RegionProposalNetwork
from cvtasks.ops.losses import DETECTION_BETA
from cvtasks.types import ClassInfo

Count = Annotated[int, Range(min=1)]
Share = Annotated[float, Range(min=0, max=1)]
PositiveNumber = Annotated[float, Range(above=0)]


def faster_rcnn(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    levels: Sequence[str] = ("c2", "c3", "c4", "c5"),
    fpn_channels: Count | None = 256,
    fpn_norm: NormKind | None = None,
    anchor_sizes: Sequence[Sequence[PositiveNumber]] = ((32,), (64,), (128,), (256,), (512,)),
    anchor_ratios: Sequence[PositiveNumber] = (0.5, 1.0, 2.0),
    rpn_convs: Count = 1,
    rpn_positive_iou: Share = 0.7,
    rpn_negative_iou: Share = 0.3,
    rpn_samples: Count = 256,
    rpn_positive_fraction: Share = 0.5,
    rpn_before_nms_train: Count = 2000,
    rpn_before_nms_test: Count = 1000,
    rpn_nms_threshold: Share = 0.7,
    rpn_score_threshold: Share = 0.0,
    rpn_proposals_train: Count = 2000,
    rpn_proposals_test: Count = 1000,
    region_features: Literal["roi_align", "roi_pool"] = "roi_align",
    region_bins: Count = 7,
    sampling_ratio: Annotated[int, Range(min=0)] = 2,
    head: Literal["two_fc", "conv_fc", "vgg_fc"] = "two_fc",
    head_channels: Count = 1024,
    head_norm: NormKind | None = None,
    roi_samples: Count = 512,
    roi_positive_fraction: Share = 0.25,
    roi_positive_iou: Share = 0.5,
    roi_negative_iou: Share = 0.5,
    coder_weights: tuple[PositiveNumber, PositiveNumber, PositiveNumber, PositiveNumber] = (
        10.0,
        10.0,
        5.0,
        5.0,
    ),
    box_beta: Annotated[float, Range(min=0)] = DETECTION_BETA,
    score_threshold: Share = 0.05,
    nms_threshold: Share = 0.5,
    detections_per_image: Count = 100,
) -> RegionDetector:
    """Put the parts together. Defaults are torchvision's for the pyramid; `conf/task` explains each of them.

    levels: the backbone's maps, finest first; exactly one where `fpn_channels` is None. Stages above the last one go.
    anchor_sizes: a list for each level, in pixels; one list more adds a level above the pyramid, for the proposer alone.
    rpn_before_nms_*: for each level; rpn_proposals_*: in all.
    head: "vgg_fc" takes fc6 and fc7 over from the backbone, with their weights (`backbone.with_classifier=true`).
    Raises ConfigError where the parts do not fit.
    """
    unknown = [level for level in levels if level not in backbone.specs]
    if unknown or not levels:
        raise ConfigError(
            f"task.levels={list(levels)}: expected levels of this backbone, which are {', '.join(backbone.specs)}"
        )
    neck: FeaturePyramid | SingleMap
    if fpn_channels is None:
        if len(levels) > 1:
            raise ConfigError(
                f"task.levels={list(levels)}: without a pyramid there is one level; type task.levels=[c4], or set "
                "task.fpn_channels"
            )
        neck = SingleMap(backbone.specs, levels[0])
    else:
        extra = len(anchor_sizes) == len(levels) + 1
        neck = FeaturePyramid(backbone.specs, levels, channels=fpn_channels, norm=fpn_norm, extra=extra)
    backbone.truncate(levels[-1])
    proposer = RegionProposalNetwork(
        neck.specs,
        anchor_sizes=anchor_sizes,
        anchor_ratios=anchor_ratios,
        convs=rpn_convs,
        positive_iou=rpn_positive_iou,
        negative_iou=rpn_negative_iou,
        samples=rpn_samples,
        positive_fraction=rpn_positive_fraction,
        before_nms=(rpn_before_nms_train, rpn_before_nms_test),
        after_nms=(rpn_proposals_train, rpn_proposals_test),
        nms_threshold=rpn_nms_threshold,
        score_threshold=rpn_score_threshold,
        beta=box_beta,
    )
    features = RegionFeatures(
        dict(list(neck.specs.items())[: len(levels)]),
        kind=region_features,
        bins=region_bins,
        sampling_ratio=sampling_ratio,
    )
    trunk: nn.Module
    if head == "two_fc":
        trunk = TwoFC(features.channels * region_bins**2, head_channels)
    elif head == "conv_fc":
        trunk = ConvFC(features.channels, region_bins, head_channels, head_norm)
    else:
        trunk = PretrainedFC(backbone.take_classifier(), features.channels, region_bins)
    box_head = BoxHead(
        features,
        trunk,
        len(classes),
        coder_weights=coder_weights,
        beta=box_beta,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections_per_image,
    )
    return RegionDetector(
        backbone,
        neck,
        proposer,
        {"box": box_head},
        samples=roi_samples,
        positive_fraction=roi_positive_fraction,
        positive_iou=roi_positive_iou,
        negative_iou=roi_negative_iou,
    )
