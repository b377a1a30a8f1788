"""Which reference box answers for which object (Ren et al., NIPS 2015, section 3.1.2), for a whole batch at once.

Letters: B images, P reference boxes (anchors or proposals), N objects (padded, at least 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cvtasks.ops.boxes import area, intersection, iou

IGNORED_OVERLAP = 0.5
"""A reference box with this share of itself inside an ignored object (crowd, difficult) is no negative."""
MOST_PAIRS = 2**27
"""Of objects and reference boxes at once: 512 MB for each of the four tensors that matching needs. A larger batch is
matched in parts."""


@dataclass(frozen=True)
class Match:
    """What each reference box is for. `positive` and `negative` exclude each other; a box may be neither."""

    index: Tensor
    """int64 [B, P]: the object with the largest IoU; means nothing in an image without objects"""
    positive: Tensor
    """bool [B, P]"""
    negative: Tensor
    """bool [B, P]"""


def match(
    references: Tensor,
    boxes: Tensor,
    *,
    objects: Tensor,
    ignored: Tensor | None = None,
    positive_iou: float,
    negative_iou: float,
    background_iou: float = 0.0,
    keep_best: bool,
    claim_best: bool = False,
) -> Match:
    """Match references [B, P, 4] or [P, 4] with boxes [B, N, 4], of which `objects` [B, N] are to be found.

    Positive from `positive_iou` on, negative below `negative_iou` and, where `background_iou` is above 0, from that on.
    `ignored` [B, N] are neither objects nor background.
    keep_best: a reference that no other beats for some object is positive too, however small the overlap, so that each
    object has one; it answers for the object with the largest IoU, as in torchvision and detectron2. (An object that no
    reference touches has none; torchvision makes all of them positive then.)
    claim_best: the first of each object's best references is positive and answers for it, whatever it overlaps more (SSD);
        where objects share one, the last of them has it, as in torchvision.
    """
    images = max(1, MOST_PAIRS // (boxes.shape[1] * references.shape[-2]))
    if len(boxes) > images:
        parts = []
        for start in range(0, len(boxes), images):
            part = slice(start, start + images)
            found = match(
                references if references.ndim == 2 else references[part],
                boxes[part],
                objects=objects[part],
                ignored=None if ignored is None else ignored[part],
                positive_iou=positive_iou,
                negative_iou=negative_iou,
                background_iou=background_iou,
                keep_best=keep_best,
                claim_best=claim_best,
            )
            parts.append((found.index, found.positive, found.negative))
        return Match(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    shared = intersection(boxes, references)
    overlaps = iou(boxes, references, shared=shared).masked_fill_(~objects[:, :, None], -1)
    best, index = overlaps.max(dim=1)
    positive, negative = best >= positive_iou, best < negative_iou
    if background_iou > 0:
        negative &= best >= background_iou
    if keep_best:
        # 2 is no IoU: an object that nothing overlaps, or that is none, has no best.
        highest = overlaps.amax(dim=2, keepdim=True)
        positive |= (overlaps == highest.where(highest > 0, 2.0)).any(dim=1)
    if claim_best:
        highest, first = overlaps.max(dim=2)
        number = torch.arange(boxes.shape[1], device=boxes.device).where(highest > 0, -1)
        claimed = torch.full_like(index, -1).scatter_reduce_(1, first, number, "amax")
        index, positive = claimed.where(claimed >= 0, index), positive | (claimed >= 0)
    if ignored is not None:
        covered = shared.masked_fill_(~ignored[:, :, None], 0).amax(dim=1)
        negative &= covered < IGNORED_OVERLAP * area(references).clamp(min=1e-9)
    return Match(index, positive, negative & ~positive)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` [B, N] or [B, N, D] by `index` [B, P] -> [B, P] or [B, P, D]."""
    if values.ndim == 2:
        return values.gather(1, index)
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
