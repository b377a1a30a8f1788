"""Where objects nearly touch: U-Net's weights of the pixels between them (Ronneberger et al., MICCAI 2015, equation 2).

Fixed shapes and a fixed number of rounds: nothing waits for the device, or for a distance transform on the host.
Letters: B images, N objects, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cvtasks.ops.pixel_losses import VOID

FAR = 1e6
"""Pixels to an object that is nowhere near"""
REACH = 4
"""Times sigma: how far an object is looked for. Beyond, a weight would be below 1.0004."""


def border_weights(objects: Tensor, *, weight: float, sigma: float) -> Tensor:
    """1 + weight x exp(-(d1 + d2)^2 / (2 sigma^2)) on the ground, 1 on objects: float32 [B, H, W].

    objects: an object's number at each of its pixels, 0 on the ground, int [B, H, W]. d1 and d2 are the distances to the
    nearest object's and the second nearest object's pixels.
    """
    nearest, second = two_nearest(objects, reach=round(REACH * sigma))
    squared = (nearest.sqrt() + second.sqrt()).square()
    return 1 + weight * torch.exp(-squared / (2 * sigma**2)) * (objects == 0)


def two_nearest(objects: Tensor, *, reach: int) -> tuple[Tensor, Tensor]:
    """Squared distances, float32 [B, H, W], to the two objects nearest to each pixel, of those at most `reach` rows and
    columns away; above `FAR` where there is none.

    First along rows, then along columns: an object that is not among the two nearest of any pixel's row is not among the
    two nearest of that column either.
    """
    own = torch.where(objects > 0, 0.0, FAR**2)
    row = _Nearest(own.shape, objects)
    for step in range(-reach, reach + 1):
        row.offer(*_shifted(own, objects, step, axis=2), extra=step**2)
    column = _Nearest(own.shape, objects)
    for step in range(-reach, reach + 1):
        column.offer(*_shifted(row.first, row.first_object, step, axis=1), extra=step**2)
        column.offer(*_shifted(row.second, row.second_object, step, axis=1), extra=step**2)
    return column.first, column.second


def components(labels: Tensor) -> Tensor:
    """Numbers the connected regions of one class: labels uint8 [B, H, W] -> int32 [B, H, W], 0 for class 0 and void.

    Pixels that touch, also at a corner, belong together. The number is that of one of the region's pixels, from 1.
    """
    batch, height, width = labels.shape
    ground = (labels == 0) | (labels == VOID)
    number = torch.arange(1, height * width + 1, device=labels.device).view(1, height, width)
    number = number.masked_fill(ground, 0)
    padded = F.pad(labels, (1, 1, 1, 1))
    steps = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    alike = [padded[:, y : y + height, x : x + width] == labels for y, x in steps]
    # A region's largest number wins. Numbers travel by pixels and, through the pixel that a number names, by leaps:
    # the number of rounds grows with the logarithm of a region's length.
    for _ in range(2 * max(height, width).bit_length()):
        around = F.pad(number, (1, 1, 1, 1))
        largest = number
        for same, (y, x) in zip(alike, steps, strict=True):
            largest = largest.maximum(around[:, y : y + height, x : x + width] * same)
        flat, largest = number.view(batch, -1), largest.masked_fill(ground, 0).view(batch, -1)
        # What a pixel has found is told to the pixel that its old number names, and asked of it.
        table = F.pad(largest, (1, 0)).scatter_reduce(1, flat, largest, "amax")
        table[:, 0] = 0
        for _ in range(2):
            table = table.gather(1, table)
        number = table[:, 1:].view(batch, height, width)
    return number.int()


def numbered(masks: Tensor, valid: Tensor) -> Tensor:
    """Masks bool [B, N, H, W], of which `valid` [B, N] are objects -> int32 [B, H, W]; the last one wins."""
    numbers = torch.arange(1, masks.shape[1] + 1, dtype=torch.int32, device=masks.device) * valid
    return (masks * numbers[:, :, None, None]).amax(1).int()


class _Nearest:
    """The two nearest different objects of each pixel, and the squares of their distances."""

    def __init__(self, shape: torch.Size, objects: Tensor) -> None:
        self.first = torch.full(shape, 2 * FAR**2, device=objects.device)
        self.second = self.first.clone()
        self.first_object = torch.zeros_like(objects)
        self.second_object = torch.zeros_like(objects)

    def offer(self, distance: Tensor, objects: Tensor, *, extra: int) -> None:
        distance = distance + extra
        known = objects == self.first_object
        closest = distance < self.first
        # What was the nearest becomes the second, unless it is the same object.
        down = closest & ~known
        self.second = torch.where(down, self.first, self.second)
        self.second_object = torch.where(down, self.first_object, self.second_object)
        self.first = torch.where(closest, distance, self.first)
        self.first_object = torch.where(closest, objects, self.first_object)
        between = ~closest & ~known & (distance < self.second)
        self.second = torch.where(between, distance, self.second)
        self.second_object = torch.where(between, objects, self.second_object)


def _shifted(distance: Tensor, objects: Tensor, step: int, *, axis: int) -> tuple[Tensor, Tensor]:
    """What lies `step` further along an axis; nothing, beyond its end."""
    length = distance.shape[axis]
    count = max(length - abs(step), 0)
    fill_distance, fill_objects = torch.full_like(distance, 2 * FAR**2), torch.zeros_like(objects)
    source, target = max(step, 0), max(-step, 0)
    if count:
        fill_distance.narrow(axis, target, count).copy_(distance.narrow(axis, source, count))
        fill_objects.narrow(axis, target, count).copy_(objects.narrow(axis, source, count))
    return fill_distance, fill_objects
