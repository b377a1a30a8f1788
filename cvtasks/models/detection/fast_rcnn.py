"""Fast R-CNN (Girshick, ICCV 2015): given proposals, one map for each image, RoI pooling, classes and boxes at once.

With the paper's truncated SVD as an option (`svd_fc6`, `svd_fc7`): the head detects with fc6 and fc7 cut to so many
components, and learns with all of them.

Deviations: nowhere in VGG16's form (`backbone=vgg16 backbone.with_classifier=true`). Other backbones have two fully
connected layers of their own behind the pooling.

    cvtasks train task=fast_rcnn
    cvtasks train task=fast_rcnn dataset=voc dataset.root=/data/VOC2007 backbone=vgg16 backbone.with_classifier=true \
        backbone.weights=imagenet
    cvtasks eval run=RUN task.svd_fc6=1024 task.svd_fc7=256
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

from torch import Tensor, nn

from cvtasks.models.detection.parts import (
    Count,
    RegionOptions,
    box_options,
    make_sampler,
    make_trunk,
    single_map,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.given_proposals import GivenProposals
from cvtasks.nn.heads import BoxHead, PretrainedFC, TwoFC, run_layers
from cvtasks.nn.low_rank import LowRankLayers
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import Maps, RegionFeatures
from cvtasks.types import ClassInfo


class TruncatedHead(BoxHead):
    """A `BoxHead` that detects with its fully connected layers cut to the largest components (section 3.1).

    components: of fc6 and of fc7; None leaves a layer as it is.
    """

    def __init__(
        self,
        features: nn.Module,
        trunk: TwoFC | PretrainedFC,
        *args: Any,
        components: Sequence[int | None],
        **more: Any,
    ) -> None:
        super().__init__(features, trunk, *args, **more)
        self._layers = LowRankLayers(trunk.layers, components)

    def detecting(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.answers(run_layers(self._layers(), self.features(maps, boxes)), boxes)


def fast_rcnn(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    level: str = "c4",
    region_features: Literal["roi_pool", "roi_align"] = "roi_pool",
    region_bins: Count = 7,
    head: Literal["auto", "two_fc", "vgg_fc"] = "auto",
    head_channels: Count = 1024,
    svd_fc6: Count | None = None,
    svd_fc7: Count | None = None,
    **options: Unpack[RegionOptions],
) -> RegionDetector:
    """Put the parts together; `conf/task/fast_rcnn.yaml` explains each setting. Raises ConfigError where they do not fit.

    level: the backbone's map that regions are pooled from; stages above it go.
    head: the backbone's fc6 and fc7, or two new layers of `head_channels`; "auto": the former where the backbone has them.
    svd_*: components that detection uses.
    """
    neck = single_map(backbone, level)
    features = RegionFeatures(neck.specs, kind=region_features, bins=region_bins)
    trunk = make_trunk(head, backbone, features.channels, region_bins, outputs=head_channels)
    assert isinstance(trunk, TwoFC | PretrainedFC)
    box_head = TruncatedHead(
        features, trunk, len(classes), components=(svd_fc6, svd_fc7), **box_options(options)
    )
    return RegionDetector(backbone, neck, GivenProposals(), {"box": box_head}, sampler=make_sampler(options))
