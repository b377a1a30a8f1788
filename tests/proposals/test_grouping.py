"""Oracles: the paper's formulas worked out by hand, and grouping that looks at the label map anew after every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from cvtasks.proposals.grouping import (
    SIMILARITIES,
    Regions,
    color_bins,
    group,
    likeness,
    texture_bins,
    touching,
)

# Two squares of four pixels side by side, and what is below both.
THREE = Regions(
    pixels=np.array([4, 4, 8]),
    boxes=np.array([[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 4, 4]]),
    colors=np.array([[4, 0, 0], [2, 2, 0], [0, 0, 8]]),
    textures=np.array([[32, 0], [8, 24], [48, 16]]),
)
PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [
        ("color", [0.5, 0, 0]),  # what is common of (1, 0, 0), (1/2, 1/2, 0) and (0, 0, 1)
        ("texture", [0.25, 0.75, 0.5]),  # of (1, 0), (1/4, 3/4) and (3/4, 1/4)
        ("size", [1 - 8 / 16, 1 - 12 / 16, 1 - 12 / 16]),
        ("fill", [1, 1 - (16 - 12) / 16, 1 - (16 - 12) / 16]),  # the first two fill the box around them
    ],
)
def test_each_similarity_is_that_of_the_papers_formula(similarity: str, expected: list[float]) -> None:
    values = likeness(THREE, *PAIRS.T, similarities=[similarity], image_pixels=16)
    assert_allclose(values, expected)
    assert_allclose(likeness(THREE, *PAIRS.T[::-1], similarities=[similarity], image_pixels=16), expected)


def test_similarities_add_up() -> None:
    values = likeness(THREE, *PAIRS.T, similarities=SIMILARITIES, image_pixels=16)
    assert_allclose(values, [0.5 + 0.25 + 0.5 + 1, 0.75 + 0.25 + 0.75, 0.5 + 0.25 + 0.75])


def strips(*widths: int) -> Regions:
    """Regions side by side in a row of pixels, all of one colour and texture."""
    ends = np.cumsum(widths)
    zeros = np.zeros_like(ends)
    boxes = np.stack([ends - widths, zeros, ends, zeros + 1], 1)
    return Regions(np.array(widths), boxes, np.array(widths)[:, None], np.array(widths)[:, None])


def test_the_most_alike_neighbours_are_joined_first() -> None:
    # By size. The two of one pixel are the most alike, but do not touch: 1 + 5, then 6 + 1 before 6 + 6.
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    boxes = group(strips(1, 5, 6, 1), chain, similarities=["size"])
    assert_array_equal(boxes[4:], [[0, 0, 6, 1], [6, 0, 13, 1], [0, 0, 13, 1]])
    assert_array_equal(boxes[:4], strips(1, 5, 6, 1).boxes)


def test_a_union_is_compared_anew() -> None:
    # 2 + 2 comes first. The union is 4, so 3 + 4 (the last two) come before 4 + 3, which was 2 + 3 before.
    boxes = group(strips(2, 2, 4, 3), np.array([[0, 1], [1, 2], [2, 3]]), similarities=["size"])
    assert_array_equal(boxes[4:], [[0, 0, 4, 1], [4, 0, 11, 1], [0, 0, 11, 1]])


def test_of_pairs_equally_alike_the_lower_numbers_are_joined() -> None:
    boxes = group(strips(2, 2, 2, 2), np.array([[0, 1], [1, 2], [2, 3]]), similarities=["size"])
    assert_array_equal(boxes[4:], [[0, 0, 4, 1], [4, 0, 8, 1], [0, 0, 8, 1]])


def test_one_region_alone_is_the_whole_hierarchy() -> None:
    boxes = group(strips(7), np.zeros((0, 2), np.int64), similarities=SIMILARITIES)
    assert_array_equal(boxes, [[0, 0, 7, 1]])


def test_the_regions_given_stay_as_they_are() -> None:
    regions = strips(1, 5, 6, 1)
    group(regions, np.array([[0, 1], [1, 2], [2, 3]]), similarities=SIMILARITIES)
    assert_array_equal(regions.pixels, [1, 5, 6, 1])


def blocks(seed: int, height: int, width: int, count: int) -> np.ndarray:
    """A label map of regions that hang together: each pixel belongs to the nearest of some random points."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 2)) * [height, width]
    grid = np.stack(np.mgrid[:height, :width], -1)[:, :, None]
    return np.unique(((grid - points) ** 2).sum(-1).argmin(-1), return_inverse=True)[1].reshape(height, width)


