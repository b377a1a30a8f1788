"""Oracles: a flood fill, and distances to every pixel of every object."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cvtasks.ops.borders import FAR, border_weights, components, numbered, two_nearest


def flooded(labels: np.ndarray) -> np.ndarray:
    """Regions of one class, by filling one after the other; 0 for class 0 and 255."""
    found = np.zeros(labels.shape, int)
    for start in zip(*np.nonzero((labels != 0) & (labels != 255)), strict=True):
        if found[start]:
            continue
        number, stack = found.max() + 1, [start]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
            if inside and not found[y, x] and labels[y, x] == labels[start]:
                found[y, x] = number
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return found


def same_regions(found: Tensor, expected: np.ndarray) -> bool:
    """Whether two numberings are of the same regions."""
    pairs = set(zip(found.flatten().tolist(), expected.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 24), st.integers(1, 24), st.sampled_from([0.3, 0.5, 0.7]))
def test_components_are_the_regions_that_a_flood_fills(
    seed: int, height: int, width: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice([1, 2, 255], (2, height, width), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    labels[random.random(labels.shape) > share] = 0
    found = components(torch.from_numpy(labels))
    assert all(same_regions(one, flooded(two)) for one, two in zip(found, labels, strict=True))
    assert not found[torch.from_numpy((labels == 0) | (labels == 255))].any()


def spiral(side: int) -> np.ndarray:
    """One region whose ends are as far apart as can be: a number has a long way to travel."""
    labels = np.zeros((side, side), np.uint8)
    y, x, dy, dx = 0, -1, 0, 1
    lengths = [side, *(n for n in range(side - 1, 0, -2) for _ in range(2))]
    for length in lengths:
        for _ in range(length):
            y, x = y + dy, x + dx
            labels[y, x] = 1
        dy, dx = dx, -dy
    return labels


@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_a_spiral_is_one_component_in_the_rounds_that_there_are(turned: int) -> None:
    labels = np.rot90(spiral(101), turned).copy()
    assert 0.4 < labels.mean() < 0.6
    found = components(torch.from_numpy(labels)[None])
    assert len(found.unique()) == 2


def test_the_two_nearest_objects_are_at_their_euclidean_distances() -> None:
    objects = torch.zeros(1, 30, 34, dtype=torch.int32)
    objects[0, 3:8, 3:9], objects[0, 20:25, 5:6], objects[0, 10:28, 25:] = 7, 2, 9
    objects[0, 15, 15] = 4
    y, x = torch.meshgrid(torch.arange(30), torch.arange(34), indexing="ij")
    each = []
    for number in (7, 2, 9, 4):
        own_y, own_x = (objects[0] == number).nonzero(as_tuple=True)
        squares = (y[..., None] - own_y) ** 2 + (x[..., None] - own_x) ** 2
        each.append(squares.amin(-1))
    expected = torch.stack(each).sort(0).values.float()
    first, second = two_nearest(objects, reach=34)
    assert_close(first[0], expected[0])
    assert_close(second[0], expected[1])
    near_first, near_second = two_nearest(objects, reach=6)
    seen = expected[0] <= 36
    assert_close(near_first[0][seen], expected[0][seen])
    assert (near_second[0][expected[1] > 2 * 6**2] > FAR).all()


def test_weights_are_the_papers_between_two_objects_and_1_on_them_and_far_away() -> None:
    objects = torch.zeros(1, 9, 60, dtype=torch.int32)
    objects[..., :10], objects[..., 14:20] = 1, 2
    weights = border_weights(objects, weight=10.0, sigma=5.0)[0, 4]
    # Column 11 is 2 from the first object and 3 from the second.
    assert_close(weights[11], torch.tensor(1 + 10 * np.exp(-25 / 50), dtype=torch.float32))
    assert (weights[:10] == 1).all()
    assert (weights[14:20] == 1).all()
    assert weights[50] < 1.01
    alone = border_weights((objects == 1).int(), weight=10.0, sigma=5.0)
    assert (alone == 1).all()


def test_masks_number_their_objects_and_padding_is_none() -> None:
    masks = torch.zeros(1, 3, 2, 4, dtype=torch.bool)
    masks[0, 0, :, :2], masks[0, 1, :, 3], masks[0, 2] = True, True, True
    assert numbered(masks, torch.tensor([[True, True, False]])).tolist() == [[[1, 1, 0, 2], [1, 1, 0, 2]]]
