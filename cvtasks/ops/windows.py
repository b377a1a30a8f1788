"""Images larger than a network can take, cut into windows, whose results make one map again.

Letters: B images, C channels, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover 0..length - 1; the last one ends with it. One alone if it reaches that far."""
    return [*range(0, max(0, length - window), stride), max(0, length - window)]


def blend(compute: Callable[[Tensor], Tensor], images: Tensor, *, window: int, stride: int) -> Tensor:
    """`compute` on overlapping windows of images [B, C, H, W], averaged where they overlap: -> [B, K, H, W] float32.

    compute: [B, C, h, w] -> [B, K, h, w], with h and w at most `window`. One window runs at a time.

    A window counts most in its middle, as there it saw most of what is around: its weight falls to its sides.
    """
    height, width = images.shape[-2:]
    tall, wide = min(window, height), min(window, width)
    weights = tent(tall, images.device)[:, None] * tent(wide, images.device)
    weight_sum = images.new_zeros(height, width, dtype=torch.float32)
    total: Tensor | None = None
    for y in starts(height, tall, stride):
        for x in starts(width, wide, stride):
            here = (..., slice(y, y + tall), slice(x, x + wide))
            found = compute(images[here]).float()
            if total is None:
                total = found.new_zeros(*found.shape[:2], height, width)
            total[here] += found * weights
            weight_sum[here] += weights
    assert total is not None
    return total / weight_sum


def tent(length: int, device: torch.device) -> Tensor:
    """Positive weights that rise to the middle and fall, float32 [length]."""
    steps = torch.arange(length, device=device) + 1.0
    return torch.minimum(steps, steps.flip(0)) / length


def mirror(start: int, stop: int, length: int, device: torch.device) -> Tensor:
    """Positions start..stop - 1 of a line that is mirrored at both ends, as often as it takes; int64, in 0..length - 1.

    The pixel at the border is not repeated: -1 is 1, and `length` is length - 2.
    """
    positions = torch.arange(start, stop, device=device)
    if length == 1:
        return positions * 0
    period = 2 * (length - 1)
    positions = positions % period
    return torch.minimum(positions, period - positions)


def mirrored(images: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The part [B, C, *size] of images [B, C, H, W] from a corner (row, column) on, mirrored where it lies outside."""
    rows, columns = (
        mirror(start, start + extent, length, images.device)
        for start, extent, length in zip(corner, size, images.shape[-2:], strict=True)
    )
    return images[..., rows[:, None], columns]


def tiles(size: tuple[int, int], tile: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last + 1 row, and column, of tiles that cover a size, side by side; the last ones may be smaller."""
    for top in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            yield (top, min(top + tile, size[0])), (left, min(left + tile, size[1]))
