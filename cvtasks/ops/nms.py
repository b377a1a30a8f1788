"""Non-maximum suppression among groups of boxes that do not compete with each other. Letters: B images, N boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from cvtasks.ops.host import on_host


def suppress(boxes: Tensor, scores: Tensor, counts: Sequence[int], *, iou: float) -> Tensor:
    """Which of boxes [B, N, 4], at 0 and above, with scores [B, N] are kept, bool [B, N].

    `counts` cuts N into consecutive groups (the levels of a pyramid, say); boxes compete within an image and a group.
    A CPU takes one call for each group of each image, as the work grows with the square of the boxes. An accelerator
    takes one for each group, with the images moved apart: their number does not grow with the batch.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    groups = zip(*(t.split(list(counts), dim=1) for t in (boxes, scores, keep)), strict=True)
    for group_boxes, group_scores, group_keep in groups:
        if on_host(boxes):
            for image in range(len(boxes)):
                kept = nms(group_boxes[image], group_scores[image], iou)
                group_keep[image].index_fill_(0, kept, True)
        else:
            step = group_boxes.amax() + 1
            apart = group_boxes + step * torch.arange(len(boxes), device=boxes.device)[:, None, None]
            kept = nms(apart.flatten(0, 1), group_scores.flatten(), iou)
            marks = torch.zeros_like(group_keep).flatten().index_fill_(0, kept, True)
            group_keep.copy_(marks.view_as(group_keep))
    return keep
