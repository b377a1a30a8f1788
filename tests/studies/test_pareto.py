"""The front against its definition, for all points; and its picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cvtasks.studies.pareto import Point, draw_tradeoff, pareto_front

# Few values, so that many are equal.
NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan]) | st.floats(0, 1)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=12))
def test_on_the_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    known = [point for point in points if not any(map(math.isnan, point))]
    expected = {i for i, p in enumerate(points) if p in known and not any(beats(other, p) for other in known)}
    found = pareto_front(*([list(each) for each in zip(*points, strict=True)] or [[], []]))
    assert set(found) == expected
    assert len(found) == len(expected)
    costs = [points[i][0] for i in found]
    assert costs == sorted(costs)


def test_a_front_by_hand() -> None:
    # Two equal points are both on it; one as fast and less accurate, or as accurate and slower, is not.
    costs, values = [2, 1, 2, 3, 2, 1, math.nan], [0.5, 0.3, 0.5, 0.5, 0.4, math.nan, 0.9]
    assert pareto_front(costs, values) == [1, 0, 2]


def test_points_without_an_accuracy_are_left_out_of_the_picture(tmp_path: Path) -> None:
    def point(accuracy: float, size: int) -> Point:
        return Point(0.01, (0.009, 0.02), accuracy, "ssd", "tiny", size, "label")

    for name, points in {
        "some": [point(0.5, 64), point(math.nan, 96)],
        "none": [point(math.nan, 64)],
    }.items():
        draw_tradeoff(points, tmp_path / f"{name}.png", title="Title")
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 1
