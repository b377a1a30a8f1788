"""U-Net (Ronneberger et al., MICCAI 2015): as published, and on any backbone as its contracting path.

    cvtasks train task=unet
    cvtasks train task=unet backbone=resnet18 dataset=voc dataset.root=/data/VOC2012
    cvtasks train task=unet backbone.valid=true task.border_weight=10 task.eval_window=572 task.eval_margin=92

Deviations: convolutions pad unless `backbone.valid=true`; the up-convolution has no bias. `border_weight` weights the
ground alone, by the distances to the nearest pixels of the two nearest objects; objects are the connected regions of a
class, class 0 being the ground, or the masks where a batch has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Unpack

import torch
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.backbones.unet import double_convolution
from cvtasks.nn.norm import NormKind
from cvtasks.nn.segmenter import Segmenter, SegmenterOptions, images_like
from cvtasks.nn.upsample import UpsampleKind, make_upsample
from cvtasks.ops.borders import border_weights, components, numbered
from cvtasks.types import Batch, ClassInfo

PositiveCount = Annotated[int, Range(min=1)]


class ExpandingPath(nn.Module):
    """From the coarsest map to the image in steps of two: up-sample, put the map of that size beside it, convolve twice.

    specs: the maps. Of several of one stride the last is read.
    channels: of each step; null: as many as the map has, and half as many as the step before where there is none.
    valid: convolutions do not pad, and maps are cropped to their middle, as in the paper.
    """

    class_layers = ("score",)

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        num_classes: int,
        *,
        channels: Sequence[int] | None,
        upsample: UpsampleKind,
        kernel: int,
        norm: NormKind | None,
        valid: bool,
    ) -> None:
        super().__init__()
        self.valid = valid
        levels = {spec.stride: name for name, spec in specs.items()}
        stride = max(levels)
        self.top, width = levels[stride], specs[levels[stride]].channels
        steps = stride.bit_length() - 1
        if not steps:
            raise ConfigError(
                "task=unet up-samples, and this backbone's maps are as large as the image: choose another"
            )
        if channels is not None and len(channels) != steps:
            raise ConfigError(
                f"task.channels={list(channels)}: from stride {stride} to the image there are {steps} steps; "
                f"expected {steps} numbers, coarsest first"
            )
        self.skips: list[str | None] = []
        self.upsample, self.convolutions = nn.ModuleList(), nn.ModuleList()
        for step in range(steps):
            stride //= 2
            skip = levels.get(stride)
            beside = specs[skip].channels if skip else 0
            outputs = channels[step] if channels else beside or max(1, width // 2)
            self.skips.append(skip)
            self.upsample.append(make_upsample(upsample, width, outputs, kernel=kernel))
            self.convolutions.append(double_convolution(outputs + beside, outputs, norm=norm, valid=valid))
            width = outputs
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = maps[self.top]
        for skip, upsample, convolutions in zip(self.skips, self.upsample, self.convolutions, strict=True):
            like = images_like(x, images, 2) if skip is None else maps[skip]
            if self.valid:
                like = middle(like, 2 * x.shape[2], 2 * x.shape[3])
            x = upsample(x, like)
            x = convolutions(x if skip is None else torch.cat([like, x], dim=1))
        logits = self.score(x)
        # The mirrored border is gone from the top and the left; what is left of it is at the bottom and the right.
        return logits[..., : images.shape[2], : images.shape[3]] if self.valid else logits


def middle(maps: Tensor, height: int, width: int) -> Tensor:
    """The middle of maps [B, C, H, W]: [B, C, height, width]."""
    top, left = (maps.shape[2] - height) // 2, (maps.shape[3] - width) // 2
    return maps[..., top : top + height, left : left + width]


class BorderWeights:
    """The paper's map of pixel weights, made of a batch's labels: a factor for each pixel, float32 [B, H, W]."""

    def __init__(self, weight: float, sigma: float) -> None:
        self.weight, self.sigma = weight, sigma

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        assert batch.segmentation is not None
        if batch.masks is not None and batch.valid is not None:
            objects = numbered(batch.masks, batch.valid)
        else:
            objects = components(batch.segmentation)
        return border_weights(objects, weight=self.weight, sigma=self.sigma)


def unet(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    channels: Sequence[PositiveCount] | None = None,
    upsample: UpsampleKind = "transpose_conv",
    upsample_kernel: Annotated[int, Range(min=2)] = 2,
    norm: NormKind | None = None,
    border_weight: Annotated[float, Range(min=0)] = 0.0,
    border_sigma: Annotated[float, Range(above=0)] = 5.0,
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """The expanding path on any backbone.

    channels: of each step up, coarsest first (see `ExpandingPath`). upsample_kernel: of transpose_conv; the paper's
    up-convolution has 2. norm: of the expanding path. border_weight: 0 is plain cross-entropy, the paper has 10.
    Raises ConfigError where the parts do not fit.
    """
    valid = bool(getattr(backbone, "valid", False))
    decoder = ExpandingPath(
        backbone.specs,
        len(classes),
        channels=channels,
        upsample=upsample,
        kernel=upsample_kernel,
        norm=norm,
        valid=valid,
    )
    weights = BorderWeights(border_weight, border_sigma) if border_weight > 0 else None
    return Segmenter(backbone, decoder, classes=classes, pixel_weights=weights, **options)
