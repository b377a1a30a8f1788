"""Convolutions and nothing else: every map is as large as the image, the lecture's first fully convolutional idea.

    cvtasks train task=fcn_full_res

Memory is what it costs: a map of 64 channels of a 512 x 512 image is 67 MB, and each layer keeps one for its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import NormKind, make_norm

PositiveCount = Annotated[int, Range(min=1)]


class FullResolution(Backbone):
    """c0 alone, behind all layers. residual: each layer but the first adds to what it was given, as in a ResNet."""

    def __init__(
        self, *, width: int, dilations: Sequence[int], norm: NormKind | None, residual: bool
    ) -> None:
        super().__init__({"c0": FeatureSpec(width, 1)}, {"c0": ("layers",)})
        self.layers = nn.Sequential()
        channels = 3
        for dilation in dilations:
            convolution = nn.Conv2d(
                channels, width, 3, padding=dilation, dilation=dilation, bias=norm is None
            )
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            norms = [] if norm is None else [make_norm(norm, width)]
            layer = nn.Sequential(convolution, *norms, nn.ReLU(inplace=True))
            self.layers.append(Residual(layer) if residual and channels == width else layer)
            channels = width


class Residual(nn.Module):
    """x + layer(x)"""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def full_resolution(
    *,
    width: PositiveCount = 64,
    dilations: Sequence[PositiveCount] = (1, 1, 1, 1, 1, 1, 1, 1),
    norm: NormKind | None = "batch",
    residual: bool = True,
    weights: str | None = None,
    freeze_until: Level | None = None,
) -> Backbone:
    """A 3x3 convolution with `width` channels for each of `dilations`; a pixel sees 1 + twice their sum.

    Without `residual` it is the lecture's picture to the letter, and hardly learns: on generated scenes it had not
    told an object from the ground when it had with it.
    Raises ConfigError without a layer.
    """
    if not dilations:
        raise ConfigError(
            "backbone.dilations: the list is empty; expected one for each layer, such as [1,1,1]"
        )
    backbone = FullResolution(width=width, dilations=dilations, norm=norm, residual=residual)
    return prepare(backbone, network="full_resolution", weights=weights, freeze_until=freeze_until)
