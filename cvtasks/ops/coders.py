"""Boxes as offsets from reference boxes (Girshick et al., CVPR 2014, appendix C)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_LOG_SCALE = math.log(1000 / 16)
"""An offset may not grow a box beyond any image: exp of a wild output would be infinite."""
SMALLEST_SIDE = 1e-3
"""Padding holds empty boxes; this keeps their targets, which nobody uses, finite."""


def encode(boxes: Tensor, references: Tensor, weights: Tensor | None = None) -> Tensor:
    """`(dx, dy, log dw, log dh)`: boxes [..., 4] seen from references [..., 4] -> [..., 4].

    `weights` [4] are factors that bring the offsets to about one size.
    """
    size, center = _size_and_center(boxes)
    reference_size, reference_center = _size_and_center(references)
    size, reference_size = size.clamp(min=SMALLEST_SIDE), reference_size.clamp(min=SMALLEST_SIDE)
    offsets = torch.cat([(center - reference_center) / reference_size, (size / reference_size).log()], dim=-1)
    return offsets if weights is None else offsets * weights


def decode(offsets: Tensor, references: Tensor, weights: Tensor | None = None) -> Tensor:
    """The boxes [..., 4] that `offsets` [..., 4] describe from `references` [..., 4]; the inverse of `encode`."""
    offsets = offsets if weights is None else offsets / weights
    reference_size, reference_center = _size_and_center(references)
    center = offsets[..., :2] * reference_size + reference_center
    half = 0.5 * reference_size * offsets[..., 2:].clamp(max=LARGEST_LOG_SCALE).exp()
    return torch.cat([center - half, center + half], dim=-1)


def _size_and_center(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return size, boxes[..., :2] + 0.5 * size
