"""VGG16 (Simonyan and Zisserman, ICLR 2015), with or without batch norm, under torchvision's names.

cvtasks train task=faster_rcnn_vgg backbone=vgg16 backbone.weights=imagenet
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """c0 is conv1_2, c1 conv2_2, c2 conv3_3, c3 conv4_3, c4 conv5_3 (what Faster R-CNN reads), and c5 is pool5.

    "c3_first" and "c4_first" are pool3 and pool4, which FCN reads.
    """

    def __init__(self, *, norm: NormKind | None = None, with_classifier: bool = False) -> None:
        specs: dict[str, FeatureSpec] = {}
        stages: dict[str, list[str]] = {}
        layers: list[nn.Module] = []
        channels = 3
        for n, widths in enumerate((*BLOCKS, ())):
            level, start = f"c{n}", len(layers)
            if n > 0:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            if n in (3, 4):
                stages[f"{level}_first"] = [f"features.{start}"]
                specs[f"{level}_first"] = FeatureSpec(channels, 2**n)
                start += 1
            for width in widths:
                layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
                if norm is not None:
                    layers.append(make_norm(norm, width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            stages[level] = [f"features.{i}" for i in range(start, len(layers))]
            specs[level] = FeatureSpec(channels, 2**n)
        super().__init__(specs, stages)
        self.features = nn.Sequential(*layers)
        if with_classifier:
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def vgg16(
    *,
    weights: str | None = None,
    norm: Norm | None = None,
    freeze_until: Level | Literal["auto"] | None = "auto",
    with_classifier: bool = False,
) -> Backbone:
    """VGG16 without its last layer, and without fc6 and fc7 unless `with_classifier` (see `take_classifier`).

    `norm=None` is the network as published, all else VGG16-BN: "auto" is frozen batch norm with `weights`,
    batch norm without. `freeze_until="auto"` is c1 with `weights` (conv1 and conv2, as in Fast R-CNN), or
    nothing.
    """
    kind = None if norm is None else choose_norm(norm, weights=weights, otherwise="batch")
    backbone = VGG16(norm=kind, with_classifier=with_classifier)
    network = "vgg16" if norm is None else "vgg16_bn"
    return prepare(backbone, network=network, weights=weights, freeze_until=freeze_until, auto_freeze="c1")
