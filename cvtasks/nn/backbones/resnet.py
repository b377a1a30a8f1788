"""ResNet (He et al., CVPR 2016), torchvision's: the stride of a bottleneck stands in its 3x3 convolution.

cvtasks train task=faster_rcnn backbone=resnet50 backbone.weights=imagenet
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torchvision import models

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Layer, Level, prepare
from cvtasks.nn.norm import Norm, choose_norm, make_norm


class ResNet(Backbone):
    """c1 is the first convolution (before the pool, which opens c2), c2 to c5 are layer1 to layer4."""

    def __init__(self, network: models.ResNet) -> None:
        channels = network.fc.in_features // 8
        widths = {"c1": 64, "c2": channels, "c3": 2 * channels, "c4": 4 * channels, "c5": 8 * channels}
        super().__init__(
            {level: FeatureSpec(width, 2**n) for n, (level, width) in enumerate(widths.items(), start=1)},
            {
                "c1": ("conv1", "bn1", "relu"),
                "c2": ("maxpool", "layer1"),
                "c3": ("layer2",),
                "c4": ("layer3",),
                "c5": ("layer4",),
            },
        )
        for name, module in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)


def resnet(
    *,
    depth: Literal[18, 34, 50, 101, 152] = 50,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Layer | Literal["auto"] | None = "auto",
    zero_init_residual: bool = False,
) -> Backbone:
    """A ResNet without its classifier.

    `norm="auto"` is frozen batch norm with `weights`, and group norm without, as a detector's batches are too
    small for batch statistics (He et al., ICCV 2019). `freeze_until="auto"` is c2 with `weights`, or nothing.
    `zero_init_residual` starts each residual branch at zero (Goyal et al., 2017).
    """
    network = f"resnet{depth}"
    kind = choose_norm(norm, weights=weights, otherwise="group")
    build = getattr(models, network)
    body = build(norm_layer=partial(make_norm, kind), zero_init_residual=zero_init_residual)
    return prepare(ResNet(body), network=network, weights=weights, freeze_until=freeze_until)
