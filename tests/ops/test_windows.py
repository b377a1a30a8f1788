"""Oracles: what a function of each pixel gives for the whole image; `F.pad`'s mirrored borders."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cvtasks.ops.windows import blend, mirror, mirrored, starts, tiles


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_windows_cover_every_position_and_none_begins_later_than_a_stride(
    length: int, window: int, stride: int
) -> None:
    stride = min(stride, window)
    found = starts(length, window, stride)
    covered = {p for start in found for p in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert all(0 < b - a <= stride for a, b in itertools.pairwise(found))
    assert found[-1] + window <= max(length, window)


@pytest.mark.parametrize("size", [(17, 23), (8, 30), (5, 6)])
def test_blended_windows_of_what_looks_at_one_pixel_are_the_whole(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    weight = torch.randn(4, 3, 1, 1)
    seen: list[tuple[int, int]] = []

    def compute(part: Tensor) -> Tensor:
        seen.append((part.shape[2], part.shape[3]))
        return F.conv2d(part, weight)

    assert_close(blend(compute, images, window=8, stride=5), F.conv2d(images, weight))
    assert all(max(side) <= 8 for side in seen)


def test_where_windows_overlap_the_one_whose_middle_is_nearer_counts_more() -> None:
    number = iter(range(10))
    found = blend(
        lambda part: torch.full_like(part, float(next(number))), torch.zeros(1, 1, 1, 6), window=4, stride=2
    )
    # The weights of a window of 4 are 1, 2, 2, 1 to either side: where both see it, 2 : 1 and 1 : 2.
    assert_close(found[0, 0, 0], torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1]))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 4), (6, 6)])
def test_mirrored_borders_are_torchs(before: int, after: int) -> None:
    images = torch.randn(2, 3, 7, 9)
    found = mirrored(images, (-before, -before), (7 + before + after, 9 + before + after))
    assert_close(found, F.pad(images, (before, after, before, after), mode="reflect"), rtol=0, atol=0)


def test_a_border_wider_than_the_image_is_mirrored_again_and_again() -> None:
    assert mirror(-5, 8, 3, torch.device("cpu")).tolist() == [
        1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1,
    ]  # fmt: skip
    assert mirror(-2, 3, 1, torch.device("cpu")).tolist() == [0] * 5


def test_tiles_lie_side_by_side_and_cover_everything_once() -> None:
    counted = torch.zeros(10, 7, dtype=torch.int)
    for (top, bottom), (left, right) in tiles((10, 7), 4):
        assert bottom - top <= 4
        assert right - left <= 4
        counted[top:bottom, left:right] += 1
    assert (counted == 1).all()
