"""Oracles: maps of four pixels by hand, and counting pixel by pixel in Python."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.errors import DataError
from cvtasks.metrics.segmentation import SegmentationEvaluator
from cvtasks.types import ClassInfo, Prediction, Truth

CLASSES = ClassInfo(("road", "sky", "tree", "car"))
K = len(CLASSES)
Image = tuple[np.ndarray, np.ndarray]
"""A true label map, and a predicted one"""


def truth_of(number: int | str, labels: Any) -> Truth:
    labels = np.array(labels, np.uint8)
    return {
        "image_id": number,
        "file": f"{number}.jpg",
        "orig_size": labels.shape,
        "segmentation": labels,
    }


def prediction_of(labels: Any) -> Prediction:
    return {"segmentation": torch.from_numpy(np.array(labels, np.uint8))}


def judged(images: dict[Any, Image], **options: Any) -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(CLASSES, **options)
    for number, (truth, found) in images.items():
        evaluator.update([prediction_of(found)], [truth_of(number, truth)])
    return evaluator


def of_classes(numbers: dict[str, float]) -> list[float]:
    return [numbers[f"seg/IoU/{name}"] for name in CLASSES.names]


def random_images(seed: int, count: int = 5) -> dict[Any, Image]:
    """Blocky maps with void and absent classes; one image is void throughout, and one prediction says 'none'."""
    rng = np.random.default_rng(seed)
    images = {}
    for number in rng.permutation(count).tolist():
        height, width = rng.integers(1, 40, 2)
        values = [*rng.choice(K, rng.integers(1, K + 1), replace=False).tolist(), 255]

        def blocky(values: Any, height: int = height, width: int = width) -> np.ndarray:
            blocks = rng.choice(values, (height // 5 + 1, width // 5 + 1))
            return np.kron(blocks, np.ones((5, 5)))[:height, :width].astype(np.uint8)

        truth, found = blocky(values), blocky(rng.choice(K, rng.integers(1, K + 1)))
        same = rng.random((height, width)) < 0.6
        found = np.where(same & (truth != 255), truth, found)
        images[number] = (np.full_like(truth, 255) if number == 3 else truth, found)
    images[0][1][0, 0] = 255
    images[0][0][0, 0] = 1
    return images


def by_counting(images: dict[Any, Image]) -> dict[str, float]:
    right, true, found, union = (dict.fromkeys(range(K), 0) for _ in range(4))
    total = 0
    for truth, prediction in images.values():
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if t == 255:
                continue
            total += 1
            for k in range(K):
                right[k] += t == p == k
                true[k] += t == k
                found[k] += p == k
                union[k] += k in (t, p)
    iou = {k: right[k] / union[k] if union[k] else math.nan for k in range(K)}
    defined = [v for v in iou.values() if not math.isnan(v)]
    accuracies = [right[k] / true[k] for k in range(K) if true[k]]
    return {
        "seg/mIoU": sum(defined) / len(defined),
        "seg/pixel_accuracy": sum(right.values()) / total,
        "seg/mean_accuracy": sum(accuracies) / len(accuracies),
        "seg/fwIoU": sum(true[k] / total * iou[k] for k in range(K) if true[k]),
        **{f"seg/IoU/{name}": iou[k] for k, name in enumerate(CLASSES.names)},
    }


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """To the last digit."""
    return a.keys() == b.keys() and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)


def test_four_pixels_by_hand() -> None:
    numbers = judged({1: ([[0, 0], [1, 1]], [[0, 1], [1, 1]])}).compute()
    # road: 1 of 2 found, union 2; sky: 2 of 2 found, union 3.
    assert of_classes(numbers)[:2] == [1 / 2, 2 / 3]
    assert numbers["seg/mIoU"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert numbers["seg/pixel_accuracy"] == 3 / 4
    assert numbers["seg/mean_accuracy"] == (1 / 2 + 1) / 2
    assert numbers["seg/fwIoU"] == pytest.approx(2 / 4 * 1 / 2 + 2 / 4 * 2 / 3)
    assert next(iter(numbers)) == "seg/mIoU"


def test_two_images_are_one_heap_of_pixels_and_not_two_scores() -> None:
    images = {1: ([[0, 0, 0, 0]], [[0, 0, 0, 0]]), 2: ([[0, 1]], [[1, 1]])}
    assert of_classes(judged(images).compute())[:2] == [
        4 / 5,
        1 / 2,
    ]  # the mean of two scores for road is 1 / 2


def test_an_absent_class_is_in_no_mean_and_a_class_found_in_vain_is_a_zero() -> None:
    numbers = judged({1: ([[0, 0], [1, 1]], [[0, 0], [1, 2]])}).compute()
    road, sky, tree, car = of_classes(numbers)
    assert (road, sky, tree) == (1, 1 / 2, 0)
    assert math.isnan(car)
    assert numbers["seg/mIoU"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert numbers["seg/mean_accuracy"] == (1 + 1 / 2) / 2  # no pixel is tree, so none can be missed


def test_void_counts_nowhere_and_a_prediction_of_none_is_a_miss_that_no_class_found() -> None:
    void = judged({1: ([[0, 255], [1, 1]], [[0, 1], [1, 1]])}).compute()
    assert void["seg/mIoU"] == void["seg/pixel_accuracy"] == 1
    none = judged({1: ([[0, 0], [1, 1]], [[0, 255], [1, 1]])}).compute()
    assert of_classes(none)[:2] == [1 / 2, 1]
    assert none["seg/pixel_accuracy"] == 3 / 4


def test_an_image_of_void_changes_nothing_and_void_alone_is_a_clear_line() -> None:
    image, void = ([[0, 0], [1, 1]], [[0, 1], [1, 1]]), (np.full((2, 2), 255), np.zeros((2, 2)))
    assert same(judged({1: image}).compute(), judged({1: image, 2: void}).compute())
    with pytest.raises(DataError, match=r"2 images.*void.*dataset\.ignore_index"):
        judged({1: void, 2: void}).compute()


def test_boundary_f1_is_nan_only_where_no_image_has_a_boundary() -> None:
    assert math.isnan(judged({1: ([[0, 0]], [[0, 0]])}).compute()["seg/boundary_F1"])
    both = {1: ([[0, 0]], [[0, 0]]), 2: ([[0, 1]], [[0, 1]])}
    assert judged(both).compute()["seg/boundary_F1"] == 1
    assert "seg/boundary_F1" not in judged(both, boundary_tolerance=None).compute()


def test_boundary_f1_is_the_mean_over_images_of_the_mean_over_their_classes() -> None:
    """Outlines of single pixels, with a tolerance below one: image 1 has 1 of 2 right, image 2 all of 4 classes."""
    images = {
        1: ([[0, 1, 1, 1]], [[0, 0, 1, 1]]),  # road: one of 1 and 1, apart: 0; sky: at 1 and at 2: 0
        2: ([[0, 1, 2, 3]], [[0, 1, 2, 3]]),
    }
    assert judged(images).compute()["seg/boundary_F1"] == (0 + 1) / 2
    images[1] = ([[0, 1, 1, 1]], [[0, 1, 1, 2]])
    # Of image 1: road 1; sky: truth has 1 pixel, found has 2, of which 1 is right: F1 = 2/3; tree: 0.
    assert judged(images).compute()["seg/boundary_F1"] == pytest.approx(((1 + 2 / 3 + 0) / 3 + 1) / 2)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_those_of_counting_pixel_by_pixel(seed: int) -> None:
    images = random_images(seed)
    numbers, expected = judged(images).compute(), by_counting(images)
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, nan_ok=True), name


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_order_split_and_images_seen_twice_leave_no_trace_in_the_last_digit(seed: int, data: Any) -> None:
    images = random_images(seed, count=6)
    expected = judged(images).compute()
    order = data.draw(st.permutations(list(images)))
    ranks = st.sets(st.integers(0, 2), min_size=1)
    owners = data.draw(st.lists(ranks, min_size=len(order), max_size=len(order)))
    again = order[0]
    parts = [
        judged({i: images[i] for i, own in zip(order, owners, strict=True) if rank in own})
        for rank in range(3)
    ]
    merged = SegmentationEvaluator(CLASSES)
    merged.merge(pickle.loads(pickle.dumps([part.state() for part in parts])))
    assert same(merged.compute(), expected)
    twice = judged(images)
    twice.update([prediction_of(np.zeros(images[again][0].shape))], [truth_of(again, images[again][0])])
    assert same(twice.compute(), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_what_is_predicted_for_void_pixels_does_not_matter(seed: int) -> None:
    images = random_images(seed)
    rng = np.random.default_rng(seed)
    others = {
        i: (truth, np.where(truth == 255, rng.integers(0, K, truth.shape), found).astype(np.uint8))
        for i, (truth, found) in images.items()
    }
    assert same(judged(images).compute(), judged(others).compute())


def test_every_class_can_be_told_from_void() -> None:
    """254 classes, the most that there may be: the last one next to 255."""
    classes = ClassInfo(tuple(f"class {k}" for k in range(254)))
    labels = np.arange(256).reshape(16, 16)
    labels[labels >= 254] = 255
    evaluator = SegmentationEvaluator(classes)
    evaluator.update([prediction_of(labels)], [truth_of(1, labels)])
    numbers = evaluator.compute()
    assert numbers["seg/IoU/class 253"] == numbers["seg/mIoU"] == 1
    assert len(evaluator.plot_data()["confusion_matrix"]["shares"]) == 254


def test_the_picture_of_confusion_has_a_row_for_each_true_class() -> None:
    evaluator = judged({1: ([[0, 0, 0, 0], [1, 1, 255, 1]], [[0, 1, 1, 2], [1, 1, 0, 255]])})
    evaluator.compute()
    data = evaluator.plot_data()
    assert data["confusion_matrix"]["classes"] == list(CLASSES.names)
    shares = np.array(data["confusion_matrix"]["shares"])
    np.testing.assert_allclose(shares[:2], [[1 / 4, 1 / 2, 1 / 4, 0], [0, 2 / 3, 0, 0]])
    assert np.isnan(shares[2:]).all()
    assert data["per_class_iou"]["sky"] == 2 / (3 + 2)
    assert math.isnan(data["per_class_iou"]["car"])


def test_a_prediction_that_is_no_class_or_of_another_size_is_our_own_mistake() -> None:
    for found in ([[0, 4]], [[0, 254]], [[0], [1]]):
        with pytest.raises(AssertionError):
            judged({1: ([[0, 1]], found)})
