"""Oracle: a direct run of pycocotools (COCO, loadRes, COCOeval) on JSON files of the same scene."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cvtasks.metrics.detection import DetectionEvaluator
from cvtasks.metrics.results import read_results
from cvtasks.types import ClassInfo

from .scenes import CLASSES, prediction, random_scene, truth_of

TWELVE = [
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
]  # fmt: skip


def by_pycocotools(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "truth.json")
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    per_class = {f"AP/{n}": float(precision[:, :, k].mean()) for k, n in enumerate(CLASSES.names)}
    numbers = dict(zip(TWELVE, evaluation.stats.tolist(), strict=True)) | per_class
    return {f"box/{name}": math.nan if value == -1 else value for name, value in numbers.items()}


def by_us(
    truth: dict[str, Any], results_file: Path, classes: ClassInfo = CLASSES
) -> tuple[DetectionEvaluator, dict[str, float]]:
    evaluator = DetectionEvaluator(classes=classes)
    results = read_results(results_file, classes, [image["id"] for image in truth["images"]])
    for image in truth_of(truth, classes):
        evaluator.update([results.predictions[image["image_id"]]], [image])
    return evaluator, evaluator.compute()


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    return a.keys() == b.keys() and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_pycocotools_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    truth, results = random_scene(seed)
    expected = by_pycocotools(folder, truth, results)
    _, ours = by_us(truth, folder / "results.json")
    assert same(expected, {name: ours[name] for name in expected})


def test_only_the_best_hundred_of_an_image_count(tmp_path: Path) -> None:
    # 130 wrong detections in ascending order of score: which of them are cut decides about precision.
    truth, _ = random_scene(0)
    wrong, right = truth["images"][0]["id"], truth["images"][1]["id"]
    box = {"bbox": [10, 10, 40, 40], "category_id": 3}
    truth["annotations"] = [box | {"id": 1, "image_id": right, "area": 1600, "iscrowd": 0}]
    results = [box | {"image_id": wrong, "score": 0.005 * i} for i in range(130)]
    results.append(box | {"image_id": right, "score": 0.4})
    expected = by_pycocotools(tmp_path, truth, results)
    assert expected["box/AP"] == pytest.approx(1 / 50)
    evaluator = DetectionEvaluator(classes=CLASSES)
    for image in truth_of(truth, CLASSES):  # in the file's order, not sorted
        scores = [r["score"] for r in results if r["image_id"] == image["image_id"]]
        found = prediction([[10, 10, 50, 50]] * len(scores), scores, [0] * len(scores))
        evaluator.update([found], [image])
    ours = evaluator.compute()
    assert same(expected, {name: ours[name] for name in expected})


def test_a_scene_with_crowds_ties_and_an_absent_class_is_among_those_compared() -> None:
    truth, results = random_scene(1)
    assert any(a["iscrowd"] for a in truth["annotations"])
    assert not any(a["category_id"] == 90 for a in truth["annotations"])
    assert len({r["score"] for r in results}) < len(results)
    assert len({a["image_id"] for a in truth["annotations"]}) < len(truth["images"])


@pytest.mark.parametrize("seed", range(3))
def test_merged_states_give_the_same_numbers_whatever_the_split_and_order(tmp_path: Path, seed: int) -> None:
    truth, results = random_scene(seed, images=20)
    (tmp_path / "results.json").write_text(json.dumps(results))
    whole, expected = by_us(truth, tmp_path / "results.json")
    found = read_results(tmp_path / "results.json", CLASSES, [i["id"] for i in truth["images"]]).predictions
    images = truth_of(truth, CLASSES)
    random.Random(seed).shuffle(images)
    parts = [images[:3], images[3:3], images[3:15], images[14:]]  # an empty process, and an image seen twice
    states = []
    for part in parts:
        evaluator = DetectionEvaluator(classes=CLASSES)
        evaluator.update([found[image["image_id"]] for image in part], part)
        states.append(pickle.loads(pickle.dumps(evaluator.state())))
    merged = DetectionEvaluator(classes=CLASSES)
    merged.merge(reversed(states))
    assert same(merged.compute(), expected)
    assert merged.plot_data() == whole.plot_data()


def test_a_state_is_few_arrays_not_many_objects() -> None:
    truth, _ = random_scene(0, images=50)
    evaluator = DetectionEvaluator(classes=CLASSES)
    images = truth_of(truth, CLASSES)
    evaluator.update([prediction([[0, 0, 9, 9]] * 100, [0.5] * 100, [0] * 100)] * len(images), images)
    state = evaluator.state()
    assert state["tables"]["predictions"]["boxes"].shape == (50 * 100, 4)
    assert len(pickle.dumps(state)) < 50 * 100 * (4 + 3) * 8 * 1.2


def test_what_is_written_gives_the_same_numbers_again(tmp_path: Path) -> None:
    truth, _ = random_scene(5)
    images = truth_of(truth, CLASSES)
    generator = torch.Generator().manual_seed(0)
    predictions = []
    for image in images:  # float32 boxes with all their digits, scores that differ by one bit
        boxes = torch.from_numpy(image["boxes"]).float() + torch.rand(
            len(image["boxes"]), 4, generator=generator
        )
        scores = (
            torch.full((len(boxes),), 0.3) + torch.randint(0, 3, (len(boxes),), generator=generator) * 2**-25
        )
        predictions.append({"boxes": boxes, "scores": scores, "labels": torch.from_numpy(image["labels"])})
    evaluator = DetectionEvaluator(classes=CLASSES)
    evaluator.update(predictions, images)
    numbers = evaluator.compute()
    evaluator.write(tmp_path / "predictions")

    written = tmp_path / "predictions" / "box_results.json"
    _, again = by_us(truth, written)
    assert same(numbers, again)
    results = json.loads(written.read_text())
    expected = by_pycocotools(tmp_path, truth, results)
    assert same(expected, {name: numbers[name] for name in expected})
    assert {r["category_id"] for r in results} <= set(CLASSES.category_ids)
    assert {r["image_id"] for r in results} <= {i["id"] for i in truth["images"]}


def test_image_ids_may_be_names(tmp_path: Path) -> None:
    truth, results = random_scene(4)
    (tmp_path / "ids.json").write_text(json.dumps(results))
    _, expected = by_us(truth, tmp_path / "ids.json")
    for record in truth["annotations"] + results:
        record["image_id"] = f"{record['image_id']:06}"
    for image in truth["images"]:
        image["id"] = f"{image['id']:06}"
    (tmp_path / "names.json").write_text(json.dumps(results))
    evaluator, numbers = by_us(truth, tmp_path / "names.json")
    assert same(numbers, expected)
    evaluator.write(tmp_path)
    assert same(by_us(truth, tmp_path / "box_results.json")[1], expected)


def empty_truth(image_id: int) -> dict[str, Any]:
    columns = {"boxes": (0, 4), "labels": 0, "ignore": 0, "area": 0}
    return {"image_id": image_id} | {name: np.zeros(shape) for name, shape in columns.items()}


def test_without_images_or_truth_every_number_is_undefined() -> None:
    evaluator = DetectionEvaluator(classes=CLASSES)
    assert all(math.isnan(value) for value in evaluator.compute().values())
    evaluator.update([prediction([[0, 0, 5, 5]], [0.9], [1])], [empty_truth(1)])
    assert all(math.isnan(value) for value in evaluator.compute().values())
    assert evaluator.plot_data()["per_class_ap"] == {}


def test_without_predictions_every_defined_number_is_zero() -> None:
    truth = empty_truth(1) | {
        "boxes": np.array([[0.0, 0, 50, 50]]),
        "labels": np.array([1]),
        "ignore": np.array([False]),
        "area": np.array([2500.0]),
    }
    evaluator = DetectionEvaluator(classes=CLASSES)
    evaluator.update([prediction([], [], [])], [truth])
    numbers = evaluator.compute()
    assert numbers["box/AP"] == numbers["box/AR100"] == numbers["box/VOC07_mAP"] == numbers["box/AP/dog"] == 0
    assert math.isnan(numbers["box/AP_small"])
    assert math.isnan(numbers["box/AP/cat"])


def test_boxes_that_are_not_numbers_match_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # pycocotools takes a NaN overlap for a match: a diverged model would be praised.
    truth = empty_truth(1) | {
        "boxes": np.array([[0.0, 0, 50, 50]]),
        "labels": np.array([0]),
        "ignore": np.array([False]),
        "area": np.array([2500.0]),
    }
    evaluator = DetectionEvaluator(classes=CLASSES)
    nan, inf = math.nan, math.inf
    boxes = [[nan, 0, 50, 50], [0, 0, inf, 50], [0, 0, 50, 50], [50, 50, 0, 0]]
    with caplog.at_level(logging.WARNING):
        evaluator.update([prediction(boxes, [0.9, 0.8, nan, 0.7], [0] * 4)], [truth])
    assert evaluator.compute()["box/AP"] == 0
    assert "4 predicted boxes" in caplog.text


def test_reset_forgets_everything() -> None:
    truth, _ = random_scene(0)
    images = truth_of(truth, CLASSES)
    evaluator = DetectionEvaluator(classes=CLASSES)
    evaluator.update([prediction([], [], [])] * len(images), images)
    evaluator.reset()
    assert evaluator.state()["image_ids"] == []


def test_plot_data_holds_curves_that_average_to_ap50(tmp_path: Path) -> None:
    truth, results = random_scene(2)
    (tmp_path / "results.json").write_text(json.dumps(results))
    evaluator, numbers = by_us(truth, tmp_path / "results.json")
    data = evaluator.plot_data()
    curves = data["precision_recall"]
    assert len(curves["recall"]) == len(curves["mean"]) == 101
    assert np.mean(curves["mean"]) == pytest.approx(numbers["box/AP50"])
    assert data["per_class_ap"] == {n: numbers[f"box/AP/{n}"] for n in curves["classes"]}


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    DetectionEvaluator(classes=CLASSES).compute()
    assert capsys.readouterr() == ("", "")
