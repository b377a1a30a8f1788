"""Inception-ResNet V2 (Szegedy et al., AAAI 2017), under timm's names, so that its published weights load from a file.

    cvtasks train task=faster_rcnn backbone=inception_resnet_v2
    cvtasks train task=faster_rcnn backbone=inception_resnet_v2 backbone.weights=FILE

Deviations are those of the authors' code, which the weights belong to: the stem is Inception V3's, with one module of
branches behind it. Where they do not pad, this does, unless `aligned=false`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.backbones.inception_parts import MEAN, STD, UNPADDED_SMALLEST, Branches, ConvNorm, align
from cvtasks.nn.norm import Norm, NormKind, choose_norm


class Residual(nn.Module):
    """x + scale * conv(branches(x)), and a ReLU. The paper scales residuals down, as training was not stable without."""

    def __init__(
        self, channels: int, width: int, branches: Sequence[nn.Module], *, scale: float, relu: bool = True
    ) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self.branches = len(branches)
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.get_submodule(f"branch{number}")(x) for number in range(self.branches)]
        x = x + self.scale * self.conv2d(torch.cat(maps, 1))
        return F.relu(x) if self.relu else x


class InceptionResNetV2(Backbone):
    """c1 is conv2d_2b, c2 conv2d_4a, c3 and c4 the residual blocks of their stride, c5 the last 1x1 convolution."""

    def __init__(self, *, norm: NormKind) -> None:
        super().__init__(
            {f"c{n}": FeatureSpec(c, 2**n) for n, c in enumerate((64, 192, 320, 1088, 1536), start=1)},
            {
                "c1": ("conv2d_1a", "conv2d_2a", "conv2d_2b"),
                "c2": ("maxpool_3a", "conv2d_3b", "conv2d_4a"),
                "c3": ("maxpool_5a", "mixed_5b", "repeat"),
                "c4": ("mixed_6a", "repeat_1"),
                "c5": ("mixed_7a", "repeat_2", "block8", "conv2d_7b"),
            },
            mean=MEAN,
            std=STD,
        )
        conv = partial(ConvNorm, norm=norm)

        def chain(inputs: int, *layers: tuple[int, int | tuple[int, int]], stride: int = 1) -> nn.Module:
            """Convolutions of (channels, size), padded; the last may have a stride, and does not pad then."""
            modules = []
            for number, (outputs, size) in enumerate(layers):
                height, width = (size, size) if isinstance(size, int) else size
                strided = stride > 1 and number == len(layers) - 1
                padding = (0, 0) if strided else (height // 2, width // 2)
                step = stride if strided else 1
                modules.append(conv(inputs, outputs, size, stride=step, padding=padding))
                inputs = outputs
            return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

        self.conv2d_1a, self.conv2d_2a = conv(3, 32, 3, stride=2), conv(32, 32, 3)
        self.conv2d_2b = conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b, self.conv2d_4a = conv(64, 80, 1), conv(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, stride=2)
        self.mixed_5b = Branches(
            chain(192, (96, 1)),
            chain(192, (48, 1), (64, 5)),
            chain(192, (64, 1), (96, 3), (96, 3)),
            nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), chain(192, (64, 1))),
        )

        def block35() -> nn.Module:
            double = chain(320, (32, 1), (48, 3), (64, 3))
            return Residual(320, 128, [chain(320, (32, 1)), chain(320, (32, 1), (32, 3)), double], scale=0.17)

        def block17() -> nn.Module:
            wide = chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1)))
            return Residual(1088, 384, [chain(1088, (192, 1)), wide], scale=0.1)

        def block8(*, scale: float = 0.2, relu: bool = True) -> nn.Module:
            wide = chain(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))
            return Residual(2080, 448, [chain(2080, (192, 1)), wide], scale=scale, relu=relu)

        self.repeat = nn.Sequential(*(block35() for _ in range(10)))
        self.mixed_6a = Branches(
            chain(320, (384, 3), stride=2),
            chain(320, (256, 1), (256, 3), (384, 3), stride=2),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_1 = nn.Sequential(*(block17() for _ in range(20)))
        self.mixed_7a = Branches(
            chain(1088, (256, 1), (384, 3), stride=2),
            chain(1088, (256, 1), (288, 3), stride=2),
            chain(1088, (256, 1), (288, 3), (320, 3), stride=2),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(block8() for _ in range(9)))
        self.block8 = block8(scale=1.0, relu=False)
        self.conv2d_7b = conv(2080, 1536, 1)


def inception_resnet_v2(
    *,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
    aligned: bool = True,
) -> Backbone:
    """Inception-ResNet V2 without its classifier. Its images have pixels from -1 to 1; `weights` is a file.

    aligned: all convolutions and pools pad, so that a map has H / stride rows. Without, it is the network as published,
    for images of 75 pixels on: maps lack up to three steps.
    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    """
    backbone = InceptionResNetV2(norm=choose_norm(norm, weights=weights, otherwise="batch"))
    if aligned:
        align(backbone)
    else:
        backbone.smallest = UNPADDED_SMALLEST
    return prepare(backbone, network="inception_resnet_v2", weights=weights, freeze_until=freeze_until)
