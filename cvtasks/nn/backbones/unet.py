"""The contracting path of U-Net (Ronneberger et al., MICCAI 2015): two 3x3 convolutions at each of five resolutions.

    cvtasks train task=unet

Deviations: convolutions pad by default (`valid=true` is the paper's form), and `norm` can be had; the paper has none.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.ops.windows import mirrored

DEPTH = 5


class UNetEncoder(Backbone):
    """c0 has stride 1 and `width` channels, and each level up to c4 twice as many as the one before.

    valid: convolutions see the image alone. Each takes two pixels off a map, so the image is mirrored at its borders
    first, by the 92 pixels that the whole network takes off.
    """

    def __init__(self, *, width: int, norm: NormKind | None, valid: bool, dropout: float) -> None:
        super().__init__(
            {f"c{n}": FeatureSpec(width * 2**n, 2**n) for n in range(DEPTH)},
            {f"c{n}": (f"level{n}",) for n in range(DEPTH)},
        )
        self.valid = valid
        channels = 3
        for n in range(DEPTH):
            layers: list[nn.Module] = [nn.MaxPool2d(kernel_size=2, stride=2)] if n else []
            layers.append(double_convolution(channels, width * 2**n, norm=norm, valid=valid))
            channels = width * 2**n
            self.add_module(f"level{n}", nn.Sequential(*layers))
        # "Drop-out layers at the end of the contracting path perform further implicit data augmentation."
        self.get_submodule(f"level{DEPTH - 1}").append(nn.Dropout(dropout))  # type: ignore[operator]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.valid:
            sizes = [valid_size(side) for side in images.shape[2:]]
            images = mirrored(images, (-MARGIN, -MARGIN), (sizes[0], sizes[1]))
        return super().forward(images)


MARGIN = 92
"""Pixels that five levels of unpadded convolutions, down and up again, take off each side: (572 - 388) / 2"""


def valid_size(length: int) -> int:
    """The shortest input, of which all pools divide all maps, that leaves `length` pixels or more: 388 -> 572."""
    smallest = -(-(length + 60) // 16)  # of the maps at stride 16, behind their convolutions
    return 16 * smallest + 124


def double_convolution(inputs: int, outputs: int, *, norm: NormKind | None, valid: bool) -> nn.Sequential:
    """Two 3x3 convolutions with ReLUs (and norms), drawn with a variance of 2 / N as in the paper."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=0 if valid else 1, bias=norm is None)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers.append(convolution)
        if norm is None:
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        else:
            layers.append(make_norm(norm, outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def unet_encoder(
    *,
    width: Annotated[int, Range(min=1)] = 64,
    norm: NormKind | None = None,
    valid: bool = False,
    dropout: Annotated[float, Range(min=0, below=1)] = 0.5,
    weights: str | None = None,
    freeze_until: Level | None = None,
) -> Backbone:
    """The contracting path as published: 64 to 1024 channels, no norm. `weights` is a file of the same."""
    backbone = UNetEncoder(width=width, norm=norm, valid=valid, dropout=dropout)
    return prepare(backbone, network="unet", weights=weights, freeze_until=freeze_until)
