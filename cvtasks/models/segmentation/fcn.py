"""Fully convolutional networks (Long et al., CVPR 2015): FCN-32s, FCN-16s and FCN-8s; and one that never down-samples.

A classification network is made convolutional: fc6 and fc7 become convolutions that take the classifier's weights, and a
1x1 convolution scores each position. FCN-16s and FCN-8s add the scores of finer maps (pool4, pool3), which
begin at zero, so that each network starts as good as the one before: train 32s, then 16s and 8s from its weights.

    cvtasks train task=fcn32s dataset=voc dataset.root=/data/VOC2012 backbone.weights=imagenet run_dir=runs/32s
    cvtasks train task=fcn16s dataset=voc dataset.root=/data/VOC2012 weights=runs/32s run_dir=runs/16s
    cvtasks train task=fcn8s  dataset=voc dataset.root=/data/VOC2012 weights=runs/16s

Deviations: fc6 pads its map, where the paper pads the image by 100 pixels and crops; the last up-sampling learns, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Unpack

from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.segmenter import Segmenter, SegmenterOptions, images_like
from cvtasks.nn.upsample import UpsampleKind, make_upsample
from cvtasks.types import ClassInfo

STRIDES = (32, 16, 8)
"""Of the maps that are scored: FCN-8s takes all, FCN-32s the first alone."""


class SkipScores(nn.Module):
    """Scores of the coarsest map, up-sampled to the next finer one and added to its scores, and so on to the image.

    specs: the maps. The first one of a stride is scored: VGG16's pool4 and pool3, a ResNet's only one.
    finest: the last stride whose map is scored. classifier: fc6 and fc7 of the backbone, if they are to be used.
    """

    class_layers = ("score", "skips", "upsample")
    stage_layers = ("skips", "upsample")

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        num_classes: int,
        *,
        finest: int,
        upsample: UpsampleKind,
        classifier: nn.Sequential | None,
    ) -> None:
        super().__init__()
        self.top = list(specs)[-1]
        channels = specs[self.top].channels
        self.head: nn.Module = nn.Identity()
        if classifier is not None:
            self.head = as_convolutions(classifier, channels)
            channels = [m for m in classifier if isinstance(m, nn.Linear)][-1].out_features
        self.score = _zero(nn.Conv2d(channels, num_classes, 1))
        self.levels: dict[int, str] = {}
        self.skips, self.upsample = nn.ModuleDict(), nn.ModuleDict()
        stride = STRIDES[0]
        for finer in [s for s in STRIDES[1:] if s >= finest]:
            self.levels[finer] = next(name for name, spec in specs.items() if spec.stride == finer)
            self.skips[str(finer)] = _zero(nn.Conv2d(specs[self.levels[finer]].channels, num_classes, 1))
            self.upsample[f"{stride}_to_{finer}"] = _upsample(upsample, num_classes, stride // finer)
            stride = finer
        self.upsample[f"{stride}_to_1"] = _upsample(upsample, num_classes, stride)
        self.stride = stride

    def forward(self, maps: Mapping[str, Tensor], images: Tensor) -> Tensor:
        scores, stride = self.score(self.head(maps[self.top])), STRIDES[0]
        for finer, level in self.levels.items():
            skip = self.skips[str(finer)](maps[level])
            scores = self.upsample[f"{stride}_to_{finer}"](scores, skip) + skip
            stride = finer
        return self.upsample[f"{stride}_to_1"](scores, images_like(scores, images, stride))


class PixelScores(nn.Module):
    """A 1x1 convolution on a map as large as the image."""

    class_layers = ("score",)

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.score = _zero(nn.Conv2d(channels, num_classes, 1))

    def forward(self, maps: Mapping[str, Tensor], images: Tensor) -> Tensor:
        (last,) = maps.values()
        return self.score(last)


def as_convolutions(classifier: nn.Sequential, channels: int) -> nn.Sequential:
    """Fully connected layers that take a flattened map, as convolutions that slide over a larger one.

    The first becomes as large as the map that it took (7 x 7 of VGG16), the others 1x1. Maps keep their size.
    """
    layers: list[nn.Module] = []
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            side = math.isqrt(layer.in_features // channels)
            convolution = nn.Conv2d(channels, layer.out_features, side, padding="same")
            convolution.weight = nn.Parameter(layer.weight.detach().view(convolution.weight.shape))
            convolution.bias = layer.bias
            channels, layer = layer.out_features, convolution
        layers.append(layer)
    return nn.Sequential(*layers)


def fcn32s(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    upsample: UpsampleKind = "transpose_conv",
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """One prediction for 32 x 32 pixels, up-sampled in one step. fc6 and fc7 are used where the backbone has them."""
    return _fcn(backbone, classes, 32, upsample, options)


def fcn16s(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    upsample: UpsampleKind = "transpose_conv",
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """FCN-32s, and scores of the stride-16 map."""
    return _fcn(backbone, classes, 16, upsample, options)


def fcn8s(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    upsample: UpsampleKind = "transpose_conv",
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """FCN-16s, and scores of the stride-8 map."""
    return _fcn(backbone, classes, 8, upsample, options)


def fcn_full_res(backbone: Backbone, *, classes: ClassInfo, **options: Unpack[SegmenterOptions]) -> Segmenter:
    """Convolutions without any down-sampling, and a score for each pixel.

    Raises ConfigError for a backbone that down-samples.
    """
    if any(spec.stride > 1 for spec in backbone.specs.values()):
        raise ConfigError(
            "task=fcn_full_res never down-samples, and this backbone does; type backbone=full_resolution"
        )
    (spec,) = backbone.specs.values()
    return Segmenter(backbone, PixelScores(spec.channels, len(classes)), classes=classes, **options)


def _fcn(
    backbone: Backbone,
    classes: ClassInfo,
    finest: int,
    upsample: UpsampleKind,
    options: SegmenterOptions,
) -> Segmenter:
    strides = [spec.stride for spec in backbone.specs.values()]
    needed = [stride for stride in STRIDES if stride >= finest]
    if strides[-1] != STRIDES[0] or not set(needed) <= set(strides):
        raise ConfigError(
            f"task=fcn{finest}s scores maps of stride {', '.join(map(str, needed))}; this backbone's have "
            f"{', '.join(map(str, dict.fromkeys(strides)))}; type backbone=vgg16 or backbone=resnet50, for example"
        )
    classifier = backbone.take_classifier() if hasattr(backbone, "classifier") else None
    decoder = SkipScores(
        backbone.specs, len(classes), finest=finest, upsample=upsample, classifier=classifier
    )
    return Segmenter(backbone, decoder, classes=classes, **options)


def _upsample(kind: UpsampleKind, num_classes: int, stride: int) -> nn.Module:
    return make_upsample(kind, num_classes, num_classes, kernel=2 * stride, stride=stride)


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
