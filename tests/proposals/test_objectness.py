"""Oracles: the paper's cues worked out by hand or pixel by pixel, and odds counted in a loop."""

import dataclasses
import multiprocessing
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cvtasks.errors import DataError
from cvtasks.proposals import objectness_cues as cues
from cvtasks.proposals.boxes import iou
from cvtasks.proposals.method import Trained
from cvtasks.proposals.objectness import BINS, DEFAULT_ODDS, Objectness
from cvtasks.proposals.segmentation import in_color_space, segment

FEW = {"candidates": 2000, "windows": 1000, "limit": 50}
SQUARE = np.array([[24, 16, 56, 40]])


def scene(square: np.ndarray = SQUARE) -> np.ndarray:
    """One orange rectangle on dark green, 80 x 60 pixels."""
    image = np.full((60, 80, 3), (20, 90, 30), np.uint8)
    x1, y1, x2, y2 = square[0]
    image[y1:y2, x1:x2] = (250, 110, 40)
    return image


def test_saliency_sums_what_is_above_the_threshold_times_the_part_it_covers() -> None:
    salient = np.array([[0.1, 0.5, 0.9], [0.4, 0.2, 0.7]])
    windows = np.array([[0, 0, 3, 2], [1, 0, 3, 1], [0, 1, 2, 2]])
    expected = [(0.5 + 0.9 + 0.4 + 0.7) * 4 / 6, (0.5 + 0.9) * 2 / 2, 0.4 * 1 / 2]
    assert_allclose(cues.saliency(salient, windows, threshold=0.4), expected)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_what_stands_alone_is_salient(side: int) -> None:
    image = np.random.default_rng(0).integers(110, 130, (64, 64, 3)).astype(np.uint8)
    image[40:48, 8:16] = (255, 0, 0)
    salient = cues.saliency_map(image, side)
    y, x = np.unravel_index(salient.argmax(), salient.shape)
    assert salient.shape == (side, side)
    assert (salient.min() >= 0, salient.max()) == (True, 1)
    assert abs((y + 0.5) / side * 64 - 44) < 8
    assert abs((x + 0.5) / side * 64 - 12) < 8


def test_an_even_image_has_no_saliency() -> None:
    for value in (0, 77, 255):
        assert not cues.saliency_map(np.full((9, 30, 3), value, np.uint8), 16).any()


def test_color_contrast_is_1_where_no_color_is_inside_and_outside() -> None:
    windows = np.array([SQUARE[0], [30, 20, 50, 36], [0, 0, 10, 10], [0, 0, 80, 60]])
    contrast = cues.color_contrast(scene(), windows, ring=0.5)
    # The second and its surroundings (25 to 55, 16 to 40) are orange all over, the third's are green, the last has none.
    assert_allclose(contrast, [1, 0, 0, 0], atol=1e-12)


def test_color_contrast_is_the_chi_square_distance_of_shares() -> None:
    # The left half of the window is orange. Around it, as far again as half its sides, 1/6 is: 4 x 16 of 3 x 128 pixels.
    image = scene(np.array([[20, 0, 36, 60]]))
    window = np.array(
        [[28, 20, 44, 28]]
    )  # 8 of 16 columns; grown: 20 to 52, 16 to 32, of which 20 to 36 orange
    inside, around = 0.5, (16 * 16 - 8 * 8) / (32 * 16 - 16 * 8)
    expected = (
        (inside - around) ** 2 / (inside + around) + (around - inside) ** 2 / (2 - inside - around)
    ) / 2
    assert_allclose(cues.color_contrast(image, window, ring=1.0), [expected])


def test_edges_count_along_the_border_and_not_in_the_middle() -> None:
    tight, loose, inside = cues.edge_density(
        scene(), np.array([[23, 15, 57, 41], [4, 2, 76, 58], [30, 22, 50, 34]]), ring=0.3
    )
    assert tight > 0.8  # one edge pixel for each pixel of the perimeter, or nearly
    assert loose == inside == 0


def test_straddling_is_what_superpixels_lose_counted_pixel_by_pixel() -> None:
    image = scene()
    image[5:12, 60:75] = (30, 30, 220)
    settings = {"scale": 50, "sigma": 0.0, "min_size": 10}
    labels = segment(in_color_space(image, "rgb"), **settings)
    rng = np.random.default_rng(0)
    x, y = (np.sort(rng.permuted(np.tile(np.arange(n), (20, 1)), axis=1)[:, :2], 1) for n in (80, 60))
    windows = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    expected = []
    for x1, y1, x2, y2 in windows:
        mask = np.zeros(labels.shape, bool)
        mask[y1:y2, x1:x2] = True
        parts = [min((labels[mask] == s).sum(), (labels[~mask] == s).sum()) for s in np.unique(labels)]
        expected.append(1 - sum(parts) / mask.sum())
    assert labels.max() == 2
    assert_allclose(cues.straddling(image, windows, **settings), expected)
    assert cues.straddling(image, np.array([SQUARE[0], [0, 0, 80, 60]]), **settings).tolist() == [1, 1]


