"""Oracle: Machado et al. (TVCG 2009) for what colour-blind people see, CIELAB for the distance of colours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cvtasks.viz.colors import SIDE_COLORS, class_color, luminance, text_color

VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color: tuple[int, int, int], vision: str) -> np.ndarray:
    linear = np.clip(np.array(VISION[vision]) @ (np.array(color) / 255) ** 2.2, 0, 1)
    x, y, z = np.cbrt(TO_XYZ @ linear / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_the_first_classes_are_told_apart_with_any_vision(vision: str) -> None:
    seen = [lab(class_color(i), vision) for i in range(7)]
    assert (
        min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 9
    )  # 2.3 is just noticeable


@pytest.mark.parametrize("vision", VISION)
def test_the_sides_of_a_person_are_far_apart_with_any_vision(vision: str) -> None:
    seen = [lab(color, vision) for color in SIDE_COLORS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 30


def test_classes_that_touch_are_told_apart() -> None:
    seen = [lab(class_color(i), "normal") for i in range(24)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20


def test_a_hundred_classes_have_a_hundred_colors() -> None:
    assert len({class_color(i) for i in range(100)}) == 100


def test_a_color_depends_on_the_class_alone() -> None:
    assert [class_color(i) for i in (0, 4, 30)] == [(230, 159, 0), (0, 114, 178), class_color(30)]


def test_text_is_readable_on_every_color() -> None:
    for color in map(class_color, range(100)):
        low, high = sorted((luminance(color), luminance(text_color(color))))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2, level AA
