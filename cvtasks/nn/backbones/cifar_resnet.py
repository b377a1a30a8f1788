"""The networks for CIFAR-10 of He et al. (CVPR 2016, section 4.2), residual or plain: the pair shows why residuals matter.

    cvtasks train task=classification backbone=cifar_resnet56
    cvtasks train task=classification backbone=cifar_plain56

Shortcuts are the paper's option A: every second position, and zeros for the channels that are new. They have no
parameters, so a plain network has as many as the residual one. Deviation: pixels are normalised by ImageNet's
statistics, where the paper takes off the mean image.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions; x is added to what they make of it, unless the block is plain."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: NormKind, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, outputs)
        self.stride, self.added, self.residual = stride, outputs - inputs, residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x) if self.residual else y)

    def shortcut(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride], without a parameter."""
        x = x[..., :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.added))


class CifarResNet(Backbone):
    """c0, c1 and c2: three stages of 16, 32 and 64 channels, of 32 x 32, 16 x 16 and 8 x 8 pixels on CIFAR's images."""

    def __init__(self, *, blocks: int, norm: NormKind, residual: bool) -> None:
        super().__init__(
            {f"c{n}": FeatureSpec(width, 2**n) for n, width in enumerate(WIDTHS)},
            {"c0": ("conv1", "bn1", "relu", "layer1"), "c1": ("layer2",), "c2": ("layer3",)},
        )
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = make_norm(norm, WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        channels = WIDTHS[0]
        for n, width in enumerate(WIDTHS, start=1):
            layer = nn.Sequential()
            for number in range(blocks):
                stride = 2 if n > 1 and number == 0 else 1
                layer.append(Block(channels, width, stride=stride, norm=norm, residual=residual))
                channels = width
            self.add_module(f"layer{n}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def cifar_resnet(
    *,
    depth: Annotated[int, Range(min=8)] = 20,
    residual: bool = True,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """6 n convolutions in three stages of n blocks, one before them, and (not here) a classifier: depth 6 n + 2.

    residual: false is the plain network of the same depth. `weights` is a file of the same. `norm="auto"` is frozen batch
    norm with `weights`, batch norm without; `freeze_until="auto"` is c0 with `weights`, nothing without.
    Raises ConfigError for a depth that three equal stages do not have.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest:
        raise ConfigError(
            f"backbone.depth={depth}: expected 6 n + 2, such as {6 * blocks + 2} or {6 * blocks + 8}"
        )
    kind = choose_norm(norm, weights=weights, otherwise="batch")
    backbone = CifarResNet(blocks=blocks, norm=kind, residual=residual)
    network = f"cifar_{'resnet' if residual else 'plain'}{depth}"
    return prepare(backbone, network=network, weights=weights, freeze_until=freeze_until, auto_freeze="c0")
