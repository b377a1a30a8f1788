"""The maps that SSD reads (Liu et al., ECCV 2016, section 2.1), and its head; with `lite` those of SSDLite.

SSDLite (Sandler et al., CVPR 2018, section 6.2): every 3x3 convolution of the head and of the extra layers is a depthwise
one and a 1x1 one. Letters: B images, N default boxes, A at a position, K classes, C channels, L maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.dense_detector import flatten_maps
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.nn.regions import Maps

ExtraKind: TypeAlias = Literal["half", "valid", "last"]
"""half: a 3x3 convolution of stride 2. valid: one without padding, of stride 1. last: SSD512's, which makes 1x1 of 2x2."""
GEOMETRY: Mapping[str, dict[str, int]] = {
    "half": {"kernel_size": 3, "stride": 2, "padding": 1},
    "valid": {"kernel_size": 3},
    "last": {"kernel_size": 4, "padding": 1},
}
LITE_EPS, LITE_MOMENTUM = 1e-3, 0.03
"""Of SSDLite's batch norms, as in torchvision"""


class ScaledL2Norm(nn.Module):
    """Every position's vector at length 1, times a learnt factor for each channel (Liu et al., ParseNet, 2015)."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape, float32."""
        return F.normalize(x.float()) * self.weight.view(-1, 1, 1)


class AtrousFC(nn.Sequential):
    """VGG16's fc6 and fc7 as convolutions: [B, C, H, W] -> [B, outputs, H, W].

    pool5 takes no step, so fc6 looks further: a 3x3 convolution with dilation 6 (Chen et al., ICLR 2015).
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(channels, outputs, kernel_size=3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, kernel_size=1),
            nn.ReLU(inplace=True),
        )

    def take_over(self, classifier: nn.Sequential) -> None:
        """Weights of fully connected layers: outputs and positions of fc6 at equal distances, as the paper's network has.

        Raises ConfigError where there are fewer than are wanted.
        """
        fc6, *_, fc7 = (layer for layer in classifier if isinstance(layer, nn.Linear))
        conv6, conv7 = (layer for layer in self if isinstance(layer, nn.Conv2d))
        outputs, channels = conv6.weight.shape[:2]
        step, remainder = divmod(fc6.out_features, outputs)
        if remainder or not step:
            raise ConfigError(
                f"task.fc_channels={outputs}: does not divide the {fc6.out_features} channels of the backbone's fc6; type "
                "task.fc_channels=1024"
            )
        side = round((fc6.in_features / channels) ** 0.5)
        positions = torch.linspace(0, side - 1, 3).round().long()
        with torch.no_grad():
            kernel = fc6.weight.view(-1, channels, side, side)[::step]
            conv6.weight.copy_(kernel[:, :, positions][..., positions])
            conv6.bias.copy_(fc6.bias[::step])  # type: ignore[union-attr]
            conv7.weight.copy_(fc7.weight[::step, ::step, None, None])
            conv7.bias.copy_(fc7.bias[::step])  # type: ignore[union-attr]


class MultiboxMaps(nn.Module):
    """The backbone's maps `levels`, and one more for each extra layer, each made of the one before.

    l2_scale: the first map is normalised, and begins at this length. fc_channels: the last of the backbone's passes
    through `AtrousFC`. extra_channels, extra_layers: of each extra layer; its 1x1 convolution has half the channels.
    norm: of the extra layers.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        levels: Sequence[str],
        *,
        l2_scale: float | None,
        fc_channels: int | None,
        extra_channels: Sequence[int],
        extra_layers: Sequence[ExtraKind],
        lite: bool = False,
        norm: NormKind | None = None,
    ) -> None:
        super().__init__()
        if len(extra_channels) != len(extra_layers):
            raise ConfigError(
                f"task.extra_layers={list(extra_layers)}: expected one for each of task.extra_channels="
                f"{list(extra_channels)}"
            )
        self.levels = tuple(levels)
        self.scale = None if l2_scale is None else ScaledL2Norm(specs[levels[0]].channels, l2_scale)
        channels = [specs[level].channels for level in levels]
        self.fc = None if fc_channels is None else AtrousFC(channels[-1], fc_channels)
        channels[-1] = fc_channels or channels[-1]
        self.extra = nn.ModuleList()
        for outputs, kind in zip(extra_channels, extra_layers, strict=True):
            self.extra.append(_extra_layer(channels[-1], outputs, kind, lite=lite, norm=norm))
            channels.append(outputs)
        self.channels = tuple(channels)
        """Of each map"""
        for part in (self.fc, self.extra):
            if part is not None:
                _initialize(part, lite=lite)

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """{"c3": [B, C, H, W], ...} -> the same and "extra1", ..., finest first. Raises ConfigError for a small image."""
        made = {level: maps[level] for level in self.levels}
        first, last = self.levels[0], self.levels[-1]
        if self.scale is not None:
            made[first] = self.scale(made[first])
        x = maps[last]
        if self.fc is not None:
            x = made[last] = self.fc(x)
        for number, layer in enumerate(self.extra, start=1):
            assert isinstance(layer, _Extra)
            if min(x.shape[2:]) + 2 * layer.padding < layer.kernel:
                raise ConfigError(
                    f"task.extra_layers: map {len(made)} has {x.shape[2]} x {x.shape[3]} positions, too few for the next "
                    "layer; enlarge pipeline.size, or type half in its place"
                )
            x = made[f"extra{number}"] = layer(x)
        return made


