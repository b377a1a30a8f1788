"""Oracles: Gaussians written out pixel by pixel, and the places that they were drawn at."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from cvtasks.ops.heatmaps import gaussians, peaks

inside = st.floats(1.6, 14.4)


def test_a_gaussian_is_worked_out_pixel_by_pixel_with_centres_at_a_half() -> None:
    found = gaussians(torch.tensor([[[2.5, 1.0], [-3.0, 5.25]]]), (4, 6), sigma=2.0)
    assert found.shape == (1, 2, 4, 6)
    for n, (x, y) in enumerate([(2.5, 1.0), (-3.0, 5.25)]):
        for row in range(4):
            for column in range(6):
                squared = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2
                assert found[0, n, row, column].item() == pytest.approx(math.exp(-squared / 8), rel=1e-5)
    assert found[0, 0, :, 2].max() == found.max()


@given(inside, inside)
def test_a_gaussian_anywhere_is_found_to_the_nearest_quarter_and_never_further_off(
    x: float, y: float
) -> None:
    # A half-pixel shift anywhere, or the paper's rounding of the middle, is further off.
    heat = gaussians(torch.tensor([[[x, y]]]), (16, 16), sigma=2.0)
    found, _ = peaks(heat)
    assert (found[0, 0] - torch.tensor([x, y])).abs().max() <= 0.25 + 1e-4


def test_the_place_is_the_highest_pixels_middle_moved_a_quarter_towards_the_higher_neighbour() -> None:
    heat = torch.zeros(1, 4, 5, 7)
    heat[0, :, 2, 3] = 9
    heat[0, 0, 2, 4], heat[0, 0, 2, 2] = 5, 4  # right
    heat[0, 1, 1, 3], heat[0, 1, 3, 3] = -1, -2  # up
    heat[0, 2, 1, 2] = 8  # a diagonal neighbour says nothing
    heat[0, 3, 2, 2] = heat[0, 3, 2, 4] = 8  # nor do two that are as high
    found, heights = peaks(heat)
    assert found[0].tolist() == [[3.75, 2.5], [3.5, 2.25], [3.5, 2.5], [3.5, 2.5]]
    assert heights.tolist() == [[9, 9, 9, 9]]


def test_at_the_border_a_place_moves_only_along_it() -> None:
    heat = torch.zeros(1, 4, 5, 7)
    for n, (row, column) in enumerate([(0, 0), (4, 6), (0, 3), (2, 6)]):
        heat[0, n, row, column] = 2
    heat[0, 2, 0, 4], heat[0, 3, 1, 6], heat[0, 0, 0, 1] = 1, 1, 1
    assert peaks(heat)[0][0].tolist() == [[0.5, 0.5], [6.5, 4.5], [3.75, 0.5], [6.5, 2.25]]


def test_mirroring_a_map_mirrors_its_places() -> None:
    generator = torch.Generator().manual_seed(0)
    heat = torch.rand(2, 3, 8, 12, generator=generator)
    found, mirrored = peaks(heat)[0], peaks(heat.flip(3))[0]
    assert_close(mirrored[..., 0], 12 - found[..., 0])
    assert_close(mirrored[..., 1], found[..., 1])
