"""SPP-net (He et al., ECCV 2014): one map for each image, and a spatial pyramid of every region on it.

Stages as in R-CNN (`nn.svm_detector`): the fully connected layers are fine-tuned, the convolutions stay as they are; then
an SVM and a ridge regression of boxes for each class.

    cvtasks train task=sppnet
    cvtasks train task=sppnet dataset=voc dataset.root=/data/VOC2007 backbone.weights=imagenet
    cvtasks eval run=RUN task.scales=[0.7,0.84,1,1.26,1.75]        the paper's five scales, about the one trained with

Deviations: fc6 and fc7 begin at random unless a file has them, as no published network was trained with the pyramid; the
regions of a step are drawn from the images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from cvtasks.models.detection.parts import (
    Count,
    PositiveNumber,
    SvmOptions,
    check_levels,
    make_svm_detector,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.heads import TwoFC
from cvtasks.nn.pyramid_pooling import ImagePyramid, PyramidPooling
from cvtasks.nn.svm_detector import SvmDetector
from cvtasks.types import ClassInfo


def sppnet(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    level: str = "c4",
    train_convolutions: bool = False,
    pyramid: Sequence[Count] = (1, 2, 3, 6),
    scales: Sequence[PositiveNumber] = (1.0,),
    head_channels: Count = 4096,
    **options: Unpack[SvmOptions],
) -> SvmDetector:
    """Put the parts together; `conf/task/sppnet.yaml` explains each setting. Raises ConfigError where they do not fit.

    level: the backbone's map that regions are pooled from; stages above it go.
    train_convolutions: not the paper's, but without trained weights to begin with there is nothing else.
    scales: of the pipeline's images; a region is read from the one at which it is nearest to 224 x 224 pixels.
    """
    check_levels(backbone, level=level)
    images = ImagePyramid(backbone, level, scales)
    if not train_convolutions:
        backbone.freeze(level)
    features = PyramidPooling(images, parts=pyramid)
    return make_svm_detector(
        images,
        features,
        TwoFC(features.channels, head_channels),
        options,
        pooled=features.channels,
        classes=classes,
        settings=("sppnet", *pyramid, *scales),
    )
