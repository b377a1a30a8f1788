"""Oracles: torchvision's IoU and suppression, and plain sums."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from cvtasks.proposals.boxes import best_apart, first_of, iou
from cvtasks.proposals.integral import box_sums, integral_image


def random_boxes(seed: int, number: int) -> np.ndarray:
    corner, size = np.random.default_rng(seed).integers(1, 30, (2, number, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


# No IoU of these boxes is exactly at a threshold, where float32 and float64 differ.
@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.3001, 0.7001]))
def test_overlaps_and_suppression_are_torchvisions(seed: int, number: int, overlap: float) -> None:
    boxes, others = random_boxes(seed, number), random_boxes(seed + 1, 5)
    expected = box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()
    np.testing.assert_allclose(iou(boxes, others), expected, atol=1e-6)
    scores = np.random.default_rng(seed).permutation(number) / number
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores).float(), overlap).tolist()
    assert best_apart(boxes, scores, overlap=overlap, limit=number).tolist() == kept
    assert best_apart(boxes, scores, overlap=overlap, limit=2).tolist() == kept[:2]


def test_the_first_boxes_stay_in_order_without_doubles_and_with_the_whole_image() -> None:
    boxes = np.array([[0, 0, 5, 5], [1, 1, 2, 2], [0, 0, 5, 5], [0, 0, 1, 1], [2, 2, 3, 3]])
    whole = [0, 0, 9, 7]
    first = first_of(boxes, height=7, width=9, limit=3)
    assert first.tolist() == [[0, 0, 5, 5], [1, 1, 2, 2], whole]
    assert first_of(boxes, height=7, width=9, limit=9).tolist() == [*boxes[[0, 1, 3, 4]].tolist(), whole]
    assert first_of(boxes, height=5, width=5, limit=2).tolist() == [[0, 0, 5, 5], [1, 1, 2, 2]]
    assert first_of(boxes[:0], height=7, width=9, limit=1).tolist() == [whole]


def test_sums_over_boxes_are_plain_sums() -> None:
    values = np.random.default_rng(0).normal(size=(7, 9))
    boxes = np.array([[0, 0, 9, 7], [2, 3, 5, 4], [8, 6, 9, 7], [3, 3, 3, 5]])
    expected = [values[y1:y2, x1:x2].sum() for x1, y1, x2, y2 in boxes]
    np.testing.assert_allclose(box_sums(integral_image(values), boxes), expected, atol=1e-9)
