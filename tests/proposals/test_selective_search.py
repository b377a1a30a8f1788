"""Oracles: images whose objects are known, and the paper's ranking worked out step by step."""

import dataclasses
import multiprocessing
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cvtasks.errors import ConfigError
from cvtasks.proposals.boxes import iou
from cvtasks.proposals.method import fingerprint
from cvtasks.proposals.selective_search import SelectiveSearch, ranked

SMALL = {"scales": [20], "min_size": 10, "min_side": 4}


def scene(seed: int = 0, height: int = 60, width: int = 80) -> np.ndarray:
    """Grey, with a rectangle inside of another, and one of two colours; all of it noisy."""
    image = np.full((height, width, 3), 128.0)
    image[8:52, 6:40] = (200, 60, 40)
    image[20:36, 12:30] = (40, 60, 200)
    image[15:30, 50:70] = (230, 220, 30)
    image[30:45, 50:70] = (30, 200, 60)
    return (image + np.random.default_rng(seed).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


OUTER, INNER, TWO_COLORED, UPPER = [6, 8, 40, 52], [12, 20, 30, 36], [50, 15, 70, 45], [50, 15, 70, 30]


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_nested_things_and_one_of_two_colours_are_found(mode: str) -> None:
    # That of two colours is a region of no segmentation: only grouping finds it.
    boxes = SelectiveSearch(mode=mode, **SMALL)(scene())
    best = iou(np.array([OUTER, INNER, TWO_COLORED, UPPER, [0, 0, 80, 60]], np.float64), boxes).max(1)
    assert best.min() > 0.85, best


def test_boxes_are_inside_of_the_image_and_none_comes_twice() -> None:
    boxes = SelectiveSearch(**SMALL)(scene())
    assert boxes.dtype == np.float32
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 20
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 4
    assert boxes.min() >= 0
    assert_array_equal(boxes.max(0)[2:], [80, 60])


def test_the_rank_is_the_place_from_the_last_times_a_random_number() -> None:
    first = np.arange(20).reshape(5, 4)
    second = np.array([[100, 0, 0, 0], first[1], [102, 0, 0, 0]])
    numbers = iter(np.random.default_rng(7).random(8))
    ranks = {}
    for boxes in (first, second):
        for place, box in zip(range(len(boxes), 0, -1), boxes, strict=True):
            rank = place * next(numbers)
            ranks[tuple(box)] = min(rank, ranks.get(tuple(box), np.inf))
    assert [tuple(box) for box in ranked([first, second], 7)] == sorted(ranks, key=ranks.__getitem__)


def test_what_is_whole_comes_before_its_parts_mostly_but_not_always() -> None:
    boxes = np.arange(400).reshape(100, 4)
    places = np.array(
        [[np.flatnonzero(ranked([boxes], s)[:, 0] == 4 * n)[0] for n in (0, 99)] for s in range(50)]
    )
    assert places[:, 1].max() < 40  # the whole image, of 100 regions
    assert places[:, 0].mean() > 50
    assert places[:, 0].min() < 20


def test_a_limit_leaves_the_best_and_changes_nothing_else() -> None:
    every = SelectiveSearch(**SMALL)(scene())
    assert_array_equal(SelectiveSearch(limit=10, **SMALL)(scene()), every[:10])


def test_a_seed_changes_the_order_and_not_the_boxes() -> None:
    method = SelectiveSearch(limit=10_000, **SMALL)
    one, same, other = (m(scene()) for m in (method, method, dataclasses.replace(method, seed=1)))
    assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert_array_equal(np.unique(one, axis=0), np.unique(other, axis=0))


def test_more_choices_give_more_hierarchies() -> None:
    image = scene()
    assert len(list(SelectiveSearch().hierarchies(image))) == 8
    assert len(list(SelectiveSearch(mode="quality").hierarchies(image))) == 80
    chosen = SelectiveSearch(color_spaces=["rgb"], scales=[50, 80, 90], similarities=[["fill"]])
    hierarchies = list(chosen.hierarchies(image))
    assert len(hierarchies) == 3
    assert all(boxes[-1].tolist() == [0, 0, 80, 60] for boxes in hierarchies)


def test_a_large_image_has_the_boxes_of_the_shrunk_one_in_its_own_pixels() -> None:
    small = scene()
    large = small.repeat(3, 0).repeat(3, 1)
    method = SelectiveSearch(longest_side=80, **SMALL)
    assert_allclose(method(large), 3 * method(small))
    assert_array_equal(method(small), SelectiveSearch(longest_side=None, **SMALL)(small))


@pytest.mark.parametrize(
    "turn",
    [
        lambda image: image[:, ::-1],
        lambda image: image[::-1],
        lambda image: image.swapaxes(0, 1),
    ],
    ids=["mirrored", "upside down", "transposed"],
)
def test_what_is_found_does_not_depend_on_how_the_image_lies(
    turn: Callable[[np.ndarray], np.ndarray],
) -> None:
    image = scene()
    numbers = np.zeros((3, 60, 80, 1), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(numbers, (OUTER, INNER, TWO_COLORED), strict=True):
        mask[y1:y2, x1:x2] = 1
    boxes = SelectiveSearch(**SMALL)(np.ascontiguousarray(turn(image)))
    for mask in numbers:
        y, x = np.nonzero(turn(mask)[..., 0])
        box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float64)
        assert iou(box, boxes).max() > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2), (30, 30)])
@pytest.mark.parametrize("value", [0, 90, 255])
def test_an_even_image_of_any_size_is_one_box(shape: tuple[int, int], value: int) -> None:
    boxes = SelectiveSearch()(np.full((*shape, 3), value, np.uint8))
    assert_array_equal(boxes, [[0, 0, shape[1], shape[0]]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (5, 1000)])
def test_noise_of_any_size_has_the_whole_image_among_its_boxes(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    boxes = SelectiveSearch()(image)
    assert (boxes == np.array([0, 0, shape[1], shape[0]], np.float32)).all(1).any()


def test_other_processes_find_the_same() -> None:
    method = SelectiveSearch(**SMALL)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(pickle.loads(pickle.dumps(method)), [scene(0), scene(1)])
    assert_array_equal(found[0], method(scene(0)))
    assert_array_equal(found[1], method(scene(1)))


def test_lists_and_tuples_of_the_same_settings_are_the_same_method() -> None:
    one, other = SelectiveSearch(scales=[50, 100]), SelectiveSearch(scales=(50.0, 100.0))
    assert fingerprint(one) == fingerprint(other) != fingerprint(SelectiveSearch(scales=[50, 101]))


@pytest.mark.parametrize("given", [{"scales": []}, {"color_spaces": ()}, {"similarities": [["size"], []]}])
def test_an_empty_list_is_refused_by_its_name(given: dict) -> None:
    with pytest.raises(ConfigError, match=rf"proposals\.{next(iter(given))} has an empty list"):
        SelectiveSearch(**given)
