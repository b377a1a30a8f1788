"""Feature maps as one table of rows, read by number: regions and windows of any level and image are then one gather.

A map [H, W, C] holds a row of C numbers for each position. Maps of all levels, channels last and one after the other, make
a table, and nothing that is read from it needs a loop over levels or a size that depends on the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums of `rows` [M, K] of a table [N, C], times `weights` [M, K]: -> [M, C].

    Sums are taken in float32, the result has the table's type. The gradient reaches the table, not the weights; it is the
    transposed sum, sorted by row: no atomics, so it is deterministic.
    """
    summed: Tensor = _WeightedRows.apply(table, rows, weights.to(table.dtype))
    return summed


def window_rows(
    grids: Sequence[tuple[int, int]], *, side: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The rows of one image's table in a window of side x side around every position, and which lie inside its map.

    grids: height and width of each level; P is the number of positions of all. Returns int32 [P, side, side], where
    those outside repeat the border, and bool [P, side, side].
    """
    steps, start, rows, inside = torch.arange(side, device=device) - side // 2, 0, [], []
    for height, width in grids:
        y, x = (torch.arange(length, device=device)[:, None] + steps for length in (height, width))
        row = start + y.clamp(0, height - 1)[:, None, :, None] * width + x.clamp(0, width - 1)[:, None]
        within = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None]
        rows.append(row.flatten(0, 1))
        inside.append(within.flatten(0, 1))
        start += height * width
    return torch.cat(rows).int(), torch.cat(inside)


class _WeightedRows(torch.autograd.Function):
    """`embedding_bag` with weights, whose gradient is again one: over the taps of each row of the table."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.table_rows = len(table)  # type: ignore[attr-defined]
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, weights = ctx.saved_tensors  # type: ignore[attr-defined]
        every_row = torch.arange(ctx.table_rows, dtype=rows.dtype, device=rows.device)  # type: ignore[attr-defined]
        ordered, order = rows.flatten().sort(stable=True)
        back = F.embedding_bag(
            order // rows.shape[1],
            gradient.contiguous(),
            torch.searchsorted(ordered, every_row),
            mode="sum",
            per_sample_weights=weights.flatten().index_select(0, order),
        )
        return back, None, None
