"""R-CNN (Girshick et al., CVPR 2014): every proposal is warped to one size and goes through the CNN alone.

Trained in the paper's three stages: softmax fine-tuning, a linear SVM for each class, a ridge regression of boxes for each
class (`nn.svm_detector`); or jointly, softmax and boxes with one loss as in Fast R-CNN, which tells what the "ad hoc
training objectives" are worth.

    cvtasks train task=rcnn
    cvtasks train task=rcnn task.training=joint
    cvtasks train task=rcnn task.classifier=softmax               fine-tuning and boxes, without SVMs
    cvtasks train task=rcnn dataset=voc dataset.root=/data/VOC2007 backbone.weights=imagenet

Deviations: the 32 positives and 96 backgrounds of a step are drawn from the images of a batch, not from all; the frame of a
crop is not rounded to pixels; an SVM's problem is solved, not descended to a tolerance.
"""

from __future__ import annotations

from typing import Annotated, Literal, Unpack

from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import (
    Count,
    PositiveNumber,
    RegionOptions,
    Share,
    box_options,
    check_levels,
    make_sampler,
    make_suppression,
    make_trunk,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.given_proposals import GivenProposals
from cvtasks.nn.heads import BoxHead
from cvtasks.nn.pixels import Pixels
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.svm_detector import SvmDetector, SvmHead
from cvtasks.nn.warp import WarpedCrops
from cvtasks.types import ClassInfo


class Mean(nn.Module):
    """The means of a map [R, C, S, S] -> [R, C]: what a residual network has in place of fc7."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.outputs = channels

    def forward(self, regions: Tensor) -> Tensor:
        return regions.float().mean((2, 3))


def rcnn(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    training: Literal["staged", "joint"] = "staged",
    classifier: Literal["svm", "softmax"] = "svm",
    level: str = "c5",
    crop_size: Count = 224,
    context: Annotated[int, Range(min=0)] = 16,
    chunk: Count = 256,
    head: Literal["auto", "two_fc", "vgg_fc", "mean"] = "auto",
    head_channels: Count = 1024,
    svm_cost: PositiveNumber = 1e-3,
    svm_positive_weight: PositiveNumber = 2.0,
    svm_negative_iou: Share = 0.3,
    box_iou: Share = 0.6,
    box_regularization: PositiveNumber = 1000.0,
    **options: Unpack[RegionOptions],
) -> RegionDetector:
    """Put the parts together; `conf/task/rcnn.yaml` explains each setting. Raises ConfigError where they do not fit.

    level: the backbone's map that the boxes, and the head, are computed from; stages above it go.
    chunk: crops that go through the CNN at once in prediction.
    head: "mean" has no layers, and the SVMs' features are the means of the map.
    """
    check_levels(backbone, level=level)
    if 2 * context >= crop_size:
        raise ConfigError(
            f"task.context={context}: leaves nothing of crops of {crop_size} pixels; type less than {(crop_size + 1) // 2}"
        )
    pixels = Pixels(backbone)
    features = WarpedCrops(backbone, level, size=crop_size, context=context, chunk=chunk)
    trunk = (
        Mean(features.channels)
        if head == "mean"
        else make_trunk(head, backbone, features.channels, features.bins, outputs=head_channels)
    )
    parts = (pixels, nn.Identity(), GivenProposals())
    if training == "joint":
        box_head = BoxHead(features, trunk, len(classes), **box_options(options))
        return RegionDetector(*parts, {"box": box_head}, sampler=make_sampler(options))
    svm_head = SvmHead(
        features,
        trunk,
        len(classes),
        pooled=features.channels * features.bins**2,
        svm_cost=svm_cost,
        svm_positive_weight=svm_positive_weight,
        box_regularization=box_regularization,
        suppression=make_suppression(options),
    )
    return SvmDetector(
        *parts,
        svm_head,
        classes=classes,
        classifier=classifier,
        svm_negative_iou=svm_negative_iou,
        box_iou=box_iou,
        settings=("rcnn", crop_size, context, box_iou),
        sampler=make_sampler(options),
    )
