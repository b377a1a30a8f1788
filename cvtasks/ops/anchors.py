"""Anchors of a sliding window (Ren et al., NIPS 2015, section 3.1.1), with torchvision's values.

The step between two windows is the image's size divided by the map's, rounded down. That is the map's stride, but
for a map that was rounded up; published weights were trained with these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors around the origin for each ratio (height / width) and size (root of the area), [ratios * sizes, 4]."""
    size = torch.as_tensor(sizes, dtype=torch.float32)
    root = torch.as_tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    width, height = (1 / root * size).flatten(), (root * size).flatten()
    return (torch.stack([-width, -height, width, height], dim=1) / 2).round()


def grid_anchors(cell: Tensor, image: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`cell` [A, 4] at every position of a map, row by row: [height * width * A, 4].

    image, grid: (height, width) of the batch's images and of the map.
    """
    (height, width), device = grid, cell.device
    y = torch.arange(height, device=device) * (image[0] // height)
    x = torch.arange(width, device=device) * (image[1] // width)
    y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
    shifts = torch.stack([x, y, x, y], dim=1)
    return (shifts[:, None] + cell).flatten(0, 1)
