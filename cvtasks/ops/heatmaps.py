"""Heat maps of joints: Gaussians to learn, and maxima to read. Letters: B images, J joints, h x w pixels.

Places are in pixels of the map with pixel centres at +0.5, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussians(places: Tensor, size: Sequence[int], *, sigma: float) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) of each pixel's distance to the places [B, J, 2]: [B, J, *size], 1 at the place itself."""
    columns, rows = (
        torch.exp(
            -0.5 * ((torch.arange(length, device=places.device) + 0.5 - places[..., axis, None]) / sigma) ** 2
        )
        for axis, length in ((0, size[1]), (1, size[0]))
    )
    return rows[..., :, None] * columns[..., None, :]


def peaks(heat: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima of maps [B, J, h, w]: places [B, J, 2], and how high they are [B, J].

    A place is the middle of the highest pixel, moved by a quarter of a pixel towards the higher one of its neighbours
    in x, and in y; not at all where one is missing or both are as high (Newell et al., ECCV 2016).
    """
    height, width = heat.shape[2:]
    heights, index = heat.flatten(2).max(2)
    row, column = index // width, index % width

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        return heat.flatten(2).gather(2, index[..., None])[..., 0]

    across = (at(row, column + 1) - at(row, column - 1)).sign() * ((column > 0) & (column < width - 1))
    down = (at(row + 1, column) - at(row - 1, column)).sign() * ((row > 0) & (row < height - 1))
    return torch.stack([column + 0.5 + 0.25 * across, row + 0.5 + 0.25 * down], -1), heights
