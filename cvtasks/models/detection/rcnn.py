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
    SvmOptions,
    box_options,
    check_levels,
    make_sampler,
    make_svm_detector,
    make_trunk,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.given_proposals import GivenProposals
from cvtasks.nn.heads import BoxHead
from cvtasks.nn.pixels import Pixels
from cvtasks.nn.region_detector import RegionDetector
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
    level: str = "c5",
    crop_size: Count = 224,
    context: Annotated[int, Range(min=0)] = 16,
    chunk: Count = 256,
    head: Literal["auto", "two_fc", "vgg_fc", "mean"] = "auto",
    head_channels: Count = 1024,
    **options: Unpack[SvmOptions],
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
    if training == "joint":
        box_head = BoxHead(features, trunk, len(classes), **box_options(options))
        parts = (pixels, nn.Identity(), GivenProposals(), {"box": box_head})
        return RegionDetector(*parts, sampler=make_sampler(options))
    return make_svm_detector(
        pixels,
        features,
        trunk,
        options,
        pooled=features.channels * features.bins**2,
        classes=classes,
        settings=("rcnn", crop_size, context),
    )
