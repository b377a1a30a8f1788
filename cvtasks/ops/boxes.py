"""Boxes `(x1, y1, x2, y2)` in continuous pixels. Letters: B images, N and P boxes."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_AREA = 1e-7
"""Keeps what is divided by the area of empty boxes finite"""


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; 0 for a box whose corners are the wrong way round."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Shared area of every pair: [..., N, 4] and [..., P, 4] -> [..., N, P].

    Put the longer list second: it becomes the axis that lies in memory.
    """
    # One axis at a time and in place: the result is the largest tensor of a training step's matching.
    x1, y1, x2, y2 = first[..., :, None, :].unbind(-1)
    left, top, right, bottom = second[..., None, :, :].unbind(-1)
    width = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    height = torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0)
    return width.mul_(height)


def iou(first: Tensor, second: Tensor, *, shared: Tensor | None = None) -> Tensor:
    """Intersection over union of every pair: [..., N, 4] and [..., P, 4] -> [..., N, P]; 0 for empty boxes.

    `shared` is their `intersection`, where it is known already.
    """
    shared = intersection(first, second) if shared is None else shared
    union = (area(first)[..., :, None] + area(second)[..., None, :]).sub_(shared)
    return shared / union.clamp_(min=1e-9)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Of boxes [..., 4] and others, one by one: [...], from -1 to 1 (Rezatofighi et al., CVPR 2019).

    The IoU less the share of the smallest box around both that neither covers, so that boxes apart have a gradient, too.
    torchvision's `generalized_box_iou_loss` says the same, but picks boxes by a mask, for which a GPU's host waits.
    """
    (upper, lower), (other_upper, other_lower) = (boxes.split(2, dim=-1) for boxes in (first, second))
    both = torch.cat([torch.maximum(upper, other_upper), torch.minimum(lower, other_lower)], dim=-1)
    around = torch.cat([torch.minimum(upper, other_upper), torch.maximum(lower, other_lower)], dim=-1)
    shared, whole = area(both), area(around)
    union = area(first) + area(second) - shared
    return shared / (union + SMALLEST_AREA) - (whole - union) / (whole + SMALLEST_AREA)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, N, 4] cut off at their images' borders; `sizes` [B, 2] are heights and widths."""
    limits = sizes.flip(-1).to(boxes.dtype)[:, None, :]
    return boxes.clamp(min=0).minimum(limits.repeat(1, 1, 2))


def rescale(boxes: Tensor, sizes: Tensor, new_sizes: Tensor) -> Tensor:
    """Boxes [B, N, 4] of images with `sizes` [B, 2] in the pixels of the same images at `new_sizes` [B, 2]."""
    ratios = (new_sizes / sizes).flip(-1).to(boxes.dtype)
    return boxes * ratios[:, None, :].repeat(1, 1, 2)
