"""Objects on a grid of S x S cells over the image, as the first YOLO has them (Redmon et al., CVPR 2016, section 2).

A cell answers for the object whose centre lies in it. Its left and upper border are its own, the right and lower one its
neighbour's, or its own at the image's end. Cells are numbered row by row. Letters: B images, N objects, G = S * S cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """`side` x `side` cells over images of `height` x `width` pixels, which is the batch's size, padding included."""

    side: int
    height: int
    width: int


def cells_of(boxes: Tensor, grid: Grid) -> Tensor:
    """The number of the cell in which the centre of each box [..., 4] lies, int64 [...]."""
    column, row = (place.long().clamp(0, grid.side - 1) for place in _centre(boxes, grid))
    return row * grid.side + column


def encode(boxes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Boxes [..., 4] as their cells [...] see them: `(x, y, sqrt w, sqrt h)`, [..., 4].

    x and y are the centre's place in the cell, from 0 to 1; w and h are parts of the image.
    """
    x, y = _centre(boxes, grid)
    x1, y1, x2, y2 = boxes.unbind(-1)
    root_w, root_h = (
        ((x2 - x1) / grid.width).clamp(min=0).sqrt(),
        ((y2 - y1) / grid.height).clamp(min=0).sqrt(),
    )
    return torch.stack([x - cells % grid.side, y - cells // grid.side, root_w, root_h], -1)


def decode(numbers: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """The boxes [..., 4] that `(x, y, sqrt w, sqrt h)` [..., 4] describe from cells [...]; the inverse of `encode`.

    A root below zero means what it means above.
    """
    x, y, root_w, root_h = numbers.unbind(-1)
    x = (x + cells % grid.side) * (grid.width / grid.side)
    y = (y + cells // grid.side) * (grid.height / grid.side)
    half_w, half_h = root_w.square() * (grid.width / 2), root_h.square() * (grid.height / 2)
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1)


def assign(boxes: Tensor, labels: Tensor, objects: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The object that each cell answers for, int64 [B, G] (any, where there is none), and if there is one, bool [B, G].

    Of boxes [B, N, 4] with labels [B, N], `objects` [B, N] are to be found. Of several in one cell it is the largest. Their
    order never counts: between equally large ones their corners and labels decide.
    """
    order = labels.argsort(1)
    for key in (*boxes.unbind(-1), (boxes[..., 2:] - boxes[..., :2]).prod(-1)):  # the last one counts most
        order = order.gather(1, key.gather(1, order).argsort(stable=True, dim=1))
    rank = order.argsort(1).masked_fill(~objects, -1)
    none = rank.new_full((len(boxes), grid.side**2), -1)
    best = none.scatter_reduce(1, cells_of(boxes, grid), rank, "amax")
    return order.gather(1, best.clamp(min=0)), best >= 0


def occupied(boxes: Tensor, chosen: Tensor, grid: Grid) -> Tensor:
    """The cells in which the centre of one of the `chosen` [B, N] of boxes [B, N, 4] lies, bool [B, G]."""
    counts = chosen.new_zeros((len(boxes), grid.side**2), dtype=torch.long)
    return counts.scatter_add(1, cells_of(boxes, grid), chosen.long()) > 0


def _centre(boxes: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """x and y [...] of the centres, in cells."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / (2 * grid.width / grid.side), (y1 + y2) / (2 * grid.height / grid.side)
