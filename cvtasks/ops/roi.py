"""Fixed-size features of regions: RoI align over a pyramid as one gather, RoI pooling, and its position-sensitive form.

RoI align (He et al., ICCV 2017) with a fixed sampling grid is a weighted sum of a fixed number of feature rows. With
channels-last maps it is one `embedding_bag` over the rows of all levels and images: no loop over levels, no size that
depends on the data. The gradient is the transposed bag, sorted by row: no atomics, so it is deterministic. Values and
gradients are torchvision's (`MultiScaleRoIAlign`, aligned=False) up to rounding; sums are taken in float32, and the
result has the maps' type, so that bf16 maps are never copied to float32 (on a CPU half the time).

Letters: B images, R regions, C channels, S bins a side, T sampling points a bin and side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops

from cvtasks.ops.rows import weighted_rows

CANONICAL_SIZE, CANONICAL_STRIDE = 224, 16
"""A region of ImageNet's crop size is read from the stride-16 map (Lin et al., CVPR 2017, equation 1)."""


def roi_align(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, *, bins: int, sampling_ratio: int = 2
) -> Tensor:
    """RoI align of boxes [B, R, 4] on the level that fits each: a [B, C, H, W] for each level -> [B * R, C, S, S].

    Strides are powers of two, finest first. `sampling_ratio` is T; 0 chooses it for each region by its size, as the
    paper's code does, by torchvision's operator on every level. Gradients reach the maps, not the boxes. The result
    lies channels-last in memory.
    """
    # A NaN would become a wild row number; as a zero it gets as far as the losses, where it is noticed.
    boxes = boxes.detach().float().nan_to_num()
    level = choose_level(boxes, strides).flatten()
    if sampling_ratio <= 0:
        return _adaptive_roi_align(maps, strides, with_image(boxes), level, bins=bins)
    batch, count = boxes.shape[:2]
    heights, widths = [m.shape[2] for m in maps], [m.shape[3] for m in maps]
    starts = [0]
    for height, width in zip(heights, widths, strict=True):
        starts.append(starts[-1] + batch * height * width)
    rows, columns = _by_level(heights, level), _by_level(widths, level)
    image = torch.arange(batch, device=boxes.device, dtype=torch.int32).repeat_interleave(
        count, output_size=batch * count
    )
    index, weights = _taps(
        boxes.flatten(0, 1) * _by_level([1 / s for s in strides], level)[:, None],
        _by_level(starts[:-1], level) + image * rows * columns,
        rows,
        columns,
        bins=bins,
        points=sampling_ratio,
    )
    # One table of rows, [sum of B * H * W, C]: level after level, image after image.
    table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])
    pooled = weighted_rows(table, index, weights)
    return pooled.view(-1, bins, bins, table.shape[1]).permute(0, 3, 1, 2)


