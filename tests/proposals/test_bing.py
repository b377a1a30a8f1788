"""Gradients, bits and templates that can be worked out by hand; plain dot products are the oracle of the bits."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.errors import DataError
from cvtasks.proposals.bing import (
    RING,
    Bing,
    as_words,
    binary_bases,
    binary_scores,
    exact_scores,
    levels,
    normed_gradients,
    peaks,
)
from cvtasks.proposals.boxes import iou
from cvtasks.proposals.linear_svm import linear_svm
from cvtasks.proposals.method import fingerprint


def test_normed_gradients_are_those_worked_out_by_hand() -> None:
    image = np.zeros((3, 3, 3), np.uint8)
    image[..., 0] = [[0, 10, 30], [0, 10, 30], [0, 10, 30]]  # across 20, 30, 40
    image[..., 1] = [[0, 0, 0], [0, 0, 0], [50, 50, 50]]  # down 0, 50, 100
    image[..., 2] = 7
    assert normed_gradients(image).tolist() == [[20, 30, 40], [70, 80, 90], [120, 130, 140]]


def test_a_channel_counts_alone_and_the_sum_ends_at_255() -> None:
    image = np.zeros((3, 3, 3), np.uint8)
    image[:, 1:, 0], image[:, :1, 1] = 200, 200  # one grows where the other falls
    assert normed_gradients(image).tolist() == [[255, 200, 0]] * 3


def test_a_window_of_bits_is_one_number() -> None:
    bits = np.zeros((9, 10), np.uint8)
    bits[0, 0] = bits[1, 2] = bits[8, 9] = 1
    words = as_words(bits)
    assert words.shape == (2, 3)
    assert int(words[0, 0]) == 2**0 | 2**10
    assert int(words[1, 2]) == 2**0 | 2**63  # (1, 2) is its first pixel and (8, 9) its last


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4))
def test_bits_give_the_plain_dot_product_of_what_they_stand_for(seed: int, bits: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    gradients = rng.integers(256, size=(12, 15), dtype=np.uint8)
    weights, vectors = binary_bases(rng.normal(size=(8, 8)), number)
    stands_for = (weights[:, None, None] * np.where(vectors, 1, -1)).sum(0)
    leading = gradients & (256 - 2 ** (8 - bits))
    np.testing.assert_allclose(
        binary_scores(gradients, weights, vectors, bits=bits), exact_scores(leading, stands_for), atol=0.02
    )


def test_with_enough_vectors_and_all_bits_the_approximation_is_the_dot_product() -> None:
    rng = np.random.default_rng(0)
    template, gradients = rng.normal(size=(8, 8)), rng.integers(256, size=(20, 20), dtype=np.uint8)
    exact = exact_scores(gradients, template)
    off = [
        np.abs(binary_scores(gradients, *binary_bases(template, n), bits=bits) - exact).max()
        for n, bits in ((1, 8), (3, 8), (300, 8), (300, 4))
    ]
    assert off[0] > off[1] > 100 * off[2]
    assert off[3] > 10 * off[2]


def test_exact_scores_are_windows_times_template() -> None:
    rng = np.random.default_rng(0)
    template, gradients = rng.normal(size=(8, 8)), rng.integers(256, size=(10, 11), dtype=np.uint8)
    scores = exact_scores(gradients, template)
    assert scores.shape == (3, 4)
    assert scores[2, 1] == pytest.approx((gradients[2:10, 1:9] * template).sum(), rel=1e-4)


def test_a_peak_rules_out_what_is_within_two_pixels_and_no_more() -> None:
    scores = np.zeros((1, 9))
    scores[0] = [5, 9, 6, 8, 7, 1, 0, 2, 3]
    y, x = peaks(scores, 10)
    assert list(zip(y, x, strict=True)) == [(0, 1), (0, 4), (0, 8)]  # 8 is two from 9; 7 is three from it
    assert peaks(scores, 2)[1].tolist() == [1, 4]


def test_a_level_has_8_pixels_for_a_window_and_its_boxes_are_of_that_size() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    found = {level.size: level for level in levels(image, (20, 40, 320))}
    assert sorted(found) == [0, 1, 2, 3, 4, 5]  # 320 is twice the width, but more than twice the height
    assert found[1].gradients.shape == (48, 32)  # height 20, width 40
    x1, y1, x2, y2 = found[1].boxes(np.array([3]), np.array([5]))[0]
    assert (x1, y1, x2, y2) == pytest.approx((15, 12.5, 55, 32.5))
    x, y = found[1].nearest(np.array([[16, 13, 56, 33], [-50, -50, -10, -10]]))
    assert (x.tolist(), y.tolist()) == ([3, 0], [5, 0])


def test_a_size_above_the_image_is_cut_to_it() -> None:
    (level,) = levels(np.zeros((30, 50, 3), np.uint8), (40,))
    assert level.gradients.shape == (8, 10)
    assert level.boxes(np.array([0]), np.array([0]))[0] == pytest.approx((0, 0, 40, 30))


def test_the_support_vector_machine_has_the_weight_worked_out_by_hand() -> None:
    # w^2 / 2 + 2 C (1 - w)^2 is least at w = 4 C / (1 + 4 C).
    weights, bias = linear_svm(np.array([[-1.0], [1.0]]), np.array([False, True]), cost=0.5)
    assert weights == pytest.approx([2 / 3], abs=1e-5)
    assert bias == pytest.approx(0, abs=1e-5)
    # The same, moved: the bias is free.
    weights, bias = linear_svm(np.array([[9.0], [11.0]]), np.array([False, True]), cost=0.5)
    assert (weights[0], bias) == pytest.approx((2 / 3, -20 / 3), abs=1e-3)


def scene(seed: int, *, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Flat dark squares on noise, or squares with noise in their left half where all else is flat and dark"""
    rng = np.random.default_rng(seed)
    noise = rng.integers(256, size=(120, 160, 3), dtype=np.uint8)
    image = np.full_like(noise, 30) if half else noise.copy()
    truth = []
    for k in range(2):
        x, y = rng.integers([45, 80]) + np.array([80 * k, 0])
        image[y : y + 34, x : x + 34] = 30
        if half:
            image[y : y + 34, x : x + 17] = noise[y : y + 34, x : x + 17]
        truth.append((x, y, x + 34, y + 34))
    return image, np.array(truth, np.float32)


