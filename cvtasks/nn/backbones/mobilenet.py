"""MobileNetV2 (Sandler et al., CVPR 2018), and MobileNetV3 small and large (Howard et al., ICCV 2019), torchvision's.

cvtasks train task=faster_rcnn backbone=mobilenet_v2 backbone.weights=imagenet
cvtasks train task=faster_rcnn backbone=mobilenet_v3_large backbone.weights=imagenet
cvtasks train task=faster_rcnn_mobilenet backbone.weights=imagenet dataset=coco dataset.root=/data/coco
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torchvision import models
from torchvision.models import MobileNetV2, MobileNetV3

from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, choose_norm, make_norm


class MobileNet(Backbone):
    """A level is the last block of its stride; c5 is the 1x1 convolution after the last block.

    "c5_first" is the first block of stride 32, which torchvision's detectors read beside c5. "c4_expanded" is what that
    block's first layer makes, which SSDLite reads: of stride 16 still, with more channels.
    """

    def __init__(self, network: MobileNetV2 | MobileNetV3) -> None:
        specs: dict[str, FeatureSpec] = {}
        stages: dict[str, list[str]] = {}
        level, stride = "c0", 1
        for index, block in enumerate(network.features):
            convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            modules = [f"features.{index}"]
            if any(m.stride == (2, 2) for m in convolutions):
                stride *= 2
                level = f"c{len(stages) + 1}" if stride < 32 else "c5_first"
                if stride == 32:  # no shortcut passes by its parts
                    parts = "block" if isinstance(network, MobileNetV3) else "conv"
                    layers = block.get_submodule(parts).children()
                    first, *modules = (f"features.{index}.{parts}.{n}" for n, _ in enumerate(layers))
                    stages["c4_expanded"] = [first]
                    specs["c4_expanded"] = FeatureSpec(convolutions[0].out_channels, 16)
            elif level == "c5_first":
                level = "c5"
            stages.setdefault(level, []).extend(modules)
            specs[level] = FeatureSpec(convolutions[-1].out_channels, stride)
        super().__init__(specs, stages)
        self.features = network.features


def mobilenet(
    *,
    size: Literal["small", "large"] = "large",
    reduced_tail: bool = False,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """A MobileNetV3 without its classifier.

    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    `reduced_tail`: the blocks of stride 32 have half the channels, as in the paper's detectors; no ImageNet weights fit.
    """
    network = f"mobilenet_v3_{size}"
    kind = choose_norm(norm, weights=weights, otherwise="batch")
    # The published networks were trained with this eps, so frozen batch norm has it as well.
    norm_layer = partial(make_norm, kind, eps=1e-3, momentum=0.01)
    body = getattr(models, network)(norm_layer=norm_layer, reduced_tail=reduced_tail)
    return prepare(MobileNet(body), network=network, weights=weights, freeze_until=freeze_until)


def mobilenet_v2(
    *,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """A MobileNetV2 without its classifier; `norm` and `freeze_until` as of `mobilenet`."""
    kind = choose_norm(norm, weights=weights, otherwise="batch")
    body = models.mobilenet_v2(norm_layer=partial(make_norm, kind))
    return prepare(MobileNet(body), network="mobilenet_v2", weights=weights, freeze_until=freeze_until)
