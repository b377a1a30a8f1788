"""LeNet-5 (LeCun et al., Proceedings of the IEEE 1998): convolutions, sub-sampling that learns, and squashed units.

    cvtasks train task=classification backbone=lenet

As in the paper: S2 and S4 multiply the sum of 2 x 2 pixels by a coefficient and add a bias for each map; a map of C3 sees
some of S2's maps (its table I); every unit is A tanh(2 x / 3) with A = 1.7159. Deviations: three colours, where the paper
has one grey value; convolutions pad, unless `aligned=false`; what C5 feeds (F6, the radial basis functions) is a task's.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

SEEN = (
    *[tuple((first + n) % 6 for n in range(3)) for first in range(6)],
    *[tuple((first + n) % 6 for n in range(4)) for first in range(6)],
    *[(0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)],
    tuple(range(6)),
)
"""The maps of S2 that each map of C3 sees (table I)"""


class Squash(nn.Module):
    """1.7159 tanh(2 x / 3): 1 and -1 stay, and are where its curvature is largest."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """A coefficient for each map times the sum of 2 x 2 pixels, and a bias: [B, C, H, W] -> [B, C, H / 2, W / 2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((channels, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.coefficient * F.avg_pool2d(x, 2) + self.bias


class PartialConvolution(nn.Conv2d):
    """A 5x5 convolution each of whose maps sees some of the maps below: `seen` has their numbers."""

    mask: Tensor

    def __init__(self, inputs: int, seen: tuple[tuple[int, ...], ...], *, padding: int) -> None:
        super().__init__(inputs, len(seen), 5, padding=padding)
        mask = torch.zeros(len(seen), inputs, 1, 1)
        for row, numbers in zip(mask, seen, strict=True):
            row[list(numbers)] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class LeNet(Backbone):
    """c0 is C1, c1 C3, and c2 C5: 6, 16 and 120 maps."""

    def __init__(self, *, norm: NormKind | None, aligned: bool) -> None:
        super().__init__(
            {"c0": FeatureSpec(6, 1), "c1": FeatureSpec(16, 2), "c2": FeatureSpec(120, 4)},
            {"c0": ("conv1",), "c1": ("pool2", "conv3"), "c2": ("pool4", "conv5")},
        )
        padding, self.smallest = (2, 1) if aligned else (0, 32)
        conv1, conv5 = (nn.Conv2d(*channels, 5, padding=padding) for channels in ((3, 6), (16, 120)))
        conv3 = PartialConvolution(6, SEEN, padding=padding)
        inputs = (
            conv1.weight[0].numel(),
            25 * sum(map(len, SEEN)) // len(SEEN),
            conv5.weight[0].numel(),
        )
        for layer, number in zip((conv1, conv3, conv5), inputs, strict=True):
            nn.init.uniform_(layer.weight, -2.4 / number, 2.4 / number)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        norms = [[] if norm is None else [make_norm(norm, channels)] for channels in (6, 16, 120)]
        self.conv1, self.pool2 = (
            nn.Sequential(conv1, *norms[0], Squash()),
            nn.Sequential(Subsampling(6), Squash()),
        )
        self.conv3, self.pool4 = (
            nn.Sequential(conv3, *norms[1], Squash()),
            nn.Sequential(Subsampling(16), Squash()),
        )
        self.conv5 = nn.Sequential(conv5, *norms[2], Squash())


def lenet(
    *,
    weights: str | None = None,
    norm: Norm | None = None,
    freeze_until: Level | Literal["auto"] | None = "auto",
    aligned: bool = True,
) -> Backbone:
    """LeNet-5 up to C5; `weights` is a file of the same.

    aligned: convolutions pad, so that a map has H / stride rows. Without, it is the network as published, whose C5 is a
    single position of 32 x 32 pixels. norm: behind each convolution; the paper has none.
    `freeze_until="auto"` is c0 with `weights`, nothing without.
    """
    kind = None if norm is None else choose_norm(norm, weights=weights, otherwise="batch")
    backbone = LeNet(norm=kind, aligned=aligned)
    return prepare(backbone, network="lenet", weights=weights, freeze_until=freeze_until, auto_freeze="c0")
