"""Inception V3 (Szegedy et al., CVPR 2016), torchvision's.

    cvtasks train task=faster_rcnn backbone=inception_v3 backbone.weights=imagenet

Deviation: where the paper does not pad, this does, unless `aligned=false`. The auxiliary classifier is no part of a
backbone; published weights have it, and are read without.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision import models
from torchvision.models import inception

from cvtasks.nn.backbones.base import Backbone, Level, prepare
from cvtasks.nn.backbones.inception_parts import UNPADDED_SMALLEST, AdoptedStages, align
from cvtasks.nn.norm import Norm, choose_norm, replace_norms

STAGES = {
    "c1": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    "c2": ("maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    "c3": ("maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d"),
    "c4": tuple(f"Mixed_6{each}" for each in "abcde"),
    "c5": tuple(f"Mixed_7{each}" for each in "abc"),
}
CHANNELS = (64, 192, 288, 768, 2048)


class ReductionB(inception.InceptionB):
    """torchvision's, with its pool as a module, which can be padded."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.pool = nn.MaxPool2d(3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch3x3(x), double, self.pool(x)]


class ReductionD(inception.InceptionD):
    """torchvision's, with its pool as a module, which can be padded."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.pool = nn.MaxPool2d(3, stride=2)

    def _forward(self, x: Tensor) -> list[Tensor]:
        wide = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(wide), self.pool(x)]


def inception_v3(
    *,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
    aligned: bool = True,
) -> Backbone:
    """Inception V3 without its classifiers. Its images have pixels from -1 to 1.

    aligned: all convolutions and pools pad, so that a map has H / stride rows. Without, it is the network as published,
    for images of 75 pixels on: maps lack up to three steps.
    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    """
    network = models.Inception3(
        aux_logits=False,
        init_weights=False,
        inception_blocks=[
            inception.BasicConv2d,
            inception.InceptionA,
            ReductionB,
            inception.InceptionC,
            ReductionD,
            inception.InceptionE,
            inception.InceptionAux,
        ],
    )
    for module in network.modules():
        if isinstance(
            module, nn.Conv2d
        ):  # torchvision's own draws a standard deviation of 0.1, whatever the fan
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    replace_norms(network, choose_norm(norm, weights=weights, otherwise="batch"))
    if aligned:
        align(network)
    backbone = AdoptedStages(network, CHANNELS, STAGES)
    backbone.smallest = 1 if aligned else UNPADDED_SMALLEST
    return prepare(backbone, network="inception_v3", weights=weights, freeze_until=freeze_until)
