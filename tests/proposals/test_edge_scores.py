"""Oracle: the paper's formula, box by box, group by group, path by path."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cvtasks.proposals.edge_groups import Groups, continuations
from cvtasks.proposals.edge_scores import EdgeScores, Runs


def scores_of(
    of_pixel: np.ndarray, magnitude: np.ndarray, affinity: np.ndarray, *, kappa: float = 1.5
) -> EdgeScores:
    number = len(affinity)
    where = [np.nonzero(of_pixel == g) for g in range(number)]
    weights = [magnitude[w] for w in where]
    mass = np.array([w.sum() for w in weights], np.float32)
    y, x = (
        np.array([np.average(at[k], weights=w) for at, w in zip(where, weights, strict=True)], np.float32)
        for k in (0, 1)
    )
    groups = Groups(of_pixel, mass, x, y, np.zeros(number, np.float32))
    return EdgeScores(groups, magnitude, continuations(sparse.csr_array(affinity)), kappa=kappa)


def test_a_score_is_the_one_worked_out_by_hand() -> None:
    of_pixel = np.full((20, 20), -1, np.int32)
    of_pixel[5, 5:9] = 0  # inside, alone: 4
    of_pixel[2:7, 12] = 1  # across the upper boundary: 5, none of which counts
    of_pixel[8:10, 12] = 2  # continues it by 0.5, at x = 12 on the middle's border: half of 2
    of_pixel[10, 9:11] = 3  # in the middle, alone: 2, taken off again
    affinity = np.zeros((4, 4))
    affinity[1, 2] = affinity[2, 1] = 0.5
    score = scores_of(of_pixel, np.ones((20, 20), np.float32), affinity)
    box = np.array([[4, 4, 16, 16]])  # its middle is 7 to 13: 2 of group 2 are there, and 2 of group 3
    assert score(box) == pytest.approx((4 + 0 + 0.5 * 2 + 2 - 4) / (2 * 24**1.5))
    assert score.at_most(box) == pytest.approx((4 + 5 + 2 + 2 - 4) / (2 * 24**1.5))


def test_an_outline_on_the_boxs_own_border_is_inside_and_one_just_outside_is_not() -> None:
    of_pixel = np.full((20, 20), -1, np.int32)
    of_pixel[5:15, 5] = of_pixel[5:15, 14] = of_pixel[5, 5:15] = of_pixel[14, 5:15] = 0
    score = scores_of(of_pixel, np.ones((20, 20), np.float32), np.zeros((1, 1)))
    around, *cutting = score(
        np.array([[5, 5, 15, 15], [6, 5, 15, 15], [5, 6, 15, 15], [5, 5, 14, 15], [5, 5, 15, 14]])
    )
    assert around == pytest.approx(36 / (2 * 20**1.5))
    assert cutting == pytest.approx([0, 0, 0, 0])


def test_at_the_images_border_nothing_is_cut() -> None:
    of_pixel = np.full((8, 8), -1, np.int32)
    of_pixel[0, :] = 0
    score = scores_of(of_pixel, np.ones((8, 8), np.float32), np.zeros((1, 1)))
    assert score(np.array([[0, 0, 8, 8]])) == pytest.approx(8 / (2 * 16**1.5))


def best_path(affinity: np.ndarray, start: int, end: int) -> float:
    others = [g for g in range(len(affinity)) if g not in (start, end)]
    if start == end:
        return 1.0
    products = [
        np.prod([affinity[a, b] for a, b in zip((start, *via), (*via, end), strict=True)])
        for length in range(len(others) + 1)
        for via in permutations(others, length)
    ]
    return max(p if p >= 0.05 else 0.0 for p in products)


def by_the_formula(
    of_pixel: np.ndarray, magnitude: np.ndarray, affinity: np.ndarray, box: np.ndarray, kappa: float
) -> float:
    x1, y1, x2, y2 = box
    ring = {
        of_pixel[y, x]
        for y in range(of_pixel.shape[0])
        for x in range(of_pixel.shape[1])
        if (y in (y1 - 1, y2) and x1 - 1 <= x <= x2) or (x in (x1 - 1, x2) and y1 - 1 <= y <= y2)
    } - {-1}
    total = 0.0
    for group in range(len(affinity)):
        rows, columns = np.nonzero(of_pixel == group)
        weights = magnitude[rows, columns]
        x, y = (
            np.rint(np.float32(np.average(columns, weights=weights))),
            np.rint(np.float32(np.average(rows, weights=weights))),
        )
        if x1 <= x < x2 and y1 <= y < y2:
            total += weights.sum() * (1 - max((best_path(affinity, t, group) for t in ring), default=0.0))
    w, h = x2 - x1, y2 - y1
    middle = (slice(y1 + h // 4, y2 - h // 4), slice(x1 + w // 4, x2 - w // 4))
    total -= magnitude[middle][of_pixel[middle] >= 0].sum()
    return total / (2 * (w + h) ** kappa)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_many_boxes_at_once_are_scored_as_the_formula_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    of_pixel = rng.choice([-1, -1, -1, 0, 1, 2, 3, 4], (9, 11)).astype(np.int32)
    of_pixel[rng.integers(9, size=5), np.arange(5)] = np.arange(5)
    magnitude = rng.uniform(0.1, 1, (9, 11)).astype(np.float32)
    affinity = np.triu(rng.uniform(0.05, 1, (5, 5)) * (rng.random((5, 5)) < 0.4), 1)
    affinity += affinity.T
    corners = np.sort(rng.integers([12, 10], size=(20, 2, 2)), axis=1).reshape(20, 4)
    boxes = corners[(corners[:, 2:] > corners[:, :2]).all(1)]
    score = scores_of(of_pixel, magnitude, affinity, kappa=1.4)
    expected = [by_the_formula(of_pixel, magnitude, affinity, box, 1.4) for box in boxes]
    np.testing.assert_allclose(score(boxes), expected, atol=1e-5)
    assert (score.at_most(boxes) >= score(boxes) - 1e-9).all()


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_runs_find_the_groups_of_any_stretch_of_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    of_pixel = rng.choice([-1, 0, 1, 2], (4, 9)).astype(np.int32)
    row, start, length = rng.integers(-1, 5, 12), rng.integers(-1, 8, 12), rng.integers(2, 5, 12)
    which, groups = Runs(of_pixel).between(row, start, start + length)
    for k in range(12):
        inside = 0 <= row[k] < 4
        stretch = of_pixel[row[k], max(start[k], 0) : start[k] + length[k]] if inside else []
        assert set(groups[which == k]) == set(stretch) - {-1}
