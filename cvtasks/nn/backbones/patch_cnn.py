"""A network that sees one patch of the image: convolutions without padding, and pools, until one position is left.

    cvtasks train task=sliding_window_seg

As it stands, the network of Farabet et al. (TPAMI 2013): 7x7 convolutions, patches of 46 pixels. Deviations: ReLUs
for tanh, a norm, and all maps of a layer see all maps of the layer before.

The same weights run in two ways. `on_patches` pools with a stride, as a classifier of patches does. `densely` runs over
a whole image at once: pools of stride 1, and all that comes behind one is dilated by what its stride was, so
every pixel gets what its own patch would have given, and what neighbouring patches share is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, Level, prepare
from cvtasks.nn.norm import make_norm

PositiveCount = Annotated[int, Range(min=1)]

CPU_PATCHES, GPU_PATCHES = 64, 1024


def patches_at_once(device: torch.device) -> int:
    """How many run at once where a window slides: few stay in a CPU's cache, many fill a GPU.

    On a CPU an image of 64 pixels, labelled patch by patch, took 2.2 s with 1024 of them, and 0.9 s with 64.
    """
    return CPU_PATCHES if device.type == "cpu" else GPU_PATCHES


class PatchCNN(Backbone):
    """c0 is what it says of the patch around each pixel; outside the image there are zeros."""

    def __init__(
        self,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        pools: Sequence[int],
        norm: Literal["batch", "frozen"] | None,
    ) -> None:
        super().__init__({"c0": FeatureSpec(channels[-1], 1)}, {"c0": ("convolutions", "norms")})
        self.pools = tuple(pools)
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        inputs = 3
        for outputs, kernel in zip(channels, kernels, strict=True):
            convolution = nn.Conv2d(inputs, outputs, kernel, bias=norm is None)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            self.convolutions.append(convolution)
            self.norms.append(nn.Identity() if norm is None else make_norm(norm, outputs))
            inputs = outputs
        self.stride = math.prod(pools)
        """Pixels between the positions of `on_patches`' map"""
        self.patch = 1
        """Pixels of a patch's side"""
        for kernel, pool in zip(reversed(kernels), reversed(pools), strict=True):
            self.patch = self.patch * pool + kernel - 1

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"c0": self.densely(self.padded(images))}

    def padded(self, images: Tensor) -> Tensor:
        """Images with as many zeros around them that each pixel is the middle of a patch."""
        before, after = self.patch // 2, self.patch - 1 - self.patch // 2
        return F.pad(images, (before, after, before, after))

    def on_patches(self, patches: Tensor, added: Tensor | None = None) -> Tensor:
        """[N, 3, patch, patch] -> [N, C, 1, 1]. `added` is a part of the first convolution's result.

        Larger images give a map of the patches that lie `stride` apart.
        """
        return self._run(patches, added, dense=False)

    def densely(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        """Padded images [B, 3, H + patch - 1, W + patch - 1] -> [B, C, H, W]."""
        return self._run(images, added, dense=True)

    def _run(self, x: Tensor, added: Tensor | None, *, dense: bool) -> Tensor:
        dilation = 1
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            x = F.conv2d(x, convolution.weight, convolution.bias, dilation=dilation)  # type: ignore[arg-type]
            if added is not None:
                x, added = x + added, None
            x = norm(x)
            if pool > 1 and dense:
                x = F.max_pool2d(x, pool, stride=1, dilation=dilation)
                dilation *= pool
            elif pool > 1:
                x = F.max_pool2d(x, pool)
            x = F.relu(x, inplace=True)  # behind the pool it is the same, and on fewer values
        return x


def patch_cnn(
    *,
    channels: Sequence[PositiveCount] = (16, 64, 256),
    kernels: Sequence[PositiveCount] = (7, 7, 7),
    pools: Sequence[PositiveCount] = (2, 2, 1),
    norm: Literal["batch", "frozen"] | None = "batch",
    weights: str | None = None,
    freeze_until: Level | None = None,
) -> Backbone:
    """A convolution and a pool for each of the lists' entries. Raises ConfigError if they are not equally long."""
    if not channels or not len(channels) == len(kernels) == len(pools):
        raise ConfigError(
            f"backbone.channels={list(channels)}, backbone.kernels={list(kernels)}, backbone.pools={list(pools)}: "
            "expected three lists of the same length, one entry a layer"
        )
    backbone = PatchCNN(channels=channels, kernels=kernels, pools=pools, norm=norm)
    return prepare(backbone, network="patch_cnn", weights=weights, freeze_until=freeze_until)
