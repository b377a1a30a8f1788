"""Spatial pyramid pooling of regions (He et al., ECCV 2014): of one map for each image, 1, 4, 9 and 36 maxima a region.

A region's part of the map are the positions whose receptive fields have their middles inside of it (the paper's
appendix): from floor(x1 / stride) + 1 to ceil(x2 / stride) - 1, both included; of a region between two middles, the one
that is nearest to its own. It is cut into n x n bins that overlap where they do not divide it, as RoI pooling cuts.

With several scales, each region is read from the map of the image at the scale that brings it nearest to 224 x 224 pixels.
Letters: B images, R regions, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.regions import Maps
from cvtasks.ops.roi import with_image

BEST_AREA = 224.0**2
"""Pixels of a region as the network knows objects best, from ImageNet"""


class ImagePyramid(Backbone):
    """One level of a backbone's maps, of the image at several scales: {"c4@0.5": ..., "c4@1": ...}."""

    def __init__(self, backbone: Backbone, level: str, scales: Sequence[float]) -> None:
        super().__init__({f"{level}@{scale:g}": backbone.specs[level] for scale in scales})
        self.mean, self.std = backbone.mean.clone(), backbone.std.clone()
        self.backbone, self.level, self.scales = backbone.truncate(level), level, tuple(scales)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, scale in zip(self.specs, self.scales, strict=True):
            scaled = images
            if scale != 1:
                size = [max(1, round(side * scale)) for side in images.shape[-2:]]
                scaled = F.interpolate(images, size, mode="bilinear", antialias=scale < 1)
                scaled = scaled.contiguous(memory_format=torch.channels_last)
            maps[name] = self.backbone(scaled)[self.level]
        return maps


class PyramidPooling(nn.Module):
    """Reads the maps of an `ImagePyramid`."""

    bins = 1
    """A region is a vector, as for a head a map of one position."""

    def __init__(self, pyramid: ImagePyramid, *, parts: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.levels, self.scales, self.parts = tuple(pyramid.specs), pyramid.scales, tuple(parts)
        spec = pyramid.specs[self.levels[0]]
        self.stride, self.channels = spec.stride, spec.channels * sum(n * n for n in parts)

    def forward(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Boxes [B, R, 4] -> [B * R, C * (1 + 4 + 9 + 36), 1, 1]."""
        chosen = choose_scale(boxes, self.scales).flatten()
        pooled: Tensor | None = None
        for number, (level, scale) in enumerate(zip(self.levels, self.scales, strict=True)):
            vectors = pool(maps[level], positions(scale * boxes, self.stride, maps[level]), self.parts)
            pooled = vectors if pooled is None else torch.where((chosen == number)[:, None], vectors, pooled)
        assert pooled is not None
        return pooled[:, :, None, None]


def choose_scale(boxes: Tensor, scales: Sequence[float]) -> Tensor:
    """The number of the scale at which boxes [..., 4] are nearest to 224 x 224 pixels, int64 [...]."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    area = sides[..., 0] * sides[..., 1]
    return torch.stack([(area * scale**2 - BEST_AREA).abs() for scale in scales]).argmin(0)


def positions(boxes: Tensor, stride: int, features: Tensor) -> Tensor:
    """First and last position of the map [B, C, H, W] that boxes [B, R, 4] cover: x1, y1, x2, y2, float [B, R, 4]."""
    steps = boxes.detach().float() / stride
    first, last = steps[..., :2].floor() + 1, steps[..., 2:].ceil() - 1
    nearest = ((steps[..., :2] + steps[..., 2:]) / 2).round()
    empty = last < first
    limit = steps.new_tensor([features.shape[3] - 1, features.shape[2] - 1])
    corners = [torch.where(empty, nearest, each).clamp(min=0).minimum(limit) for each in (first, last)]
    return torch.cat(corners, -1)


def pool(features: Tensor, positions: Tensor, parts: Sequence[int]) -> Tensor:
    """Maxima of the bins of every part of a map [B, C, H, W] between `positions` [B, R, 4]: [B * R, sum of C * n * n]."""
    numbered = with_image(positions)
    with torch.autocast(features.device.type, enabled=False):
        pooled = [roi_pool(features.float(), numbered, n, 1.0).flatten(1) for n in parts]
    return torch.cat(pooled, 1).to(features.dtype)
