"""Inception V2, or batch-norm Inception: the network of batch normalization (Ioffe and Szegedy, ICML 2015, figure 5).

    cvtasks train task=faster_rcnn backbone=inception_v2

Deviations: pools of 4c and 4d are projected to 96 channels, as in the authors' own code: with the table's 128 the channels
would not add up to the 576 that it gives. The first convolution is a plain one, as in the table.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.backbones.inception_parts import MEAN, STD, Branches, ConvNorm
from cvtasks.nn.norm import Norm, NormKind, choose_norm

# Channels of: 1x1; 3x3, reduced and full; two 3x3, reduced and full; the pool's projection.
MODULES = {
    "3a": (64, (64, 64), (64, 96), 32),
    "3b": (64, (64, 96), (64, 96), 64),
    "4a": (224, (64, 96), (96, 128), 128),
    "4b": (192, (96, 128), (96, 128), 128),
    "4c": (160, (128, 160), (128, 160), 96),
    "4d": (96, (128, 192), (160, 192), 96),
    "5a": (352, (192, 320), (160, 224), 128),
    "5b": (352, (192, 320), (192, 224), 128),
}
# Of those that halve the map, which have no 1x1 branch and pass the pool on as it is.
REDUCTIONS = {"3c": ((128, 160), (64, 96)), "4e": ((128, 192), (192, 256))}


class InceptionV2(Backbone):
    """c1 is the first convolution, c2 the second, c3 inception 3b, c4 4d, c5 5b."""

    def __init__(self, *, norm: NormKind) -> None:
        super().__init__(
            {f"c{n}": FeatureSpec(c, 2**n) for n, c in enumerate((64, 192, 320, 576, 1024), start=1)},
            {
                "c1": ("conv1",),
                "c2": ("pool1", "conv2_reduce", "conv2"),
                "c3": ("pool2", "inception3a", "inception3b"),
                "c4": ("inception3c", *(f"inception4{each}" for each in "abcd")),
                "c5": ("inception4e", "inception5a", "inception5b"),
            },
            mean=MEAN,
            std=STD,
        )

        def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
            return ConvNorm(inputs, outputs, size, stride=stride, padding=size // 2, norm=norm)

        def double(inputs: int, reduced: int, outputs: int, stride: int) -> nn.Module:
            first, second = conv(reduced, outputs, 3), conv(outputs, outputs, 3, stride)
            return nn.Sequential(conv(inputs, reduced, 1), first, second)

        def single(inputs: int, reduced: int, outputs: int, stride: int) -> nn.Module:
            return nn.Sequential(conv(inputs, reduced, 1), conv(reduced, outputs, 3, stride))

        self.conv1 = conv(3, 64, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2_reduce, self.conv2 = conv(64, 64, 1), conv(64, 192, 3)
        self.pool2 = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 192
        for name in sorted({**MODULES, **REDUCTIONS}):
            if name in REDUCTIONS:
                three, twice = REDUCTIONS[name]
                branches = [single(channels, *three, 2), double(channels, *twice, 2)]
                branches.append(nn.MaxPool2d(3, stride=2, padding=1))
                channels += three[1] + twice[1]
            else:
                one, three, twice, projected = MODULES[name]
                pool = nn.MaxPool2d(3, 1, padding=1) if name == "5b" else nn.AvgPool2d(3, 1, padding=1)
                branches = [conv(channels, one, 1), single(channels, *three, 1), double(channels, *twice, 1)]
                branches.append(nn.Sequential(pool, conv(channels, projected, 1)))
                channels = one + three[1] + twice[1] + projected
            self.add_module(f"inception{name}", Branches(*branches))


def inception_v2(
    *,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """Batch-norm Inception without its classifier; `weights` is a file of the same.

    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    """
    backbone = InceptionV2(norm=choose_norm(norm, weights=weights, otherwise="batch"))
    return prepare(backbone, network="inception_v2", weights=weights, freeze_until=freeze_until)
