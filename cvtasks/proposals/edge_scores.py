"""How much of the edges inside a box belongs to outlines that the box holds whole (Zitnick and Dollár, ECCV 2014, 3.2).

The paper's score, for many boxes at once. A group on the box's boundary does not count, one that continues it counts less:

    h(b) = (sum over groups i with mean position in b of w_b(i) m_i - sum over pixels p in the middle of b of m_p)
           / (2 (width + height) ** kappa)
    w_b(i) = 1 - max over groups t on the boundary of the product of affinities on the best path from t to i

The paths do not depend on the box (the paper's neither), so the best one between any two groups is known beforehand, and a
box is left with a table of groups on its boundary times what continues them: a few dozen numbers.

The boundary is the ring of pixels just outside the box: an outline on the box's own first or last pixels is inside.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cvtasks.proposals.edge_groups import Groups
from cvtasks.proposals.integral import box_sums, integral_image

AT_ONCE = 4_000_000
"""Boxes times groups that are held in memory"""


class EdgeScores:
    """The scores of boxes in one image.

    magnitude: of the edges, [H, W]; paths: `edge_groups.continuations`, [G, G]; kappa: lowers the scores of larger boxes,
    which hold more edges. Boxes are int [N, 4] inside the image, and not empty.
    """

    def __init__(
        self, groups: Groups, magnitude: np.ndarray, paths: sparse.csr_array, *, kappa: float
    ) -> None:
        self.groups, self.paths, self.kappa = groups, paths, kappa
        self.x, self.y = np.rint(groups.x).astype(np.int64), np.rint(groups.y).astype(np.int64)
        at_means = np.zeros(magnitude.shape)
        np.add.at(at_means, (self.y, self.x), groups.mass)
        self.masses = integral_image(at_means)
        self.edges = integral_image(np.where(groups.of_pixel >= 0, magnitude, 0))
        self.rows, self.columns = Runs(groups.of_pixel), Runs(groups.of_pixel.T)

    def __call__(self, boxes: np.ndarray) -> np.ndarray:
        """h(b) of each box, float64 [N]"""
        count = max(1, AT_ONCE // len(self.groups.mass))
        lost = [self._lost(boxes[first : first + count]) for first in range(0, len(boxes), count)]
        return self.at_most(boxes) - np.concatenate([np.zeros(0), *lost]) / self._norm(boxes)

    def at_most(self, boxes: np.ndarray) -> np.ndarray:
        """The score of each box if no group were on its boundary, float64 [N]: quick, and never below the score."""
        quarter = (boxes[:, 2:] - boxes[:, :2]) // 4
        middle = np.concatenate([boxes[:, :2] + quarter, boxes[:, 2:] - quarter], axis=1)
        return (box_sums(self.masses, boxes) - box_sums(self.edges, middle)) / self._norm(boxes)

    def _norm(self, boxes: np.ndarray) -> np.ndarray:
        return 2.0 * (boxes[:, 2:] - boxes[:, :2]).sum(1).astype(np.float64) ** self.kappa

    def _lost(self, boxes: np.ndarray) -> np.ndarray:
        """Sum of (1 - w_b(i)) m_i over the groups with mean position in the box, [N]"""
        x1, y1, x2, y2 = boxes.T
        sides = (
            self.rows.between(y1 - 1, x1 - 1, x2 + 1),
            self.rows.between(y2, x1 - 1, x2 + 1),
            self.columns.between(x1 - 1, y1, y2),
            self.columns.between(x2, y1, y2),
        )
        box, start = (np.concatenate(parts) for parts in zip(*sides, strict=True))
        first, last = self.paths.indptr[start], self.paths.indptr[start + 1]
        box, entry = np.repeat(box, last - first), ranges(first, last)
        group, product = self.paths.indices[entry], self.paths.data[entry]
        x, y = self.x[group], self.y[group]
        inside = (x >= x1[box]) & (x < x2[box]) & (y >= y1[box]) & (y < y2[box])
        best = np.zeros((len(boxes), len(self.groups.mass)), dtype=np.float32)
        # One flat index: NumPy's maximum.at is twenty times slower with two.
        np.maximum.at(best.reshape(-1), (box * best.shape[1] + group)[inside], product[inside])
        return best @ self.groups.mass


class Runs:
    """Which groups lie on a stretch of a row, without looking at every pixel: runs of one group, in reading order."""

    def __init__(self, of_pixel: np.ndarray) -> None:
        self.of_pixel = np.ascontiguousarray(of_pixel)
        before = np.pad(of_pixel, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        begins = (of_pixel >= 0) & (of_pixel != before)
        self.group = of_pixel[begins]
        self.begun = np.concatenate([[0], begins.cumsum()])
        """How many runs begin before the k-th pixel"""

    def between(self, row: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The groups on pixels start to stop - 1 of a row, for N of them: which of the N, and a group of it.

        A group can come several times. Rows and pixels outside the image have none; in it, start < stop.
        """
        height, width = self.of_pixel.shape
        outside = (row < 0) | (row >= height)
        row, start, stop = row.clip(0, height - 1), start.clip(min=0), stop.clip(max=width)
        first, last = self.begun[row * width + start], self.begun[row * width + stop]
        # A run that goes on from before the stretch is the last that began there.
        goes_on = (self.of_pixel[row, start] >= 0) & (self.begun[row * width + start + 1] == first)
        first = np.where(outside, last, first - goes_on)
        return np.repeat(np.arange(len(row)), last - first), self.group[ranges(first, last)]


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """first[0], ..., last[0] - 1, first[1], ..., last[1] - 1, and so on"""
    length = last - first
    return np.arange(length.sum()) + np.repeat(first - length.cumsum() + length, length)