def bins(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 25, (*shape, 3)), rng.integers(0, 10, (*shape, 24))


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.sampled_from([SIMILARITIES, ("texture", "size", "fill"), ("color",), ("size",), ("fill",)]),
)
def test_the_hierarchy_is_that_of_looking_at_all_pairs_of_the_label_map(
    seed: int, count: int, similarities: tuple[str, ...]
) -> None:
    labels = blocks(seed, 7, 11, count)
    colors, textures = bins(seed, labels.shape)
    found = group(Regions.of(labels, colors, textures), touching(labels), similarities=similarities)

    numbers = list(range(labels.max() + 1))  # of the regions of the map as it is at each step
    expected = list(Regions.of(labels, colors, textures).boxes)
    while len(numbers) > 1:
        regions = Regions.of(labels, colors, textures)
        pairs = touching(labels)
        values = likeness(regions, *pairs.T, similarities=similarities, image_pixels=labels.size)
        named = [sorted((numbers[a], numbers[b])) for a, b in pairs]
        best = min(range(len(pairs)), key=lambda p: (-values[p], named[p]))
        one, other = pairs[best]
        labels = np.where(labels == other, one, labels)
        numbers[one] = len(expected)
        del numbers[other]
        labels = np.where(labels > other, labels - 1, labels)
        expected.append(Regions.of(labels, colors, textures).boxes[one])
    assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_regions_does_not_matter(seed: int) -> None:
    labels = blocks(seed, 20, 30, 12)
    colors, textures = bins(seed, labels.shape)
    count = labels.max() + 1
    shuffled = np.random.default_rng(seed).permutation(count)[labels]
    hierarchies = [
        group(Regions.of(map_, colors, textures), touching(map_), similarities=SIMILARITIES)[count:]
        for map_ in (labels, shuffled)
    ]
    assert_array_equal(*hierarchies)


def test_a_regions_histograms_count_its_pixels_value_by_value() -> None:
    labels = np.array([[0, 0, 1], [0, 1, 1]])
    colors = np.array([[3, 3, 24], [0, 24, 7]])[..., None]
    regions = Regions.of(labels, np.concatenate([colors, colors * 0 + 5], -1), colors % 10)
    assert regions.colors.shape == (2, 50)
    assert [(r, b, n) for (r, b), n in np.ndenumerate(regions.colors) if n] == [
        (0, 0, 1),
        (0, 3, 2),
        (0, 30, 3),
        (1, 7, 1),
        (1, 24, 2),
        (1, 30, 3),
    ]
    assert regions.textures[1].tolist() == [0, 0, 0, 0, 2, 0, 0, 1, 0, 0]
    assert_array_equal(regions.boxes, [[0, 0, 2, 2], [1, 0, 3, 2]])
    assert_array_equal(regions.pixels, [3, 3])


def test_regions_touch_along_sides_and_each_pair_comes_once() -> None:
    labels = np.array([[0, 0, 1], [0, 2, 1], [3, 2, 2]])
    assert_array_equal(touching(labels), [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]])
    assert touching(np.array([[0, 1], [2, 0]])).tolist() == [[0, 1], [0, 2]]  # 1 and 2 meet at a corner only
    assert touching(np.zeros((3, 3), np.int64)).shape == (0, 2)


def test_the_last_bin_of_colours_holds_the_largest_value_too() -> None:
    assert color_bins(np.array([0, 0.039, 0.041, 0.999, 1])[None, :, None]).ravel().tolist() == [
        0,
        0,
        1,
        24,
        24,
    ]


@pytest.mark.parametrize(
    ("direction", "way"), [(0, (0, 1)), (2, (1, 0)), (4, (0, -1)), (6, (-1, 0)), (1, (1, 1))]
)
def test_a_slope_rises_most_in_its_own_direction(direction: int, way: tuple[int, int]) -> None:
    """The direction with the highest bin is the slope's; the opposite one falls, and has bin 0."""
    y, x = np.mgrid[:21, :21] - 10
    slope = (0.5 + 0.045 * (way[0] * y + way[1] * x) / np.hypot(*way))[..., None]
    middle = texture_bins(slope)[10, 10]
    assert middle.shape == (8,)
    assert middle.argmax() == direction
    assert middle[direction] == 4
    assert middle[(direction + 4) % 8] == 0


def test_texture_does_not_change_with_brightness() -> None:
    channels = np.random.default_rng(0).random((9, 9, 3))
    assert_array_equal(texture_bins(channels / 2), texture_bins(channels / 2 + 0.3))
    assert texture_bins(np.full((3, 3, 1), 0.7)).max() == 0
