"""AlexNet in its one-column form (Krizhevsky, 2014), torchvision's parameters and names.

    cvtasks train task=faster_rcnn backbone=alexnet backbone.weights=imagenet

Its convolution of 11 pixels and its pools do not pad to the full size: a map has up to two steps fewer than
H / stride, and its first step looks a few pixels further in than another network's.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

# Of conv1 to conv5: channels, kernel, stride and padding, and whether a pool is in front of it.
LAYERS = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)
LEVELS = ("c2", "c3", "c4", "c4", "c4")


class AlexNet(Backbone):
    """c2 is conv1, c3 conv2, c4 conv5, c5 pool5. There is no c1: the first convolution has stride 4."""

    smallest = 63

    def __init__(self, *, norm: NormKind | None = None, with_classifier: bool = False) -> None:
        layers: list[nn.Module] = []
        stages: dict[str, list[str]] = {}
        channels = 3

        def add(level: str, layer: nn.Module) -> None:
            stages.setdefault(level, []).append(f"features.{len(layers)}")
            layers.append(layer)

        for level, (width, size, stride, padding, pooled) in zip(LEVELS, LAYERS, strict=True):
            if pooled:
                add(level, nn.MaxPool2d(kernel_size=3, stride=2))
            add(level, nn.Conv2d(channels, width, size, stride, padding))
            if norm is not None:
                add(level, make_norm(norm, width))
            add(level, nn.ReLU(inplace=True))
            channels = width
        add("c5", nn.MaxPool2d(kernel_size=3, stride=2))
        widths = {"c2": 64, "c3": 192, "c4": 256, "c5": 256}
        specs = {level: FeatureSpec(width, 2 ** int(level[1])) for level, width in widths.items()}
        super().__init__(specs, stages)
        self.features = nn.Sequential(*layers)
        if with_classifier:
            self.classifier = nn.Sequential(
                nn.Dropout(0.5),
                nn.Linear(256 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
            )


def alexnet(
    *,
    weights: str | None = None,
    norm: Norm | None = None,
    freeze_until: Level | Literal["auto"] | None = "auto",
    with_classifier: bool = False,
) -> Backbone:
    """AlexNet without its last layer, and without fc6 and fc7 unless `with_classifier`.

    `norm=None` is the network as published (torchvision's has no local response normalisation either); all else puts a norm
    behind each convolution, "auto" is frozen batch norm with `weights`, batch norm without.
    `freeze_until="auto"` is c2 with `weights` (conv1, as in Fast R-CNN's small networks), nothing without.
    """
    kind = None if norm is None else choose_norm(norm, weights=weights, otherwise="batch")
    backbone = AlexNet(norm=kind, with_classifier=with_classifier)
    network = "alexnet" if norm is None else "alexnet_bn"
    return prepare(backbone, network=network, weights=weights, freeze_until=freeze_until)
