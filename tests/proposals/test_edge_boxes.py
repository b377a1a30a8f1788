"""A picture with one thing in it, whose box has to come first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cvtasks.proposals.boxes import iou
from cvtasks.proposals.edge_boxes import EdgeBoxes, refine, windows
from cvtasks.proposals.edge_groups import Groups, continuations
from cvtasks.proposals.edge_scores import EdgeScores


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    image = np.full((150, 200, 3), (40, 60, 80), np.uint8)
    image[y1:y2, x1:x2] = (200, 190, 60)
    return image


@pytest.mark.parametrize(
    "truth", [(50, 40, 120, 100), (20, 30, 60, 130), (90, 60, 190, 95), (0, 70, 60, 150)]
)
def test_the_box_of_the_only_thing_comes_first(truth: tuple[int, int, int, int]) -> None:
    boxes = EdgeBoxes()(rectangle(*truth))
    assert iou(boxes[:1], np.array([truth], np.float32))[0, 0] > 0.85


def test_a_thing_before_a_busy_background_is_among_the_first() -> None:
    truth = (60, 40, 130, 110)
    image = rectangle(*truth)
    noise = np.random.default_rng(0).integers(-30, 31, image.shape)
    noise[40:110, 60:130] = 0
    boxes = EdgeBoxes()((image + noise).clip(0, 255).astype(np.uint8))
    assert iou(boxes[:10], np.array([truth], np.float32)).max() > 0.8


def photo(height: int = 90, width: int = 120) -> np.ndarray:
    """Rectangles of random colours over each other"""
    rng = np.random.default_rng(3)
    image = np.zeros((height, width, 3), np.uint8)
    for _ in range(12):
        x, y = rng.integers([width, height])
        image[y : y + rng.integers(10, 50), x : x + rng.integers(10, 60)] = rng.integers(256, size=3)
    return image


def test_proposals_are_distinct_inside_the_image_and_as_many_as_asked_for() -> None:
    for limit in (1, 2, 30):
        boxes = EdgeBoxes(limit=limit)(photo())
        assert boxes.dtype == np.float32
        assert len(boxes) == limit
        assert len(np.unique(boxes, axis=0)) == limit
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (120, 90)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_fewer_proposals_are_the_first_of_more() -> None:
    method = EdgeBoxes(limit=40)
    np.testing.assert_array_equal(EdgeBoxes(limit=20)(photo())[:19], method(photo())[:19])
    np.testing.assert_array_equal(method(photo()), method(photo()))


def test_no_two_proposals_overlap_by_more_than_beta() -> None:
    for beta in (0.5, 0.8):
        boxes = EdgeBoxes(beta=beta, limit=50)(photo())[:-1]  # the last is the whole image
        overlaps = iou(boxes, boxes) - np.eye(len(boxes))
        assert overlaps.max() <= beta + 1e-6
        assert overlaps.max() > beta - 0.15


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 2), (7, 300), (40, 40)])
def test_an_image_of_any_size_has_proposals_and_a_uniform_one_itself(shape: tuple[int, int]) -> None:
    height, width = shape
    assert EdgeBoxes()(np.full((*shape, 3), 128, np.uint8)).tolist() == [[0, 0, width, height]]
    noisy = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    assert [0, 0, width, height] in EdgeBoxes()(noisy).tolist()


@settings(max_examples=40)
@given(st.floats(36, 140), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_every_box_has_a_window_near_it(size: float, shape: float, left: float, top: float) -> None:
    width, height = size * 3 ** (shape / 2), size / 3 ** (shape / 2)
    x, y = left * max(250 - width, 0), top * max(200 - height, 0)
    box = np.array([[x, y, min(x + width, 250), min(y + height, 200)]])
    searched = windows(200, 250, alpha=0.65, min_area=1000, max_aspect_ratio=3)
    assert iou(box, searched.astype(float)).max() > 0.6


def test_a_finer_search_has_more_windows_and_none_below_the_smallest_area() -> None:
    coarse, fine = (windows(120, 160, alpha=a, min_area=400, max_aspect_ratio=2) for a in (0.5, 0.7))
    assert len(fine) > 3 * len(coarse)
    inner = fine[(fine[:, 2] < 160) & (fine[:, 3] < 120)]
    sides = inner[:, 2:] - inner[:, :2]
    assert sides.prod(1).min() > 0.85 * 400  # up to rounding to pixels
    assert (sides.max(1) / sides.min(1)).max() < 2.3


def test_refinement_finds_the_outline_from_nearby_and_knows_its_scores() -> None:
    of_pixel = np.full((100, 100), -1, np.int32)
    of_pixel[30, 20:70] = of_pixel[79, 20:70] = of_pixel[30:80, 20] = of_pixel[30:80, 69] = 0
    magnitude = np.ones((100, 100), np.float32)
    groups = Groups(of_pixel, np.array([196], np.float32), *np.array([[44.5], [54.5], [0]], np.float32))
    score = EdgeScores(groups, magnitude, continuations(sparse.csr_array((1, 1))), kappa=1.5)
    start = np.array([[15, 27, 78, 84], [18, 26, 75, 90], [0, 0, 10, 10]])
    boxes, scores = refine(score, start, score(start), shape=(100, 100), alpha=0.65)
    assert np.abs(boxes[:2] - (20, 30, 70, 80)).max() <= 1  # the last step is of one pixel
    assert (scores[:2] > 0.09).all()  # 0.098 is the best there is, and nothing holds the outline at the start
    assert boxes[2].tolist() == [0, 0, 10, 10]
    np.testing.assert_allclose(scores, score(boxes))
