"""Oracles: colours worked out by hand, and images whose regions are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cvtasks.proposals.segmentation import COLOR_SPACES, in_color_space, segment, shrunk

HALVES = np.zeros((20, 30, 3), np.uint8)
HALVES[:, 12:] = 200


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("rgb", (1.0, 0.2, 0.0)),
        ("hsv", (1 / 30, 1.0, 1.0)),
        ("hue", (1 / 30,)),
        ("rgi", (5 / 6, 1 / 6, 0.299 + 0.2 * 0.587)),
        ("intensity", (0.299 + 0.2 * 0.587,)),
    ],
)
def test_an_orange_has_the_colour_worked_out_by_hand(space: str, expected: tuple[float, ...]) -> None:
    image = np.array([[[255, 51, 0]]], np.uint8)
    assert_allclose(in_color_space(image, space)[0, 0], expected, atol=1e-6)


def test_lab_of_grey_is_its_lightness_between_two_middles() -> None:
    lab = in_color_space(np.array([[[0] * 3, [119] * 3, [255] * 3]], np.uint8), "lab")[0]
    assert_allclose(lab[:, 0], [0, 0.5, 1], atol=0.002)
    assert_allclose(lab[:, 1:], 128 / 255, atol=0.001)


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_every_color_is_from_0_to_1_and_finite(space: str) -> None:
    steps = np.array([0, 1, 85, 170, 254, 255], np.uint8)
    image = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(6, 36, 3)
    channels = in_color_space(image, space)
    assert channels.dtype == np.float32
    assert 0 <= channels.min() <= channels.max() <= 1


def test_two_halves_are_two_regions_and_one_where_the_scale_is_large() -> None:
    channels = in_color_space(HALVES, "rgb")
    labels = segment(channels, scale=50, sigma=0, min_size=5)
    assert_array_equal(
        labels, np.where(np.arange(30) < 12, labels[0, 0], 1 - labels[0, 0])[None].repeat(20, 0)
    )
    assert segment(channels, scale=1e6, sigma=0, min_size=5).max() == 0


def test_the_scale_is_that_of_colours_to_255() -> None:
    # The halves are 200 sqrt(3) = 346.4 apart, and the larger has 360 pixels: 346.4 * 360 = 124,708 joins them.
    channels = in_color_space(HALVES, "rgb")
    assert segment(channels, scale=124_000, sigma=0, min_size=1).max() == 1
    assert segment(channels, scale=125_400, sigma=0, min_size=1).max() == 0


def test_a_region_below_the_least_size_joins_another() -> None:
    image = HALVES.copy()
    image[5:8, 2:5] = (255, 0, 0)
    channels = in_color_space(image, "rgb")
    assert segment(channels, scale=1, sigma=0, min_size=9).max() == 2
    assert segment(channels, scale=1, sigma=0, min_size=10).max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (37, 1), (2, 2)])
def test_images_of_a_pixel_or_a_line_are_segmented(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for space in COLOR_SPACES:
        labels = segment(in_color_space(image, space), scale=50, sigma=0.8, min_size=3)
        assert labels.shape == shape
        assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_only_a_large_image_is_shrunk_and_keeps_its_shape() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    assert shrunk(image, 50) is image
    assert shrunk(image, None) is image
    assert shrunk(image, 20).shape == (12, 20, 3)
    assert shrunk(image[:1], 20).shape == (1, 20, 3)
    doubled = image.repeat(2, 0).repeat(2, 1)
    assert_array_equal(shrunk(doubled, 50), image)