SIZES = (10, 20, 40, 80)


def test_fit_finds_the_template_and_the_size_that_separate_the_data() -> None:
    fitted = Bing(lengths=SIZES).fit(map(scene, range(12)))
    other = Bing(lengths=SIZES).fit(scene(seed, half=True) for seed in range(12))
    assert fitted.template is not None
    assert other.template is not None
    assert fitted.template[2:6, 2:6].mean() < 0
    assert other.template[:, 4:].mean() < 0 < other.template[:, :4].mean()
    image, truth = scene(100)
    hits = [(iou(method(image)[:4], truth) > 0.5).any(0).sum() for method in (Bing(lengths=SIZES), fitted)]
    assert (
        hits[0] < hits[1] == 2
    )  # by hand, the template wants strong gradients around: noise has them everywhere


def test_a_size_that_shows_no_object_is_not_searched() -> None:
    fitted = Bing(lengths=SIZES).fit(map(scene, range(4)))
    assert fitted.calibration is not None
    searched = ~np.isnan(fitted.calibration[:, 0])
    assert searched.reshape(4, 4)[2, 2]  # 40 x 40
    assert not searched.reshape(4, 4)[0].any()  # 34 pixels are not 10 in height
    boxes = fitted(scene(100)[0])[:-1]
    assert (boxes[:, 3] - boxes[:, 1]).min() > 15


def test_the_calibration_decides_which_size_comes_first() -> None:
    calibration = np.zeros((16, 2))
    calibration[9, 1] = 1  # 40 high and 20 wide
    boxes = Bing(lengths=SIZES, template=RING, calibration=calibration, per_size=10)(scene(0)[0])
    assert np.unique(boxes[:10, 2:] - boxes[:10, :2], axis=0).tolist() == [[20, 40]]


def test_fitting_is_deterministic_and_changes_the_fingerprint() -> None:
    method = Bing(lengths=SIZES)
    one, two = (method.fit(map(scene, range(3))) for _ in range(2))
    other = dataclasses.replace(method, seed=1).fit(map(scene, range(3)))
    assert fingerprint(one) == fingerprint(two) != fingerprint(method)
    assert fingerprint(other) != fingerprint(dataclasses.replace(one, seed=1))
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again(scene(7)[0]), one(scene(7)[0]))


def test_images_without_objects_teach_the_background_only() -> None:
    empty = (scene(5)[0], np.zeros((0, 4), np.float32))
    assert Bing(lengths=SIZES).fit([scene(1), empty]).template is not None
    with pytest.raises(DataError, match="none of the true boxes of 1 training images"):
        Bing(lengths=SIZES).fit([empty])


def test_without_fit_an_outline_is_found_and_every_size_has_its_turn() -> None:
    assert RING.sum() == pytest.approx(0)
    image = np.full((120, 160, 3), 60, np.uint8)
    image[40:80, 60:100] = 200
    truth = np.array([[60, 40, 100, 80]], np.float32)
    boxes = Bing()(image)
    assert iou(boxes[:36], truth).max() > 0.7
    assert len(np.unique(np.rint(boxes[:20, 2:] - boxes[:20, :2]), axis=0)) > 15


@pytest.mark.parametrize("bits", [None, 4])
def test_proposals_are_distinct_inside_the_image_and_as_many_as_asked_for(bits: int | None) -> None:
    image = scene(3)[0]
    for limit in (1, 20, 300):
        method = Bing(limit=limit, bits=bits)
        boxes = method(image)
        assert boxes.dtype == np.float32
        assert len(boxes) == limit == len(np.unique(boxes, axis=0))
        assert boxes.min() >= 0
        assert (boxes[:, 2:] <= (160.001, 120.001)).all()
        assert [0, 0, 160, 120] in boxes.tolist()
        np.testing.assert_array_equal(boxes, method(image))


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (5, 5), (9, 300), (40, 40)])
def test_an_image_of_any_size_is_its_own_proposal(shape: tuple[int, int]) -> None:
    height, width = shape
    assert [0, 0, width, height] in Bing()(np.full((*shape, 3), 128, np.uint8)).tolist()