def choose_level(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The index of the level that boxes [..., 4] are read from, int64 [...]: twice the size, one level up.

    Of levels that share a stride the first is read, as in torchvision.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    size = (sides[..., 0] * sides[..., 1]).sqrt()
    level = torch.floor(math.log2(CANONICAL_STRIDE) + torch.log2(size / CANONICAL_SIZE) + 1e-6)
    return (level - math.log2(strides[0])).clamp(0, math.log2(strides[-1] / strides[0])).long()


def roi_pool(features: Tensor, stride: int, boxes: Tensor, *, bins: int) -> Tensor:
    """RoI max pooling (Girshick, ICCV 2015) of boxes [B, R, 4] on one map [B, C, H, W] -> [B * R, C, S, S]."""
    with torch.autocast(features.device.type, enabled=False):
        pooled = ops.roi_pool(features.float(), with_image(boxes.detach().float()), bins, 1 / stride)
    return pooled.to(features.dtype)


def ps_roi_pool(features: Tensor, stride: int, boxes: Tensor, *, bins: int) -> Tensor:
    """Position-sensitive RoI pooling (Dai et al., NIPS 2016) of boxes [B, R, 4] on one map: -> [B, R, C, S, S], float32.

    Of the map's C * S * S channels, a bin in row i and column j reads c * S * S + i * S + j for the c-th of its results,
    and takes the mean. This is two products with what each bin takes of the rows and of the columns, and deterministic.
    torchvision's operator (0.29) leaves out the map's last row and column, but its gradient does not.
    """
    with torch.autocast(features.device.type, enabled=False):
        height, width = features.shape[-2:]
        maps = features.float().unflatten(1, (-1, bins, bins))
        corners = boxes.detach().float() / stride
        corners = corners.sign() * (corners.abs() + 0.5).floor()  # halves away from zero
        rows = _shares(corners[..., 1], corners[..., 3], height, bins=bins)
        columns = _shares(corners[..., 0], corners[..., 2], width, bins=bins)
        pooled = [
            torch.einsum("brcjw,brjw->brcj", torch.einsum("brh,bcjhw->brcjw", row, of_row), columns)
            for row, of_row in zip(rows.unbind(2), maps.unbind(2), strict=True)
        ]
        return torch.stack(pooled, dim=3)


def ps_roi_align(features: Tensor, stride: int, boxes: Tensor, *, bins: int) -> Tensor:
    """The same read at fractions of a position, with 2 x 2 points a bin: -> [B, R, C, S, S], float32."""
    with torch.autocast(features.device.type, enabled=False):
        regions = with_image(boxes.detach().float())
        pooled = ops.ps_roi_align(features.float(), regions, bins, 1 / stride, sampling_ratio=2)
    return pooled.unflatten(0, boxes.shape[:2])


def _shares(start: Tensor, end: Tensor, length: int, *, bins: int) -> Tensor:
    """Of regions from `start` to `end` [B, R]: what each bin takes of each position, [B, R, S, length]; sums are 1 or 0."""
    step = (end - start).clamp(min=1)[..., None] / bins
    number = torch.arange(bins, device=start.device)
    first = (start[..., None] + (number * step).floor())[..., None]
    last = (start[..., None] + ((number + 1) * step).ceil())[..., None]
    position = torch.arange(length, device=start.device)
    inside = ((position >= first) & (position < last)).float()
    return inside / inside.sum(-1, keepdim=True).clamp(min=1)


def with_image(boxes: Tensor) -> Tensor:
    """Boxes [B, R, 4] as torchvision's operators take them: [B * R, 5], the image's number first."""
    image = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None, None]
    return torch.cat([image.expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)


def _adaptive_roi_align(
    maps: Sequence[Tensor], strides: Sequence[int], regions: Tensor, level: Tensor, *, bins: int
) -> Tensor:
    """Every region on every level, and the right one chosen: more work, but nothing depends on the data."""
    with torch.autocast(regions.device.type, enabled=False):
        pooled = maps[0].new_zeros((), dtype=torch.float32)
        for i, (features, stride) in enumerate(zip(maps, strides, strict=True)):
            on_this = ops.roi_align(features.float(), regions, bins, 1 / stride, sampling_ratio=0)
            pooled = torch.where((level == i)[:, None, None, None], on_this, pooled)
    return pooled.to(maps[0].dtype).contiguous(memory_format=torch.channels_last)


def _by_level(values: Sequence[int] | Sequence[float], level: Tensor) -> Tensor:
    """`values[level]`, int32 or float32, without a copy from the host, for which it would wait for the device."""
    dtype = torch.float32 if isinstance(values[0], float) else torch.int32
    chosen = torch.full_like(level, values[0], dtype=dtype)
    for i, value in enumerate(values[1:], start=1):
        chosen.masked_fill_(level == i, value)
    return chosen


def _taps(
    boxes: Tensor, start: Tensor, height: Tensor, width: Tensor, *, bins: int, points: int
) -> tuple[Tensor, Tensor]:
    """Rows and weights of every bin, int32 and float32 [R * S * S, T * T * 4], for boxes [R, 4] in map units."""
    grid = (torch.arange(bins * points, device=boxes.device) + 0.5) / points
    low, high = boxes[:, :2], boxes[:, 2:]
    step = (high - low).clamp(min=1) / bins
    taps = []
    for axis, length in ((1, height), (0, width)):
        limit = length[:, None].float()
        point = low[:, axis, None] + step[:, axis, None] * grid
        inside = ((point >= -1) & (point <= limit)) / points
        point = point.clamp(min=0).minimum(limit - 1)
        below = point.floor()
        above = (below + 1).minimum(limit - 1)
        share = point - below
        row = torch.stack([below, above], -1).int().view(len(boxes), bins, 2 * points)
        weight = torch.stack([1 - share, share], -1) * inside[..., None]
        taps.append((row, weight.view(len(boxes), bins, 2 * points)))
    (y, y_weight), (x, x_weight) = taps

    def every_pair(per_row: Tensor, per_column: Tensor) -> tuple[Tensor, Tensor]:
        # [R, S, 1, 4 T T] and [R, 1, S, 4 T T]: one long last axis is many times faster than six short ones.
        n = 2 * points
        per_row = per_row[..., :, None].expand(-1, -1, -1, n).flatten(2)[:, :, None]
        return per_row, per_column[..., None, :].expand(-1, -1, n, -1).flatten(2)[:, None]

    first_of_row, column = every_pair(start[:, None, None] + y * width[:, None, None], x)
    rows = (first_of_row + column).flatten(0, 2)
    y_weight, x_weight = every_pair(y_weight, x_weight)
    return rows, (y_weight * x_weight).flatten(0, 2)
