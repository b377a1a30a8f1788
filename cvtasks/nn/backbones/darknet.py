"""The network of the first YOLO (Redmon et al., CVPR 2016, figure 3): 24 convolutions, without the two layers behind them.

    cvtasks train task=yolo backbone=darknet24

1x1 convolutions reduce the channels between 3x3 ones, all with leaky units. The paper pretrains the first 20 of them on
ImageNet ("c5_first") and adds four; `weights` is a file of all. Images are from 0 to 1, as darknet has them.
Deviation: batch norm, which darknet's files have and the paper does not tell of, unless `norm=None`.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

LEAK = 0.1
"""Slope of the units below zero"""
LAYERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "c1": ((64, 7, 2),),
    "c2": ((192, 3, 1),),
    "c3": ((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1)),
    "c4": (*((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1)),
    "c5_first": ((512, 1, 1), (1024, 3, 1)) * 2,
    "c5": ((1024, 3, 1),),
    "c6": ((1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
}
"""Channels, kernel and stride of each level's convolutions"""
POOLED = ("c2", "c3", "c4", "c5_first")
"""Levels that begin with a max pool"""


class Darknet24(Backbone):
    """c1 to c5 as everywhere, "c5_first" behind the 20 that are pretrained, and c6 of stride 64, which YOLO reads."""

    def __init__(self, *, norm: NormKind | None) -> None:
        stages = {level: (level,) for level in LAYERS}
        super().__init__(
            {level: FeatureSpec(layers[-1][0], 2 ** int(level[1])) for level, layers in LAYERS.items()},
            stages,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        inputs = 3
        for level, layers in LAYERS.items():
            modules: list[nn.Module] = [nn.MaxPool2d(2)] if level in POOLED else []
            for outputs, kernel, stride in layers:
                conv = nn.Conv2d(
                    inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=norm is None
                )
                nn.init.kaiming_normal_(conv.weight, a=LEAK)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                modules += [conv, *([] if norm is None else [make_norm(norm, outputs)])]
                modules.append(nn.LeakyReLU(LEAK, inplace=True))
                inputs = outputs
            self.add_module(level, nn.Sequential(*modules))


def darknet24(
    *,
    weights: str | None = None,
    norm: Norm | None = "auto",
    freeze_until: Level | Literal["c6", "auto"] | None = None,
) -> Backbone:
    """All 24 convolutions. `norm="auto"` is frozen batch norm with `weights`, batch norm without; None is the paper's text.

    `freeze_until="auto"` is c2 with `weights`, or nothing; None trains all, as the paper does.
    """
    kind = None if norm is None else choose_norm(norm, weights=weights, otherwise="batch")
    return prepare(Darknet24(norm=kind), network="darknet24", weights=weights, freeze_until=freeze_until)