@pytest.mark.parametrize("corner", [(4, 4), (30, 10), (44, 32)])
def test_one_thing_on_an_even_ground_is_found_wherever_it_is(corner: tuple[int, int]) -> None:
    thing = np.array([[*corner, corner[0] + 30, corner[1] + 24]])
    boxes = Objectness(limit=20)(scene(thing))
    assert iou(thing.astype(float), boxes).max() > 0.7


def test_the_draw_prefers_what_is_salient() -> None:
    windows, ranks = Objectness(candidates=4000, windows=500)._drawn(scene())
    assert windows.shape == (500, 4)
    assert ranks.mean() > 0.7  # of candidates drawn evenly: 0.5
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, :2] < windows[:, 2:]).all()
    assert_array_equal(windows[:, 2:].max(0) <= [80, 60], True)


def test_no_two_proposals_overlap_more_than_is_allowed() -> None:
    boxes = Objectness(overlap=0.4, **FEW)(scene())[
        :-1
    ]  # the last may be the whole image, whatever it overlaps
    overlaps = iou(boxes, boxes) - 2 * np.eye(len(boxes))
    assert len(boxes) > 5
    assert overlaps.max() <= 0.4 + 1e-6


def test_odds_are_those_of_windows_counted_one_by_one() -> None:
    images = [
        (scene(), SQUARE.astype(float)),
        (scene(SQUARE - 10), SQUARE - 10.0),
        (scene(), np.zeros((0, 4))),
    ]
    method = Objectness(**FEW)
    counts = np.ones((2, 4, BINS))  # one of each, so that none is impossible
    for image, truth in images:
        for window, found in zip(*method._judged(image), strict=True):
            is_object = int(any(iou(window[None], box[None])[0, 0] >= 0.5 for box in truth))
            for cue in range(4):
                counts[is_object, cue, found[cue]] += 1
    share = counts / counts.sum(-1, keepdims=True)
    fitted = method.fit(iter(images))
    assert fitted.odds is not None
    assert method.odds is None
    assert_allclose(fitted.odds, np.log(share[1]) - np.log(share[0]))


def test_what_was_learnt_decides_the_order() -> None:
    """With odds for small saliency alone, against odds for large."""
    odds = np.zeros((4, BINS))
    odds[3] = np.arange(BINS)
    whole, cut = (Objectness(odds=o, **FEW)(scene()) for o in (odds, -odds))
    values = [
        cues.straddling(scene(), boxes[:10].astype(int), scale=450.0, sigma=0.5, min_size=20).mean()
        for boxes in (whole, cut)
    ]
    assert values[0] > values[1] + 0.5


def test_training_without_an_object_is_refused() -> None:
    with pytest.raises(DataError, match="no window in 2 training images shows a true box"):
        Objectness(**FEW).fit([(scene(), np.zeros((0, 4)))] * 2)


def test_it_is_a_method_that_learns_and_works_untrained() -> None:
    assert isinstance(Objectness(), Trained)
    assert_array_equal(Objectness(**FEW)(scene()), Objectness(odds=DEFAULT_ODDS, **FEW)(scene()))


def test_a_large_image_has_the_boxes_of_the_shrunk_one_in_its_own_pixels() -> None:
    large = scene().repeat(3, 0).repeat(3, 1)
    method = Objectness(longest_side=80, **FEW)
    assert_allclose(method(large), 3 * method(scene()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (30, 300)])
@pytest.mark.parametrize("even", [True, False])
def test_images_of_any_size_have_boxes_inside_of_them(shape: tuple[int, int], even: bool) -> None:
    rng = np.random.default_rng(0)
    image = np.full((*shape, 3), 99, np.uint8) if even else rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    boxes = Objectness(**FEW)(image)
    assert boxes.dtype == np.float32
    assert 1 <= len(boxes) <= 50
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert (boxes == np.array([0, 0, shape[1], shape[0]], np.float32)).all(1).any()
    assert boxes.max() <= max(shape)


def test_other_processes_find_the_same_and_another_seed_does_not() -> None:
    method = Objectness(odds=DEFAULT_ODDS, **FEW)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (found,) = pool.map(pickle.loads(pickle.dumps(method)), [scene()])
    assert_array_equal(found, method(scene()))
    assert not np.array_equal(found, dataclasses.replace(method, seed=1)(scene()))
