"""Feature maps for detectors: the feature pyramid (Lin et al., CVPR 2017), or one map as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path by nearest up-sampling, and a 3x3 convolution for each level.

    Level "c3" of the backbone becomes "p3"; `extra` adds one above, of every second pixel of the coarsest.
    Levels may share a stride ("c5_first" and "c5"): the top-down path then adds them as they are.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        levels: Sequence[str],
        *,
        channels: int,
        norm: NormKind | None,
        extra: bool,
    ) -> None:
        super().__init__()
        self.levels, self.extra = tuple(levels), extra
        self.lateral = nn.ModuleList(
            convolution(specs[level].channels, channels, 1, norm) for level in levels
        )
        self.output = nn.ModuleList(convolution(channels, channels, 3, norm) for _ in levels)
        self.specs = {f"p{level[1:]}": FeatureSpec(channels, specs[level].stride) for level in levels}
        if extra:
            stride = 2 * specs[levels[-1]].stride
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
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return dict(zip(self.specs, outputs, strict=True))


class SingleMap(nn.Module):
    """One map of the backbone as it is."""

    def __init__(self, specs: Mapping[str, FeatureSpec], level: str) -> None:
        super().__init__()
        self.specs = {level: specs[level]}

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {level: maps[level] for level in self.specs}
