"""Where SSD looks in training: the image on a larger ground, and patches that overlap an object by so much.

Liu et al., ECCV 2016, sections 2.2 (patches) and 3.6 (the larger ground, "zoom out"). Windows are (x1, y1, x2, y2) in whole
pixels of the image, and may reach outside of it: nothing here touches a pixel. Random numbers come from torch's global
generator. Letters: N objects, T trials.

Deviation: which kind of patch it shall be is drawn first, and another one where no trial succeeds, as in torchvision; the
paper's code makes one of every kind and draws among those it found. Overlap is intersection over union, with any object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from cvtasks.ops.boxes import iou
from cvtasks.types import Sample

Window: TypeAlias = tuple[int, int, int, int]

TRIALS = 50
"""Patches of a kind that are tried"""


def sought_boxes(sample: Sample) -> Tensor:
    """The boxes [N, 4] of a sample's objects, without those to be ignored."""
    if "boxes" not in sample:
        return torch.zeros(0, 4)
    boxes: Tensor = sample["boxes"].as_subclass(Tensor)
    return boxes[~sample["ignore"]] if "ignore" in sample else boxes


def larger_ground(height: int, width: int, *, most: float) -> Window:
    """A frame 1 to `most` times as high and wide as an image, that has it somewhere."""
    ratio = 1 + (most - 1) * torch.rand(()).item()
    (top, bottom), (left, right) = (_around(length, ratio) for length in (height, width))
    return left, top, right, bottom


def _around(length: int, ratio: float) -> tuple[int, int]:
    more = int(length * ratio) - length
    before = int(torch.randint(0, more + 1, ()).item())
    return -before, length + more - before


@dataclass(frozen=True)
class Patch:
    """Draws a patch of a frame.

    min_ious: one is drawn; None: all of the frame, 0: any patch. scale: the root of its part of the frame's area. aspect:
    its width over its height, where the frame's is 1.
    """

    min_ious: Sequence[float | None]
    scale: tuple[float, float]
    aspect: tuple[float, float]

    def __call__(self, frame: Window, boxes: Tensor) -> Window:
        """boxes [N, 4]: a patch has the middle of one at least; where there are none, it is all of the frame."""
        kinds = list(self.min_ious) if len(boxes) else []
        while kinds:
            min_iou = kinds.pop(int(torch.randint(0, len(kinds), ()).item()))
            if min_iou is None:
                break
            windows = self.trials(frame)
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((middle > windows[:, None, :2]) & (middle < windows[:, None, 2:])).all(2).any(1)
            good = inside & (iou(windows, boxes).amax(1) >= min_iou)
            if good.any():
                x1, y1, x2, y2 = windows[int(good.int().argmax())].int().tolist()
                return x1, y1, x2, y2
        return frame

    def trials(self, frame: Window) -> Tensor:
        """Patches [T, 4], of whole pixels."""
        x1, y1, x2, y2 = frame
        sides = torch.tensor([x2 - x1, y2 - y1], dtype=torch.float32)
        draws = torch.rand(4, TRIALS)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0]
        # Such that neither side is longer than the frame's.
        low, high = scale.square().clamp(min=self.aspect[0]), (1 / scale.square()).clamp(max=self.aspect[1])
        root = (low + (high - low) * draws[1]).sqrt()
        extent = (
            (torch.stack([scale * root, scale / root], dim=1) * sides).round().clamp(min=1).minimum(sides)
        )
        corner = (draws[2:].T * (sides - extent)).round() + torch.tensor([x1, y1])
        return torch.cat([corner, corner + extent], dim=1)
