"""One vector of an image, for heads that say one thing of all of it: a class, a box, the joints of a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone


class ImageVector(nn.Module):
    """A backbone's last map -> [B, outputs]: its means or maxima over `bins` x `bins` parts, and fc6 and fc7 of them.

    bins: 1 is global average pooling. More keep where something is: a network that learns from few images, or has few
    layers, finds it hard to tell that from the means. fc6 and fc7 are used where the backbone has its classifier,
    which then decides how many bins there are.
    """

    def __init__(
        self, backbone: Backbone, *, bins: int = 1, pool: Literal["average", "max"] = "average"
    ) -> None:
        super().__init__()
        self.pool = pool
        self.level = list(backbone.specs)[-1]
        channels = backbone.specs[self.level].channels
        self.classifier: nn.Sequential | None = None
        self.bins, self.outputs = bins, channels * bins**2
        if hasattr(backbone, "classifier"):
            self.classifier = backbone.take_classifier()
            layers = [layer for layer in self.classifier if isinstance(layer, nn.Linear)]
            self.bins, self.outputs = math.isqrt(layers[0].in_features // channels), layers[-1].out_features

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        last = maps[self.level]
        if self.pool == "max":
            vector = F.adaptive_max_pool2d(last.float(), self.bins).flatten(1)
        elif self.bins == 1:
            vector = last.float().mean((2, 3))
        else:
            vector = F.adaptive_avg_pool2d(last, self.bins).flatten(1)
        return vector if self.classifier is None else self.classifier(vector)


def exact(layer: nn.Linear, vector: Tensor) -> Tensor:
    """A last layer in float32, under autocast, too: a coordinate in bf16 is up to a 500th of the image off."""
    with torch.autocast(vector.device.type, enabled=False):
        return layer(vector.float())
