"""A small residual network for laptops and tests; no paper's, built of ResNet's basic blocks.

    cvtasks train task=faster_rcnn backbone=tiny

Channels are multiples of 16, which the CPU's bf16 kernels need to be fast. Two 3x3 convolutions make the
stem, so that an object of 12 pixels is not blurred by a pool before anything has looked at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from torch import nn
from torchvision.models.resnet import BasicBlock

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Layer, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, make_norm


class Tiny(Backbone):
    """c1 has width / 2 channels, c2 to c5 have width times 1, 2, 4, 6."""

    def __init__(self, *, width: int, blocks: Sequence[int], norm: NormKind) -> None:
        channels = (width // 2, width, 2 * width, 4 * width, 6 * width)
        stages = (("stem1",), ("stem2", "layer1"), ("layer2",), ("layer3",), ("layer4",))
        super().__init__(
            {f"c{n}": FeatureSpec(c, 2**n) for n, c in enumerate(channels, start=1)},
            {f"c{n}": names for n, names in enumerate(stages, start=1)},
        )

        def convolution(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            return [conv, make_norm(norm, outputs)]

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            shortcut = None
            if inputs != outputs or stride > 1:
                shortcut = nn.Sequential(*convolution(inputs, outputs, 1, stride))
            return BasicBlock(inputs, outputs, stride, shortcut, norm_layer=lambda c: make_norm(norm, c))

        def layer(inputs: int, outputs: int, stride: int, repeats: int) -> nn.Sequential:
            first = block(inputs, outputs, stride)
            return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(repeats - 1)))

        self.stem1 = nn.Sequential(*convolution(3, channels[0], 3, 2), nn.ReLU(inplace=True))
        self.stem2 = nn.Sequential(*convolution(channels[0], channels[1], 3, 2), nn.ReLU(inplace=True))
        self.layer1 = layer(channels[1], channels[1], 1, blocks[0])
        self.layer2 = layer(channels[1], channels[2], 2, blocks[1])
        self.layer3 = layer(channels[2], channels[3], 2, blocks[2])
        self.layer4 = layer(channels[3], channels[4], 2, blocks[3])


def tiny(
    *,
    width: Annotated[int, Range(min=2)] = 32,
    blocks: Sequence[int] = (1, 1, 1, 1),
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Layer | Literal["auto"] | None = "auto",
) -> Backbone:
    """The small network: `blocks` residual blocks in each of c2 to c5, 0.9 million parameters as it stands.

    `weights` is a file of a network with the same `norm`; the zoo has none, so `norm="auto"` is group norm.
    `freeze_until="auto"` is c2 with `weights`, or nothing. Raises ConfigError for an odd width, or when
    `blocks` are not four.
    """
    if width % 2:
        raise ConfigError(f"backbone.width={width}: expected an even number, best a multiple of 32")
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(f"backbone.blocks={list(blocks)}: expected four numbers from 1 on, for c2 to c5")
    backbone = Tiny(width=width, blocks=blocks, norm="group" if norm == "auto" else norm)
    return prepare(backbone, network="tiny", weights=weights, freeze_until=freeze_until)
