"""AlexNet in its one-column form (Krizhevsky, 2014), torchvision's parameters and names.

    cvtasks train task=faster_rcnn backbone=alexnet backbone.weights=imagenet

Its convolution of 11 pixels and its pools do not pad to the full size: a map has up to two steps fewer than
H / stride, and its first step looks a few pixels further in than another network's.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare


class AlexNet(Backbone):
    """c2 is conv1, c3 conv2, c4 conv5, c5 pool5. There is no c1: the first convolution has stride 4."""

    def __init__(self, *, with_classifier: bool = False) -> None:
        super().__init__(
            {
                "c2": FeatureSpec(64, 4),
                "c3": FeatureSpec(192, 8),
                "c4": FeatureSpec(256, 16),
                "c5": FeatureSpec(256, 32),
            },
            {
                "c2": ("features.0", "features.1"),
                "c3": ("features.2", "features.3", "features.4"),
                "c4": tuple(f"features.{i}" for i in range(5, 12)),
                "c5": ("features.12",),
            },
        )
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
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
    freeze_until: Level | Literal["auto"] | None = "auto",
    with_classifier: bool = False,
) -> Backbone:
    """AlexNet without its last layer, and without fc6 and fc7 unless `with_classifier`.

    `freeze_until="auto"` is c2 with `weights` (conv1, as in Fast R-CNN's small networks), nothing without.
    """
    backbone = AlexNet(with_classifier=with_classifier)
    return prepare(backbone, network="alexnet", weights=weights, freeze_until=freeze_until)
