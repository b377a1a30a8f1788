"""EdgeBoxes: a box that holds whole outlines holds an object (Zitnick and Dollár, ECCV 2014).

Windows of many positions, sizes and shapes are scored by the outlines that lie wholly inside (`edge_scores`), of groups of
edge pixels (`edge_groups`). The best windows move their sides as long as that helps; then non-maximum suppression.

    cvtasks proposals dataset=coco dataset.root=/data/mine method=edge_boxes
    cvtasks proposals dataset=coco dataset.root=/data/mine method=edge_boxes proposals.limit=2000 proposals.alpha=0.75

Deviations: the edges are gradients and not structured edges, see `edges`. Windows that cannot reach `min_score` are left
out by a bound, which changes no box. The best `candidates` windows are refined, the paper's all. The whole image is the
last proposal, if it is none yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from cvtasks.config.schema import Positive, Range
from cvtasks.proposals.boxes import best_apart, first_of
from cvtasks.proposals.edge_groups import affinities, continuations, edge_groups
from cvtasks.proposals.edge_scores import EdgeScores
from cvtasks.proposals.edges import edge_map


@dataclass(frozen=True, kw_only=True)
class EdgeBoxes:
    """A proposal method; see the module.

    alpha: IoU of neighbouring windows of the search, in position, size or shape
    beta: of two boxes with a larger IoU only the better stays.
    min_score: of boxes that are proposed (the authors' code: 0.01, of stronger edges)
    min_area: pixels of the smallest windows
    max_aspect_ratio: of windows, width to height or height to width
    candidates: the best so many windows are refined, and the others dropped.
    gamma: how quickly a turn ends an outline; kappa: how much larger boxes' scores are lowered.
    edge_scales, edge_surround: of `edges.edge_map`
    """

    name: ClassVar[str] = "edge_boxes"
    version: ClassVar[int] = 1

    limit: Annotated[int, Positive] = 1000
    alpha: Annotated[float, Range(above=0, below=1)] = 0.65
    beta: Annotated[float, Range(above=0, max=1)] = 0.75
    min_score: Annotated[float, Range(min=0)] = 0.001
    min_area: Annotated[float, Range(min=16)] = 1000.0
    max_aspect_ratio: Annotated[float, Range(min=1)] = 3.0
    candidates: Annotated[int, Positive] = 4000
    gamma: Annotated[float, Range(above=0)] = 2.0
    kappa: Annotated[float, Range(min=0)] = 1.5
    edge_scales: Sequence[Annotated[float, Range(above=0)]] = (1.0, 2.0)
    edge_surround: Annotated[float, Range(min=0)] = 1.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes float32 [P, 4] of an image, uint8 [H, W, 3], best first."""
        height, width = image.shape[:2]
        boxes = windows(
            height, width, alpha=self.alpha, min_area=self.min_area, max_aspect_ratio=self.max_aspect_ratio
        )
        edges = edge_map(image, scales=self.edge_scales, surround=self.edge_surround)
        groups = edge_groups(edges)
        if len(groups.mass):
            paths = continuations(affinities(groups, gamma=self.gamma))
            score = EdgeScores(groups, edges.magnitude, paths, kappa=self.kappa)
            boxes = boxes[score.at_most(boxes) > self.min_score]
            scores = score(boxes)
            best = np.argsort(-scores, kind="stable")[: self.candidates]
            best = best[scores[best] > self.min_score]
            boxes, scores = refine(score, boxes[best], scores[best], shape=(height, width), alpha=self.alpha)
            boxes = boxes[best_apart(boxes, scores, overlap=self.beta, limit=self.limit)]
        else:
            boxes = boxes[:0]
        return first_of(boxes, height=height, width=width, limit=self.limit)


def windows(height: int, width: int, *, alpha: float, min_area: float, max_aspect_ratio: float) -> np.ndarray:
    """The windows of the search, int64 [N, 4]: neighbours in position, in size or in shape have an IoU of `alpha`.

    Up to rounding. Windows at the right and the lower border are cut off there, by at most half.
    """
    shift = (1 - alpha) / (1 + alpha)  # of a window's width: (1 - shift) / (1 + shift) = alpha
    grow, stretch = alpha**-0.5, (1 + alpha) / (2 * alpha)
    smallest = min_area**0.5
    sizes = smallest * grow ** np.arange(np.log(max(height, width, smallest) / smallest) // np.log(grow) + 2)
    shapes = int(np.log(max_aspect_ratio) / np.log(stretch**2))
    found = []
    for size in sizes:
        for shape in stretch ** np.arange(-shapes, shapes + 1.0):
            w, h = size * shape, size / shape
            y, x = np.meshgrid(
                np.arange(0, height - h / 2, max(2, h * shift)),
                np.arange(0, width - w / 2, max(2, w * shift)),
                indexing="ij",
            )
            found.append(np.stack([x, y, x + w, y + h], axis=-1).reshape(-1, 4))
    boxes = np.rint(np.concatenate(found)).astype(np.int64)
    boxes = np.unique(np.minimum(boxes, [width, height, width, height]), axis=0)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def refine(
    score: EdgeScores, boxes: np.ndarray, scores: np.ndarray, *, shape: tuple[int, int], alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int [N, 4] whose sides moved where that raised the score, and their scores [N]; `shape` is the image's.

    One side after the other, out and in; first by half the step of the search, then by half of that, down to a pixel.
    """
    boxes, scores, (height, width) = boxes.copy(), scores.copy(), shape
    step = (boxes[:, 2:] - boxes[:, :2]) * (1 - alpha) / (1 + alpha) / 2
    while (step >= 1).any():
        going = np.flatnonzero((step >= 1).any(1))
        pixels = step[going].clip(min=1).astype(np.int64)
        for side, most in enumerate((width, height, width, height)):
            for sign in (-1, 1):
                moved = boxes[going]
                moved[:, side] = (moved[:, side] + sign * pixels[:, side % 2]).clip(0, most)
                fits = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
                fits[fits] = score.at_most(moved[fits]) > scores[going[fits]]
                tried, moved = going[fits], moved[fits]
                new = score(moved)
                better = new > scores[tried]
                boxes[tried[better]], scores[tried[better]] = moved[better], new[better]
        step /= 2
    return boxes, scores
