"""Oracles: images whose guesses are judged by hand, and ILSVRC's rule written out as a loop."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.metrics.localization import LocalizationEvaluator
from cvtasks.metrics.results import read_results
from cvtasks.types import ClassInfo, Prediction, Truth

from .scenes import prediction

CLASSES = ClassInfo(("cat", "dog", "owl", "cow", "pig", "fox", "hen"), (3, 5, 9, 11, 12, 13, 14))
BOX = [10.0, 10.0, 30.0, 30.0]
HALF = [10.0, 10.0, 30.0, 20.0]
"""IoU with BOX: exactly 0.5"""
LESS = [10.0, 10.0, 30.0, 19.0]
"""0.45"""
FAR = [50.0, 50.0, 60.0, 60.0]


def truth(number: int, label: int = 0, box: list[float] = BOX) -> Truth:
    return {"image_id": number, "label": label, "boxes": np.array([box])}


def guesses(*rows: tuple[int, list[float]]) -> Prediction:
    scores = [1 - 0.1 * i for i in range(len(rows))]
    return prediction([box for _, box in rows], scores, [label for label, _ in rows])


def judged(images: list[tuple[Truth, Prediction]]) -> LocalizationEvaluator:
    evaluator = LocalizationEvaluator(classes=CLASSES)
    for true, found in images:
        evaluator.update([found], [true])
    return evaluator


def numbers(*found: Prediction) -> dict[str, float]:
    """Of images that each show a cat in BOX, by names without `loc/`."""
    metrics = judged([(truth(i), one) for i, one in enumerate(found)]).compute()
    assert all(name.startswith("loc/") for name in metrics)
    return {name.removeprefix("loc/"): value for name, value in metrics.items()}


def test_four_first_guesses_by_hand() -> None:
    right, box, label, both = ((0, HALF), (0, LESS), (1, BOX), (1, FAR))
    found = numbers(*(guesses(one) for one in (right, box, label, both)))
    assert found["accuracy"] == found["accuracy_top5"] == 1 / 4
    assert found["class_accuracy"] == found["class_accuracy_top5"] == 2 / 4
    assert found["mIoU"] == pytest.approx((0.5 + 0.45 + 1 + 0) / 4)
    assert [found[f"error/{name}"] for name in ("class", "box", "both")] == [1 / 4] * 3
    assert next(iter(found)) == "accuracy"


def test_of_five_guesses_one_must_have_both_right() -> None:
    """A right class with a wrong box and a right box with a wrong class are not one right guess."""
    apart = guesses((0, FAR), (1, BOX), (2, BOX))
    fifth = guesses((1, FAR), (2, FAR), (3, FAR), (4, FAR), (0, HALF))
    found = numbers(apart, fifth)
    assert found["accuracy"] == 0
    assert found["accuracy_top5"] == 1 / 2
    assert found["class_accuracy"] == 1 / 2
    assert found["class_accuracy_top5"] == 1


def test_a_sixth_guess_does_not_count() -> None:
    late = guesses(*((k, BOX) for k in range(1, 6)), (0, BOX))
    assert numbers(late)["accuracy_top5"] == numbers(late)["class_accuracy_top5"] == 0


def test_an_image_without_a_guess_has_both_wrong() -> None:
    found = numbers(guesses(), guesses((0, BOX)))
    assert found["error/both"] == found["accuracy"] == found["mIoU"] == 1 / 2


def test_a_box_that_makes_no_sense_is_wrong_and_its_class_counts(tmp_path: Path) -> None:
    images = [
        (truth(0), guesses((0, [math.nan] * 4), (0, BOX))),
        (truth(1), guesses((0, [30, 30, 10, 10]))),
    ]
    found = judged(images).compute()
    assert found["loc/error/box"] == found["loc/class_accuracy"] == 1
    assert found["loc/accuracy_top5"] == 1 / 2
    assert found["loc/mIoU"] == 0
    judged(images).write(tmp_path)
    read_results(tmp_path / "box_results.json", CLASSES, [0, 1])


def test_nothing_judged_is_nan() -> None:
    assert all(math.isnan(value) for value in judged([]).compute().values())


def test_confusion_and_errors_are_told_of_each_class() -> None:
    evaluator = judged(
        [
            (truth(0, 0), guesses((0, BOX))),
            (truth(1, 0), guesses((2, BOX))),
            (truth(2, 0), guesses()),
            (truth(3, 1), guesses((1, FAR))),
        ]
    )
    evaluator.compute()
    data = evaluator.plot_data()
    shares = np.array(data["confusion_matrix"]["shares"])
    np.testing.assert_allclose(shares[:2, :3], [[1 / 3, 0, 1 / 3], [0, 1, 0]])
    assert np.isnan(shares[2:]).all()
    breakdown = data["error_breakdown"]
    assert list(breakdown) == ["all images", "cat", "dog"]
    assert breakdown["all images"] == {"right": 1 / 4, "box": 1 / 4, "class": 1 / 4, "both": 1 / 4}
    assert breakdown["dog"] == {"right": 0, "box": 1, "class": 0, "both": 0}


def random_images(seed: int, count: int = 8) -> list[tuple[Truth, Prediction]]:
    rng = np.random.default_rng(seed)
    images = []
    for number in rng.permutation(count).tolist():
        corner = rng.uniform(0, 20, 2)
        box = np.r_[corner, corner + rng.uniform(5, 40, 2)].round(2)
        size = rng.integers(0, 8)
        boxes = box + rng.normal(0, 5, (size, 4)) * rng.choice([0, 1], (size, 1))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        rows = zip(rng.integers(0, 4, size).tolist(), boxes.tolist(), strict=True)
        images.append((truth(number, int(rng.integers(4)), box.tolist()), guesses(*rows)))
    return images


def by_rule(images: list[tuple[Truth, Prediction]]) -> dict[str, float]:
    top1 = top5 = 0
    for true, found in images:
        for rank, (label, box) in enumerate(
            zip(found["labels"].tolist()[:5], found["boxes"].tolist(), strict=False)
        ):
            x1, y1, x2, y2 = true["boxes"][0].tolist()
            width, height = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
            overlap = max(0, width) * max(0, height)
            union = (x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - overlap
            if label == true["label"] and overlap / union >= 0.5:
                top1 += rank == 0
                top5 += 1
                break
    return {"loc/accuracy": top1 / len(images), "loc/accuracy_top5": top5 / len(images)}


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_those_of_the_rule_and_errors_fill_up_the_accuracy(seed: int) -> None:
    images = random_images(seed)
    found, expected = judged(images).compute(), by_rule(images)
    assert {name: found[name] for name in expected} == expected
    errors = sum(found[f"loc/error/{name}"] for name in ("class", "box", "both"))
    assert found["loc/accuracy"] + errors == pytest.approx(1)
    assert found["loc/accuracy"] <= min(found["loc/accuracy_top5"], found["loc/class_accuracy"])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_order_split_and_images_seen_twice_leave_no_trace_in_the_last_digit(seed: int, data: Any) -> None:
    images = random_images(seed)
    expected = judged(images).compute()
    order = data.draw(st.permutations(images))
    cut = data.draw(st.integers(0, len(images)))
    parts = [judged(order[:cut]), judged(order[cut:] + order[:1])]
    merged = LocalizationEvaluator(classes=CLASSES)
    merged.merge(pickle.loads(pickle.dumps([part.state() for part in parts])))
    assert merged.compute() == expected


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_the_written_file_gives_the_same_numbers_again(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("results")
    evaluator = judged(random_images(seed))
    evaluator.write(folder)
    truths = [true for true, _ in random_images(seed)]
    results = read_results(folder / "box_results.json", CLASSES, [t["image_id"] for t in truths])
    again = judged([(t, results.predictions[t["image_id"]]) for t in truths])
    assert again.compute() == evaluator.compute()


def test_predictions_in_half_precision_and_with_gradients_are_taken() -> None:
    found = guesses((0, BOX))
    found["boxes"] = found["boxes"].to(torch.bfloat16).requires_grad_()
    assert numbers(found)["accuracy"] == 1
