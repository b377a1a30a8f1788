"""MobileNet V1 (Howard et al., 2017): depthwise separable convolutions, and one multiplier of all widths.

    cvtasks train task=faster_rcnn backbone=mobilenet_v1
    cvtasks train task=faster_rcnn backbone=mobilenet_v1 backbone.width=0.5

Deviation: the last depthwise convolution has stride 1, as the size of its map says in the paper's table, not 2, as its
column of strides says.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from cvtasks.config.schema import Range
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import Norm, NormKind, choose_norm, make_norm

# Channels of the separable convolutions of each level; the first one of c2 to c5 has stride 2.
BLOCKS = {"c1": (64,), "c2": (128, 128), "c3": (256, 256), "c4": (512,) * 6, "c5": (1024, 1024)}
STEM = 32


class MobileNetV1(Backbone):
    """A level is the last separable convolution of its stride; `width` multiplies all channels."""

    def __init__(self, *, width: float, norm: NormKind) -> None:
        def scaled(channels: int) -> int:
            return max(8, round(width * channels / 8) * 8)

        def layers(
            inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
        ) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            return [conv, make_norm(norm, outputs), nn.ReLU(inplace=True)]

        channels = scaled(STEM)
        features = [nn.Sequential(*layers(3, channels, 3, stride=2))]
        specs: dict[str, FeatureSpec] = {}
        stages: dict[str, list[str]] = {}
        for n, (level, widths) in enumerate(BLOCKS.items(), start=1):
            stages[level] = ["features.0"] if n == 1 else []
            for number, outputs in enumerate(map(scaled, widths)):
                stride = 2 if n > 1 and number == 0 else 1
                depthwise = layers(channels, channels, 3, stride=stride, groups=channels)
                stages[level].append(f"features.{len(features)}")
                features.append(nn.Sequential(*depthwise, *layers(channels, outputs, 1)))
                channels = outputs
            specs[level] = FeatureSpec(channels, 2**n)
        super().__init__(specs, stages)
        self.features = nn.Sequential(*features)


def mobilenet_v1(
    *,
    width: Annotated[float, Range(above=0)] = 1.0,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """MobileNet V1 without its classifier; `weights` is a file of the same width.

    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    """
    backbone = MobileNetV1(width=width, norm=choose_norm(norm, weights=weights, otherwise="batch"))
    return prepare(backbone, network="mobilenet_v1", weights=weights, freeze_until=freeze_until)
