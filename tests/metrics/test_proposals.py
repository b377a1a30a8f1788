"""Average recall of proposals. Oracle: pycocotools' COCOeval without classes, at 10, 100 and 1,000 detections."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cvtasks.metrics.coco import xywh
from cvtasks.metrics.proposals import NEVER, ProposalRecall, overlaps, ranks

Scene = list[tuple[np.ndarray, dict[str, Any]]]


def scene(seed: int, *, images: int = 4, proposals: int = 150) -> Scene:
    """Objects of all sizes, crowds among them, and proposals near them: moved, twice, and elsewhere."""
    rng = np.random.default_rng(seed)
    found: Scene = []
    for number in range(images):
        count = rng.integers(0, 7)
        size = np.exp(rng.uniform(1.5, 5.3, (count, 2)))
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1).round(1)
        near = rng.integers(0, max(count, 1), proposals)
        moved = rng.uniform(0, 300, (proposals, 4))
        moved[:, 2:] = moved[:, :2] + np.exp(rng.uniform(1.5, 5.3, (proposals, 2)))
        if count:
            side = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
            by = boxes[near] + rng.normal(0, 0.12, (proposals, 4)) * side
            moved = np.where(rng.random((proposals, 1)) < 0.6, by, moved)
            moved = np.where(rng.random((proposals, 1)) < 0.05, boxes[near], moved)
        moved = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        truth = {
            "image_id": number,
            "boxes": boxes,
            "ignore": rng.random(count) < 0.2,
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.uniform(0.5, 1, count),
        }
        found.append((moved.astype(np.float32)[: rng.integers(0, proposals)], truth))
    return found


def by_pycocotools(found: Scene) -> dict[str, float]:
    annotations, results = [], []
    for boxes, truth in found:
        for box, area, crowd in zip(xywh(truth["boxes"]), truth["area"], truth["ignore"], strict=True):
            record = {"bbox": box.tolist(), "area": float(area), "iscrowd": int(crowd), "category_id": 1}
            annotations.append(record | {"id": len(annotations) + 1, "image_id": truth["image_id"]})
        for rank, box in enumerate(xywh(boxes)):
            results.append(
                {
                    "image_id": truth["image_id"],
                    "category_id": 1,
                    "bbox": box.tolist(),
                    "score": 1 - rank / 1e4,
                }
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": truth["image_id"]} for _, truth in found],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [10, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = np.where(evaluation.eval["recall"] < 0, np.nan, evaluation.eval["recall"])[:, 0]
    numbers = {f"AR@{count}": recall[:, 0, m].mean() for m, count in enumerate((10, 100, 1000))}
    numbers |= {
        f"AR@1000_{size}": recall[:, a, 2].mean() for a, size in enumerate(("small", "medium", "large"), 1)
    }
    numbers["recall@0.5"] = recall[0, 0, 2]
    numbers |= {
        f"recall@0.5_{size}": recall[0, a, 2] for a, size in enumerate(("small", "medium", "large"), 1)
    }
    return {f"proposals/{name}": float(value) for name, value in numbers.items()}


def ours(found: Scene) -> ProposalRecall:
    recall = ProposalRecall()
    for boxes, truth in found:
        recall.update(boxes, truth)
    return recall


@pytest.mark.parametrize("seed", range(12))
def test_the_numbers_are_pycocotools(seed: int) -> None:
    found = scene(seed)
    numbers = ours(found).compute()
    expected = by_pycocotools(found)
    np.testing.assert_allclose(
        [numbers[name] for name in expected], list(expected.values()), rtol=0, atol=1e-12
    )
    assert numbers["proposals/boxes_per_image"] == np.mean([len(boxes) for boxes, _ in found])


def test_each_proposal_finds_one_object_and_each_object_is_found_once() -> None:
    """By hand. The first proposal overlaps both objects by half or more and takes the nearer one; the second, the same box
    again, has the other one left, and finds it only where its own IoU allows."""
    overlap = np.array([[0.8, 0.6], [0.8, 0.6], [0.9, 0.1]])
    assert ranks(overlap, [0.5, 0.7, 0.85, 0.95]).tolist() == [[0, 1], [0, NEVER], [2, NEVER], [NEVER, NEVER]]


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_more_proposals_never_find_less_and_stricter_thresholds_never_more(seed: int) -> None:
    data = ours(scene(seed, images=2, proposals=60)).plot_data()
    for recall in data["recall_of_proposals"]["recall"].values():
        assert (np.diff(recall) >= 0).all()
    for recall in data["recall_at_iou"]["recall"].values():
        assert not (np.diff(recall) > 0).any()


def test_crowds_count_nowhere() -> None:
    """A proposal on a crowd is no find, a crowd that nothing finds no miss."""
    box = np.array([[0.0, 0, 50, 50]])
    truth = {
        "boxes": np.concatenate([box, box + 100]),
        "ignore": np.array([True, False]),
        "area": np.array([2500.0, 2500]),
    }
    assert ours([((box + 100).astype(np.float32), truth)]).compute()["proposals/AR"] == 1
    assert ours([(box.astype(np.float32), truth)]).compute()["proposals/AR"] == 0


def test_without_objects_the_numbers_are_not_defined_and_without_proposals_zero() -> None:
    nothing = {"boxes": np.zeros((0, 4)), "ignore": np.zeros(0, bool), "area": np.zeros(0)}
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    numbers = ours([(boxes, nothing)]).compute()
    assert np.isnan(numbers["proposals/AR@100"])
    assert numbers["proposals/boxes_per_image"] == 1
    assert ProposalRecall().plot_data()["recall_of_proposals"]["recall"] == {}
    one = {"boxes": np.array([[0.0, 0, 9, 9]]), "ignore": np.array([False]), "area": np.array([81.0])}
    numbers = ours([(boxes[:0], one), (boxes[:0], nothing)]).compute()
    assert numbers["proposals/AR"] == numbers["proposals/recall@0.5_small"] == 0
    assert np.isnan(numbers["proposals/recall@0.5_large"])


def test_overlaps_are_of_continuous_boxes() -> None:
    boxes = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    assert overlaps(boxes, np.array([[1.0, 0, 3, 2]])).tolist() == [[pytest.approx(1 / 3)], [0]]