class MultiboxHead(nn.Module):
    """Two convolutions on each map: the scores of K classes and the background, and the offsets, of A boxes at a position.

    channels: of each map. kinds: A of each map. norm: of the depthwise convolutions (lite).
    """

    class_layers = ("scores",)

    def __init__(
        self,
        channels: Sequence[int],
        kinds: Sequence[int],
        num_classes: int,
        *,
        lite: bool = False,
        norm: NormKind | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != len(kinds):
            raise ConfigError(
                f"task.ratios: {len(kinds)} lists; expected {len(channels)}, one for each map: task.levels and "
                "task.extra_channels"
            )
        self.columns = num_classes + 1

        def layers(columns: int) -> nn.ModuleList:
            made = (
                _predictor(inputs, columns * kind, lite=lite, norm=norm)
                for inputs, kind in zip(channels, kinds, strict=True)
            )
            return nn.ModuleList(made)

        self.scores, self.offsets = layers(self.columns), layers(4)
        _initialize(self, lite=lite)

    def forward(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """Logits [B, N, K + 1] and offsets [B, N, 4], float32."""
        scores = [layer(x) for layer, x in zip(self.scores, maps.values(), strict=True)]
        offsets = [layer(x) for layer, x in zip(self.offsets, maps.values(), strict=True)]
        return flatten_maps(scores, self.columns), flatten_maps(offsets, 4)


class _Extra(nn.Sequential):
    """What makes one map of the one before; `kernel` and `padding` tell how large that must be."""

    def __init__(self, kernel: int, padding: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.kernel, self.padding = kernel, padding


def _extra_layer(
    channels: int, outputs: int, kind: ExtraKind, *, lite: bool, norm: NormKind | None
) -> nn.Module:
    geometry, half = GEOMETRY[kind], outputs // 2
    size = geometry["kernel_size"], geometry.get("padding", 0)
    if lite:
        return _Extra(
            *size,
            _convolution(channels, half, norm, nn.ReLU6, kernel_size=1),
            _convolution(half, half, norm, nn.ReLU6, groups=half, **geometry),
            _convolution(half, outputs, norm, nn.ReLU6, kernel_size=1),
        )
    layers = (
        *_convolution(channels, half, norm, nn.ReLU, kernel_size=1),
        *_convolution(half, outputs, norm, nn.ReLU, **geometry),
    )
    return _Extra(*size, *layers)


def _predictor(channels: int, outputs: int, *, lite: bool, norm: NormKind | None) -> nn.Module:
    if not lite:
        return nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
    depthwise = _convolution(channels, channels, norm, nn.ReLU6, kernel_size=3, padding=1, groups=channels)
    return nn.Sequential(depthwise, nn.Conv2d(channels, outputs, kernel_size=1))


def _convolution(
    channels: int, outputs: int, norm: NormKind | None, activation: type[nn.Module], **geometry: int
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, outputs, bias=norm is None, **geometry)]  # type: ignore[arg-type]
    if norm is not None:
        layers.append(make_norm(norm, outputs, eps=LITE_EPS, momentum=LITE_MOMENTUM))
    return nn.Sequential(*layers, activation(inplace=True))


def _initialize(part: nn.Module, *, lite: bool) -> None:
    """As torchvision, and the paper's "xavier", have it; SSDLite: a normal distribution."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            if lite:
                nn.init.normal_(layer.weight, std=0.03)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
