"""What networks of the Inception family are made of: convolutions with a norm, and branches side by side.

Their papers leave many convolutions and pools without padding, so maps lack a few steps at the border and lie a few pixels
further in. Under a detector they pad (`align`), as in Huang et al. (CVPR 2017): weights stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.norm import NormKind, make_norm

MEAN = STD = (0.5, 0.5, 0.5)
"""The published networks were trained on pixels from -1 to 1."""
UNPADDED_SMALLEST = 75
"""Pixels of a side of which V3 and Inception-ResNet V2 leave one position, where they do not pad"""
EPS = 1e-3
"""Of batch norm, in all of them"""


class ConvNorm(nn.Module):
    """Convolution without bias, norm, ReLU: [B, C, H, W] -> [B, outputs, h, w]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        norm: NormKind,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = make_norm(norm, outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Branches(nn.Module):
    """Branches that all see the same map; their maps are put side by side: branch0, branch1, ..."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


class AdoptedStages(Backbone):
    """The stages of a network of torchvision's; its classifiers, the auxiliary ones too, stay behind."""

    def __init__(
        self, network: nn.Module, channels: Sequence[int], stages: Mapping[str, Sequence[str]]
    ) -> None:
        specs = {
            level: FeatureSpec(width, 2 ** int(level[1:]))
            for level, width in zip(stages, channels, strict=True)
        }
        super().__init__(specs, stages, mean=MEAN, std=STD)
        for names in stages.values():
            for name in names:
                self.add_module(name, network.get_submodule(name))


def align(network: nn.Module) -> None:
    """Pad every 3x3 convolution and pool that does not pad: maps have H / stride rows, rounded up."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.padding == (0, 0):
            module.padding = (1, 1)
        elif isinstance(module, nn.MaxPool2d) and module.kernel_size == 3 and module.padding == 0:
            module.padding = 1
