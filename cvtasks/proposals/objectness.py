"""Objectness (Alexe, Deselaers and Ferrari, TPAMI 2012): windows that differ from what is around them and have an outline.

Windows are drawn where the image is salient, at five scales. Four cues (`objectness_cues`) judge each: multi-scale
saliency, colour contrast, edge density, superpixel straddling. Taken as independent (naive Bayes), their logarithmic odds
of object against background add up; non-maximum suppression leaves the best.

    cvtasks proposals dataset=coco dataset.root=DIR method=objectness

Without `fit` the odds are those of 80 photographs of COCO.

Deviations: the paper's fifth cue, location and size, is left out, as it is known only of the training data. Windows are
drawn from `candidates` random ones of each scale, where the paper weighs all that there are. The cues are computed on an
image of `longest_side` pixels. The cues' own thresholds are fixed; only the odds are learnt. A window's saliency counts
as its rank among the candidates of its scale. Proposals may overlap by 0.7, the paper's by 0.5, and the whole image is
the last one, if it is none yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from cvtasks.config.schema import Positive, Range
from cvtasks.errors import DataError
from cvtasks.proposals import objectness_cues as cues
from cvtasks.proposals.boxes import best_apart, first_of, iou
from cvtasks.proposals.segmentation import shrunk

CUES = ("saliency", "contrast", "edges", "straddling")
BINS = 16
"""Equal parts of each cue's range, 0 to 1"""
OBJECT = 0.5
"""IoU from which on a window shows an object"""
SALIENCY_THRESHOLDS = {16: 0.43, 24: 0.32, 32: 0.34, 48: 0.35, 64: 0.26}
"""By the side of the square that the image is resized to"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objectness:
    """A proposal method; see the module.

    candidates: windows of each of the five scales that saliency is computed of
    windows: those of all scales together that are drawn from them, the more salient the likelier, and judged by all cues
    contrast_ring, edge_ring: the ring outside, and the one inside a window, as parts of half its sides
    superpixel_scale, sigma, min_size: the segmentation's, as of `segmentation.segment`
    longest_side: pixels; the image is shrunk to it
    overlap: no two proposals have a larger IoU.
    seed: of the draw of windows
    odds: learnt, [4, 16]: log p(bin | object) - log p(bin | background) of each cue; None: `DEFAULT_ODDS`
    """

    name: ClassVar[str] = "objectness"
    version: ClassVar[int] = 1

    limit: Annotated[int, Positive] = 1000
    candidates: Annotated[int, Positive] = 20_000
    windows: Annotated[int, Positive] = 10_000
    contrast_ring: Annotated[float, Range(above=0)] = 1.0
    edge_ring: Annotated[float, Range(above=0, max=1)] = 0.17
    superpixel_scale: Annotated[float, Range(above=0)] = 450.0
    sigma: Annotated[float, Range(min=0)] = 0.5
    min_size: Annotated[int, Positive] = 20
    longest_side: Annotated[int, Positive] = 200
    overlap: Annotated[float, Range(above=0, max=1)] = 0.7
    seed: int = 0
    odds: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes float32 [P, 4] of an image, uint8 [H, W, 3], best first."""
        height, width = image.shape[:2]
        windows, bins = self._judged(image)
        odds = DEFAULT_ODDS if self.odds is None else self.odds
        scores = odds[np.arange(len(CUES)), bins].sum(-1)
        best = windows[best_apart(windows, scores, overlap=self.overlap, limit=self.limit)]
        return first_of(best, height=height, width=width, limit=self.limit)

    def fit(self, images_and_boxes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Objectness:
        """The method with odds learnt from images and the true boxes [N, 4] of each.

        Raises DataError where no window that is drawn shows an object.
        """
        counts = np.zeros((2, len(CUES), BINS))
        images = 0
        for image, truth in images_and_boxes:
            images += 1
            windows, bins = self._judged(image)
            is_object = (iou(windows, truth) >= OBJECT).any(1)
            for cue in range(len(CUES)):
                for kind, chosen in enumerate((~is_object, is_object)):
                    counts[kind, cue] += np.bincount(bins[chosen, cue], minlength=BINS)
        if not counts[1].any():
            raise DataError(
                f"proposals objectness: no window in {images} training images shows a true box; set more "
                "proposals.windows, or give images with objects"
            )
        shares = (counts + 1) / (counts + 1).sum(-1, keepdims=True)
        return dataclasses.replace(self, odds=np.log(shares[1] / shares[0]))

    def _judged(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows float64 [N, 4] in the image's pixels, and the bin of each cue's value, int64 [N, 4]."""
        small = shrunk(image, self.longest_side)
        windows, salient = self._drawn(small)
        values = np.stack(
            [
                salient,
                cues.color_contrast(small, windows, ring=self.contrast_ring),
                cues.edge_density(small, windows, ring=self.edge_ring),
                cues.straddling(
                    small, windows, scale=self.superpixel_scale, sigma=self.sigma, min_size=self.min_size
                ),
            ],
            1,
        )
        bins = (values * BINS).astype(np.int64).clip(0, BINS - 1)
        (height, width), (rows, columns) = image.shape[:2], small.shape[:2]
        return windows * np.tile([width / columns, height / rows], 2), bins

    def _drawn(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows int64 [N, 4] in whole pixels, the more salient the likelier, and the rank of their saliency, 0 to 1."""
        rng = np.random.default_rng(self.seed)
        height, width = image.shape[:2]
        count = -(-self.windows // len(SALIENCY_THRESHOLDS))
        windows, ranks = [], []
        for side, threshold in SALIENCY_THRESHOLDS.items():
            x, y = np.sort(rng.integers(0, side, (2, self.candidates, 2)), -1)
            boxes = np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], 1)
            values = cues.saliency(cues.saliency_map(image, side), boxes, threshold=threshold)
            # The largest of log p + Gumbel noise are a draw without replacement by p.
            keys = np.log(values + 1e-9) + rng.gumbel(size=len(values))
            drawn = np.argsort(-keys, kind="stable")[:count]
            low = np.floor(boxes[drawn, :2] * [width / side, height / side])
            high = np.ceil(boxes[drawn, 2:] * [width / side, height / side])
            windows.append(np.concatenate([low, high], 1).astype(np.int64))
            order = np.sort(values)
            ranks.append(np.searchsorted(order, values[drawn], side="left") / len(order))
        return np.concatenate(windows), np.concatenate(ranks)


# fmt: off
DEFAULT_ODDS = np.array([
    [-1.57, -1.93, -3.07, -2.09, -1.93, -1.58, -1.65, -1.23, -1.05, -0.69, -0.47, -0.20, -0.07, 0.15, 0.19, 0.15],
    [-0.47, -0.30, -0.05, 0.32, 0.50, 0.70, 0.72, 0.57, 0.63, 0.41, -0.33, 0.91, -0.05, 1.93, 0.68, 2.62],
    [-3.97, -3.23, -2.87, -2.38, -2.15, -1.76, -1.37, -1.11, -0.88, -0.81, -0.53, -0.39, -0.24, -0.09, 0.02, 0.75],
    [-3.66, -2.58, -1.71, -1.22, -1.08, -0.76, -0.21, 0.16, 0.45, 0.70, 0.95, 1.17, 1.33, 1.41, 1.35, 1.35],
])
# fmt: on
"""What `fit` with the other defaults gives for 80 images of COCO's train2017 (those of COCO-MINI), to two places"""
