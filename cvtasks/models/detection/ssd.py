"""SSD (Liu et al., ECCV 2016) for 300 and 512 pixels, and SSDLite (Sandler et al., CVPR 2018), on any backbone.

On VGG16 as in the paper: conv4_3 at unit length times a learnt scale, fc6 and fc7 as convolutions with holes, extra layers
above. Other networks give the maps of their levels, and the extra layers begin at the last.

    cvtasks train task=ssd
    cvtasks train task=ssd dataset=voc dataset.root=/data/VOC2007 backbone.weights=imagenet
    cvtasks train task=ssdlite weights=ssdlite320_mobilenet_v3_large dataset=coco dataset.root=/data/coco

Deviations: see `nn.multibox`. Pixels are normalised with the backbone's statistics; published detectors bring their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from cvtasks.config.schema import Range
from cvtasks.models.detection.parts import Count, PositiveNumber, Share, check_levels
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.dense_detector import DenseDetector
from cvtasks.nn.multibox import BestOfEachClass, DefaultBoxes, DefaultBoxMatching, MultiboxLoss
from cvtasks.nn.multibox_maps import ExtraKind, MultiboxHead, MultiboxMaps
from cvtasks.nn.norm import NormKind
from cvtasks.nn.suppression import Suppression
from cvtasks.types import ClassInfo


def ssd(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    levels: Sequence[str] = ("c3", "c4"),
    l2_scale: PositiveNumber | None = 20.0,
    fc_channels: Count | None = 1024,
    extra_channels: Sequence[Annotated[int, Range(min=2)]] = (512, 256, 256, 256),
    extra_layers: Sequence[ExtraKind] = ("half", "half", "valid", "valid"),
    lite: bool = False,
    norm: NormKind | None = None,
    scales: Sequence[PositiveNumber] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    ratios: Sequence[Sequence[PositiveNumber]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    steps: Sequence[PositiveNumber] | None = (8, 16, 32, 64, 100, 300),
    clip_boxes: bool = True,
    positive_iou: Share = 0.5,
    negatives: PositiveNumber = 3.0,
    box_beta: Annotated[float, Range(min=0)] = 1.0,
    variances: tuple[PositiveNumber, PositiveNumber] = (0.1, 0.2),
    score_threshold: float = 0.01,
    candidates: Count = 400,
    nms_threshold: Share = 0.45,
    detections_per_image: Count = 200,
) -> DenseDetector:
    """Put the parts together. Defaults are torchvision's ssd300_vgg16; `conf/task` explains each of them.

    levels: the backbone's maps, finest first; stages above the last one go. Extra layers make one more map each.
    Raises ConfigError where the parts do not fit.
    """
    check_levels(backbone, levels=levels)
    classifier = backbone.take_classifier() if hasattr(backbone, "classifier") else None
    backbone.truncate(levels[-1])
    for layer in backbone.modules():
        # As in Caffe: 75 pixels make 38 positions.
        if isinstance(layer, nn.MaxPool2d) and layer.kernel_size == 2:
            layer.ceil_mode = True
    # In the state: those of published detectors are not the backbone's, and a checkpoint has to remember them.
    for name in ("mean", "std"):
        backbone.register_buffer(name, getattr(backbone, name))
    neck = MultiboxMaps(
        backbone.specs,
        levels,
        l2_scale=l2_scale,
        fc_channels=fc_channels,
        extra_channels=extra_channels,
        extra_layers=extra_layers,
        lite=lite,
        norm=norm,
    )
    if classifier is not None and neck.fc is not None:
        neck.fc.take_over(classifier)
    boxes = DefaultBoxes(scales, ratios, steps=steps, clip=clip_boxes)
    center, size = variances
    coder_weights = (1 / center, 1 / center, 1 / size, 1 / size)
    return DenseDetector(
        backbone,
        neck,
        MultiboxHead(neck.channels, boxes.kinds, len(classes), lite=lite, norm=norm),
        boxes,
        matching=DefaultBoxMatching(positive_iou),
        criterion=MultiboxLoss(coder_weights=coder_weights, negatives=negatives, beta=box_beta),
        choice=BestOfEachClass(candidates),
        suppression=Suppression(
            score_threshold=score_threshold, nms_threshold=nms_threshold, detections=detections_per_image
        ),
        coder_weights=coder_weights,
    )
