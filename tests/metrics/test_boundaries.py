"""Oracle: the definition, pixel by pixel: all pairs of boundary pixels and their distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.metrics import boundaries
from cvtasks.metrics.boundaries import count_boundaries, f1_of_boundaries, tolerance

K = 4


def by_definition(truth: np.ndarray, found: np.ndarray, near: float) -> np.ndarray:
    found = np.where(truth == 255, 255, found)

    def outline(labels: np.ndarray, k: int) -> list[tuple[int, int]]:
        height, width = labels.shape
        return [
            (y, x)
            for y, x in np.ndindex(height, width)
            if labels[y, x] == k
            and any(
                0 <= v < height and 0 <= u < width and labels[v, u] != k
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            )
        ]

    counts = np.zeros((K, 4), np.int64)
    for k in range(K):
        a, b = outline(truth, k), outline(found, k)
        counts[k] = (
            len(a), sum(any(math.dist(p, q) < near for q in b) for p in a),
            len(b), sum(any(math.dist(p, q) < near for q in a) for p in b),
        )  # fmt: skip
    return counts


def random_map(rng: np.random.Generator, shape: tuple[int, int], *, void: bool = False) -> np.ndarray:
    side = int(rng.integers(1, 7))
    blocks = rng.choice(
        [*range(int(rng.integers(1, K + 1))), 255][: K + void], (shape[0] // side + 1, shape[1] // side + 1)
    )
    return np.kron(blocks, np.ones((side, side)))[: shape[0], : shape[1]].astype(np.uint8)


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000), near=st.sampled_from([0.4, 1.0, 1.01, 1.5, 2.0, 2.3, 5.0, 40.0]))
def test_counts_equal_those_of_the_definition(seed: int, near: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 20, 2).tolist()
    truth = random_map(rng, (height, width), void=True)
    found = random_map(rng, (height, width))
    counts = count_boundaries(truth, found, num_classes=K, tolerance=near)
    np.testing.assert_array_equal(counts, by_definition(truth, found, near))


@pytest.mark.parametrize("noise", [0, 1e9])
def test_both_ways_of_matching_agree(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    """Looked for from one map's outlines, or reached from the other's."""
    monkeypatch.setattr(boundaries, "_NOISE", noise)
    rng = np.random.default_rng(0)
    for _ in range(10):
        truth, found = random_map(rng, (17, 23), void=True), rng.integers(0, K, (17, 23)).astype(np.uint8)
        counts = count_boundaries(truth, found, num_classes=K, tolerance=3.2)
        np.testing.assert_array_equal(counts, by_definition(truth, found, 3.2))


def test_the_tolerance_is_a_distance_that_is_not_reached() -> None:
    """A disk moved by 3 pixels is found if 3 < tolerance: the paper's d < theta. 0.75 % of 320 x 240 are 3 pixels."""
    assert tolerance((240, 320), 0.0075) == 3
    truth, found = np.zeros((2, 60, 60), np.uint8)
    truth[20:40, 20:21] = 1
    found[20:40, 23:24] = 1
    assert count_boundaries(truth, found, num_classes=2, tolerance=3)[1].tolist() == [20, 0, 20, 0]
    assert count_boundaries(truth, found, num_classes=2, tolerance=3.01)[1].tolist() == [20, 20, 20, 20]


def test_the_border_of_the_picture_is_no_boundary_and_that_of_void_is() -> None:
    full = np.zeros((6, 6), np.uint8)
    assert not count_boundaries(full, full, num_classes=1, tolerance=1).any()
    holed = full.copy()
    holed[2:4, 2:4] = 255
    assert count_boundaries(holed, full, num_classes=1, tolerance=1)[0].tolist() == [8, 8, 8, 8]


def test_f1_is_zero_where_one_side_has_none_and_nan_where_both_have_none() -> None:
    f1 = f1_of_boundaries(np.array([[4, 3, 2, 1], [4, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0], [2, 2, 2, 2]]))
    np.testing.assert_allclose(f1, [2 * 0.75 * 0.5 / 1.25, 0, 0, np.nan, 1])
