"""Default boxes and the multibox loss of SSD (Liu et al., ECCV 2016, section 2.2), as parts of a `DenseDetector`.

Deviations, all of them torchvision's too: of objects whose best default box is the same one, the last has it (the paper's
code hands boxes out one by one, the largest overlap first); default boxes are no larger than the image, unless `clip` is
off. Not torchvision's: where three times the positives are more than there are negatives, no positive is counted twice.
Letters: B images, N default boxes of all maps, A at a position, K classes, L maps. The background is class K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.dense_detector import Assignment, Candidates, Size, box_losses
from cvtasks.ops.losses import count, masked_sum
from cvtasks.ops.matching import Match, match


class DefaultBoxes(nn.Module):
    """Boxes of a few shapes at the middle of every position of every map.

    scales: L + 1 parts of the image's sides. Map k has a square of scale k, one of the geometric mean of scales k and
        k + 1, and for each of its `ratios` two boxes of scale k's area, one lying and one standing.
    steps: pixels from one position to the next, for each map; None: the image's side divided by the map's.
    clip: none is wider or higher than the image.
    """

    one_image_size = True
    """They are parts of the image: what a model with them has learnt holds for images of that size alone"""

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[Sequence[float]],
        *,
        steps: Sequence[float] | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__()
        for key, given, expected in (
            ("scales", scales, len(ratios) + 1),
            ("steps", steps, len(ratios)),
        ):
            if given is not None and len(given) != expected:
                raise ConfigError(
                    f"task.{key}={list(given)}: expected {expected} numbers, as task.ratios={list(map(list, ratios))} has "
                    f"{len(ratios)} maps"
                )
        self.steps = None if steps is None else tuple(steps)
        self.kinds = [2 + 2 * len(of_map) for of_map in ratios]
        """A of each map"""
        for k, of_map in enumerate(ratios):
            shapes = [(scales[k], scales[k]), (math.sqrt(scales[k] * scales[k + 1]),) * 2]
            for ratio in of_map:
                long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
                shapes += [(long, short), (short, long)]
            extent = torch.tensor(shapes)
            self.register_buffer(f"extent{k}", extent.clamp(max=1) if clip else extent, persistent=False)

    def forward(self, image: Size, grids: Sequence[Size]) -> list[Tensor]:
        """The boxes [N, 4] of each map, in pixels, row by row."""
        if len(grids) != len(self.kinds):
            raise ConfigError(f"task.ratios: has {len(self.kinds)} maps, and this network makes {len(grids)}")
        boxes = []
        for k, grid in enumerate(grids):
            extent = self.get_buffer(f"extent{k}")
            # In parts of the image first, as torchvision: boxes that overlap an object alike are equal to the last bit.
            cells = grid if self.steps is None else [side / self.steps[k] for side in image]
            rows, columns = (
                (torch.arange(length, device=extent.device) + 0.5) / number
                for length, number in zip(grid, cells, strict=True)
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centre, pixels = (
                torch.stack([x, y], dim=2).view(-1, 1, 2),
                extent.new_tensor([image[1], image[0]]),
            )
            low, high = (centre - 0.5 * extent) * pixels, (centre + 0.5 * extent) * pixels
            boxes.append(torch.cat([low, high], dim=2).flatten(0, 1))
        return boxes


@dataclass(frozen=True)
class DefaultBoxMatching:
    """A `Matching`: positive are each object's best default box, and all that overlap one by `positive_iou`."""

    positive_iou: float = 0.5

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignored: Tensor | None) -> Match:
        return match(
            anchors,
            boxes,
            objects=objects,
            ignored=ignored,
            positive_iou=self.positive_iou,
            negative_iou=self.positive_iou,
            keep_best=False,
            claim_best=True,
        )


class MultiboxLoss(nn.Module):
    """A `Criterion`: cross-entropy of the positives and of the hardest negatives, smooth L1 of the positives' boxes.

    Both are divided by the number of positives of the whole batch.

    negatives: for each positive of an image, those with the largest loss.
    beta: where smooth L1 turns from squared to absolute.
    """

    coder_weights: Tensor

    def __init__(self, *, coder_weights: Sequence[float], negatives: float = 3.0, beta: float = 1.0) -> None:
        super().__init__()
        self.negatives, self.beta = negatives, beta
        self.register_buffer("coder_weights", torch.tensor(coder_weights), persistent=False)

    def forward(self, scores: Tensor, offsets: Tensor, assigned: Assignment) -> dict[str, Tensor]:
        """`classification` and `box_regression`, from logits [B, N, K + 1] and offsets [B, N, 4]."""
        positive, number = assigned.positive, count(assigned.positive)
        classes = torch.where(positive, assigned.labels, scores.shape[2] - 1)
        each = F.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none").view(positive.shape)
        hard = hardest(each, assigned.negative, self.negatives * positive.sum(1))
        box = box_losses(offsets, assigned, beta=self.beta, coder_weights=self.coder_weights)
        return {
            "classification": (masked_sum(each, positive) + hard) / number,
            "box_regression": masked_sum(box, positive) / number,
        }


def hardest(losses: Tensor, negative: Tensor, most: Tensor) -> Tensor:
    """The sum of the `most` [B] largest losses [B, N] of each image's negatives, bool [B, N], or of all there are."""
    ranked = losses.masked_fill(~negative, -torch.inf).sort(dim=1, descending=True).values
    rank = torch.arange(losses.shape[1], device=losses.device)
    return masked_sum(ranked, rank < torch.minimum(most, negative.sum(1))[:, None])


@dataclass(frozen=True)
class BestOfEachClass:
    """A `Choice`: the `limit` best default boxes of every class; probabilities exclude each other."""

    limit: int = 400

    def __call__(self, scores: Tensor, counts: Sequence[int]) -> Candidates:
        classes = scores.softmax(2)[..., :-1].transpose(1, 2).contiguous()
        best, index = classes.topk(min(self.limit, classes.shape[2]), dim=2)
        labels = torch.arange(classes.shape[1], device=scores.device)[:, None].expand_as(index)
        return Candidates(best.flatten(1), labels.flatten(1), index.flatten(1))
