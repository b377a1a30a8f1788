"""What every backbone promises: named feature maps with known channels and strides, and its own statistics.

A level is named by its stride: "c0" has stride 1, "c1" 2, "c2" 4, "c3" 8, "c4" 16, "c5" 32. Where a network makes
several maps of one stride, the level is the last of them; what follows the number names an earlier one
("c5_first"). A network keeps the parameter names of torchvision
directly under the backbone (`layer1.0.conv1.weight`, `features.0.weight`), so published weights load.
Letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn import zoo

Level: TypeAlias = Literal["c0", "c1", "c2", "c3", "c4", "c5"]
Layer: TypeAlias = Literal["layer1", "layer2", "layer3", "layer4"]
"""A ResNet's own names of what leads to c2, c3, c4 and c5"""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map: its number of channels, and how many input pixels one of its steps spans."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """Images in, a dictionary of feature maps out, finest first.

    `specs` names the maps. `stages` names the submodules that lead from one level to the next, in order; a
    Backbone that has its own `forward`, as a feature pyramid does, needs none. They are kept as names, not as
    modules, so that replacing a submodule (SyncBatchNorm does) takes effect.
    """

    mean: Tensor
    std: Tensor
    smallest = 1
    """Pixels of the shortest side that it takes; more than one where layers do not pad"""

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        stages: Mapping[str, Sequence[str]] | None = None,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.stages = {level: tuple(names) for level, names in (stages or {}).items()}
        self.frozen: tuple[str, ...] = ()
        """The levels whose stages do not train."""
        # In units of the uint8 images, so that normalising needs no division by 255.
        self.register_buffer("mean", 255 * torch.tensor(mean), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] -> {level: map [B, C, H / stride, W / stride]}.

        Frozen stages have no parameter that wants a gradient, so autograd keeps nothing of them.
        """
        self.check_size(images)
        maps = {}
        for level in self.stages:
            for module in self._modules_of(level):
                images = module(images)
            maps[level] = images
        return maps

    def check_size(self, images: Tensor) -> None:
        """Raises ConfigError for images [B, 3, H, W] of which nothing would be left."""
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest:
            raise ConfigError(
                f"this backbone needs images of {self.smallest} x {self.smallest} pixels or more, and these have "
                f"{height} x {width}; choose larger ones (pipeline.size), or another backbone"
            )

    def normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """uint8 images [B, 3, H, W] and their sizes [B, 2] -> float32, channels last, zero in the padding."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) >= sizes[:, :1]
        columns = torch.arange(width, device=images.device) >= sizes[:, 1:]
        padding = rows[:, None, :, None] | columns[:, None, None, :]
        mean, std = self.mean.view(3, 1, 1), self.std.view(3, 1, 1)
        # One new tensor, changed in place; on a CPU it is faster to transpose it than the uint8 images.
        pixels = images.to(torch.float32, copy=True).sub_(mean).mul_(1 / std).masked_fill_(padding, 0)
        return pixels.contiguous(memory_format=torch.channels_last)

    def load(self, weights: str, *, network: str) -> Self:
        """Load published weights for `network` (torchvision's name), or a file; raises WeightsError."""
        zoo.load_into(self, weights, network=network)
        return self

    def freeze(self, until: str) -> Self:
        """Every stage up to and including this level stops training; batch norms keep their statistics.

        until: a level, or a module that leads to one: a ResNet's layer2 leads to c3.
        """
        until = next((level for level, names in self.stages.items() if until in names), until)
        if until not in self.stages:
            raise ConfigError(f"backbone.freeze_until={until}: this network has {', '.join(self.stages)}")
        levels = list(self.stages)
        self.frozen = tuple(levels[: levels.index(until) + 1])
        for level in self.frozen:
            for module in self._modules_of(level):
                module.requires_grad_(False)
        return self.train(self.training)

    def truncate(self, last: str) -> Self:
        """Drop the stages above level `last`, for a model that reads nothing above it."""
        assert last in self.stages, f"{last} is not one of {list(self.stages)}"
        for level in list(self.stages)[list(self.stages).index(last) + 1 :]:
            for name in self.stages.pop(level):
                parent, _, child = name.rpartition(".")
                delattr(self.get_submodule(parent), child)
            del self.specs[level]
        self.frozen = tuple(level for level in self.frozen if level in self.stages)
        return self

    def dilate(self) -> Self:
        """The last stage takes no step: its map has twice as many positions a side (the "hole algorithm", à trous).

        Its strided convolution loses its stride, and those behind it look twice as far. Nothing is learnt anew: every
        second position is what it was before. The level keeps its name. Raises ConfigError where no convolution is strided.
        """
        level = list(self.stages)[-1]
        layers = [layer for stage in self._modules_of(level) for layer in stage.modules()]
        pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        if pools or not any(conv.stride == (2, 2) for conv in convolutions):
            raise ConfigError(
                f"task.dilate=true: the last stage that is used of this network ({level}) is not one that a convolution "
                "strides; type task.dilate=false, or backbone=resnet50"
            )
        behind = False
        for conv in convolutions:
            if conv.kernel_size != (1, 1) and conv.stride == (2, 2):
                behind = True
            elif conv.kernel_size != (1, 1) and behind:
                conv.dilation = tuple(2 * n for n in conv.dilation)
                conv.padding = tuple(2 * int(n) for n in conv.padding)
            conv.stride = (1, 1)
        spec = self.specs[level]
        self.specs[level] = FeatureSpec(spec.channels, spec.stride // 2)
        return self

    def take_classifier(self) -> nn.Sequential:
        """Hand fc6 and fc7 with their ReLUs and dropouts over to a head, which owns them from then on.

        Takes a flattened [B, C * h * w] (VGG16: 512 x 7 x 7, AlexNet: 256 x 6 x 6), returns [B, 4096]. Only a
        network built with `with_classifier=True` has them; raises ConfigError otherwise.
        """
        classifier = getattr(self, "classifier", None)
        if classifier is None:
            raise ConfigError(
                "this model needs the fully connected layers of its backbone; type backbone=vgg16 or "
                "backbone=alexnet, with backbone.with_classifier=true"
            )
        del self.classifier
        return classifier

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for level in self.frozen:
            for module in self._modules_of(level):
                module.eval()
        return self

    def _modules_of(self, level: str) -> Iterator[nn.Module]:
        return (self.get_submodule(name) for name in self.stages[level])


def prepare(
    backbone: Backbone,
    *,
    network: str,
    weights: str | None,
    freeze_until: str | None,
    auto_freeze: Level = "c2",
) -> Backbone:
    """The common end of every constructor: load weights, then freeze.

    `freeze_until="auto"` freezes up to `auto_freeze` when there are weights, and nothing without them.
    """
    if weights is not None:
        backbone.load(weights, network=network)
    until = (auto_freeze if weights is not None else None) if freeze_until == "auto" else freeze_until
    return backbone if until is None else backbone.freeze(until)
