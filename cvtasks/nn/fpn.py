"""Feature maps for detectors: the feature pyramid (Lin et al., CVPR 2017), or one map as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.norm import NormKind, make_norm


def convolution(inputs: int, outputs: int, size: int, norm: NormKind | None) -> nn.Sequential:
    """A convolution of stride 1 that keeps the map's size, and its norm; without a norm it has a bias."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=norm is None)]
    nn.init.kaiming_uniform_(layers[0].weight, a=1)  # type: ignore[arg-type]
    if norm is None:
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    else:
        layers.append(make_norm(norm, outputs))
    return nn.Sequential(*layers)


class SubsampledLevel(nn.Module):
    """A level above the pyramid: every second pixel of the coarsest, for a proposer alone."""

    count = 1

    def forward(self, map: Tensor, level: Tensor) -> list[Tensor]:
        return [F.max_pool2d(level, kernel_size=1, stride=2)]


class StridedLevels(nn.Module):
    """RetinaNet's P6 and P7 (Lin et al., ICCV 2017): 3x3 convolutions of stride 2, a ReLU between two.

    inputs: the channels of what the first reads: the coarsest map of the backbone or, with `from_pyramid`, of the pyramid.
    """

    def __init__(self, inputs: int, channels: int, *, count: int = 2, from_pyramid: bool = False) -> None:
        super().__init__()
        self.count, self.from_pyramid = count, from_pyramid
        widths = [inputs] + [channels] * count
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        for conv in self.convs:
            nn.init.kaiming_uniform_(conv.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, map: Tensor, level: Tensor) -> list[Tensor]:
        """The coarsest map and the coarsest level -> `count` levels, finest first."""
        levels: list[Tensor] = []
        for conv in self.convs:
            levels.append(conv(F.relu(levels[-1]) if levels else level if self.from_pyramid else map))
        return levels


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path by nearest up-sampling, and a 3x3 convolution for each level.

    Level "c3" of the backbone becomes "p3"; `extra` (`SubsampledLevel`, `StridedLevels`) adds levels above the coarsest.
    Levels may share a stride ("c5_first" and "c5"): the top-down path then adds them as they are.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        levels: Sequence[str],
        *,
        channels: int,
        norm: NormKind | None,
        extra: SubsampledLevel | StridedLevels | None = None,
    ) -> None:
        super().__init__()
        self.levels, self.extra = tuple(levels), extra
        self.lateral = nn.ModuleList(
            convolution(specs[level].channels, channels, 1, norm) for level in levels
        )
        self.output = nn.ModuleList(convolution(channels, channels, 3, norm) for _ in levels)
        self.specs = {f"p{level[1:]}": FeatureSpec(channels, specs[level].stride) for level in levels}
        stride = specs[levels[-1]].stride
        for _ in range(extra.count if extra else 0):
            stride *= 2
            self.specs[f"p{stride.bit_length() - 1}"] = FeatureSpec(channels, stride)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"c2": [B, C, H, W], ...} -> {"p2": [B, channels, H, W], ...}, finest first."""
        merged: list[Tensor] = []
        for level, lateral in zip(reversed(self.levels), reversed(self.lateral), strict=True):
            x = lateral(maps[level])
            if merged:
                x = x + F.interpolate(merged[-1], size=x.shape[-2:], mode="nearest")
            merged.append(x)
        outputs = [layer(x) for layer, x in zip(self.output, reversed(merged), strict=True)]
        if self.extra:
            outputs += self.extra(maps[self.levels[-1]], outputs[-1])
        return dict(zip(self.specs, outputs, strict=True))


class SingleMap(nn.Module):
    """One map of the backbone as it is."""

    def __init__(self, specs: Mapping[str, FeatureSpec], level: str) -> None:
        super().__init__()
        self.specs = {level: specs[level]}

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {level: maps[level] for level in self.specs}
