"""Oracles: torchvision's default boxes and matcher, and losses worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from cvtasks.errors import ConfigError
from cvtasks.nn.dense_detector import Assignment
from cvtasks.nn.multibox import BestOfEachClass, DefaultBoxes, DefaultBoxMatching, MultiboxLoss, hardest

SCALES, RATIOS = [0.1, 0.4, 0.9, 1.2], [[2], [2, 3], []]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, [8, 17, 40]])
def test_default_boxes_are_torchvisions_to_the_last_bit(steps: list[float] | None, clip: bool) -> None:
    theirs = DefaultBoxGenerator(RATIOS, scales=SCALES, steps=steps, clip=clip)
    ours = DefaultBoxes(SCALES, RATIOS, steps=steps, clip=clip)
    grids = [(9, 12), (4, 6), (2, 3)]
    images = ImageList(torch.zeros(1, 3, 72, 100), [(72, 100)])
    expected = theirs(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]
    assert ours.kinds == theirs.num_anchors_per_location() == [4, 6, 2]
    assert torch.equal(torch.cat(ours((72, 100), grids)), expected)


def test_a_default_box_by_hand() -> None:
    # Second row, first column of a 2 x 2 map over 100 x 40 pixels (width x height); a quarter of the sides.
    (boxes,) = DefaultBoxes([0.25, 1.0], [[4]])((40, 100), [(2, 2)])
    square, between, lying, standing = boxes.view(2, 2, 4, 4)[1, 0]
    assert_close(square, torch.tensor([12.5, 25, 37.5, 35]))
    assert_close(between, torch.tensor([0.0, 20, 50, 40]))
    assert_close(lying, torch.tensor([0.0, 27.5, 50, 32.5]))
    assert_close(standing, torch.tensor([18.75, 20, 31.25, 40]))


def test_the_papers_numbers_of_default_boxes() -> None:
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    small = DefaultBoxes([0.1] * 7, ratios)((300, 300), [(n, n) for n in (38, 19, 10, 5, 3, 1)])
    assert sum(map(len, small)) == 8732
    ratios.insert(3, [2, 3])
    large = DefaultBoxes([0.1] * 8, ratios)((512, 512), [(n, n) for n in (64, 32, 16, 8, 4, 2, 1)])
    assert sum(map(len, large)) == 24564


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": [0.1, 0.2]}, r"task\.scales=\[0\.1, 0\.2\]: expected 4 numbers"),
        ({"steps": [8, 16]}, r"task\.steps=\[8, 16\]: expected 3 numbers"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DefaultBoxes(**{"scales": SCALES, "ratios": RATIOS} | settings)


# --- matching --------------------------------------------------------------------------------------------------------

ROW = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [40, 0, 60, 10]])


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_matches_are_torchvisions_image_by_image(seed: int, objects: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner, extent = torch.rand(2, 3, objects, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + extent + 1], -1)
    defaults = torch.cat(DefaultBoxes([0.1, 0.3, 0.9], [[2], [2]])((100, 100), [(6, 6), (2, 2)]))
    real = torch.rand(3, objects, generator=generator) < 0.7
    found = DefaultBoxMatching(0.4)(defaults, boxes, objects=real, ignored=None)
    assert torch.equal(found.negative, ~found.positive)
    for image in range(3):
        if not real[image].any():
            assert not found.positive[image].any()
            continue
        expected = SSDMatcher(0.4)(box_iou(boxes[image][real[image]], defaults))
        assert torch.equal(found.positive[image], expected >= 0)
        number = real[image].nonzero()[:, 0]
        assert torch.equal(found.index[image][expected >= 0], number[expected[expected >= 0]])


def test_an_objects_best_default_box_is_its_own_even_if_it_overlaps_another_more() -> None:
    # Box 1 covers the second object more than the first (0.45 against 0.4), but box 2 is the second's best (0.53).
    boxes = torch.tensor([[[10.0, 0, 20, 4], [11, 0, 30, 10]]])
    for threshold in (0.44, 0.9):
        found = DefaultBoxMatching(threshold)(ROW, boxes, objects=torch.ones(1, 2).bool(), ignored=None)
        assert found.positive.tolist() == [[False, True, True, False]]
        assert found.index[0, 1:3].tolist() == [0, 1]


def test_of_objects_that_want_one_default_box_the_last_has_it() -> None:
    boxes = torch.tensor([[[10.0, 0, 20, 10], [11, 0, 19, 10], [12, 0, 18, 10]]])
    for objects, answer in (([1, 1, 1], 2), ([1, 1, 0], 1), ([1, 0, 0], 0)):
        found = DefaultBoxMatching()(ROW, boxes, objects=torch.tensor([objects]).bool(), ignored=None)
        assert found.positive.tolist() == [[False, True, False, False]]
        assert found.index[0, 1] == answer


def test_a_default_box_within_a_crowd_is_neither_and_an_object_that_none_touches_claims_none() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [19, 0, 31, 11], [90, 90, 95, 95]]])
    objects, crowd = torch.tensor([[True, False, True]]), torch.tensor([[False, True, False]])
    found = DefaultBoxMatching()(ROW, boxes, objects=objects, ignored=crowd)
    assert found.positive.tolist() == [[True, False, False, False]]
    assert found.negative.tolist() == [[False, True, False, True]]


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_hardest_negatives_of_each_image_by_hand() -> None:
    losses = torch.tensor([[5.0, 1, 4, 2, 3], [9, 8, 7, 6, 5]], requires_grad=True)
    negative = torch.tensor([[False, True, True, True, True], [True, True, False, False, False]])
    for most, expected in (([0.0, 0.0], 0), ([2.0, 1.0], 4 + 3 + 9), ([3.0, 6.0], 4 + 3 + 2 + 9 + 8)):
        assert hardest(losses, negative, torch.tensor(most)) == expected
    hardest(losses, negative, torch.tensor([2.0, 6.0])).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[0, 0, 1, 0, 1], [1, 1, 0, 0, 0]]


def test_the_two_losses_by_hand() -> None:
    # Five boxes of one image: one is positive, one neither, and of the three negatives two count.
    anchors = torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1)
    positive = torch.tensor([[False, True, False, False, False]])
    negative = torch.tensor([[True, False, True, True, False]])
    assigned = Assignment(
        anchors,
        positive,
        negative,
        labels=torch.tensor([[0, 1, 0, 0, 0]]),
        boxes=torch.tensor([[[2.0, 0, 12, 20]]]).expand(1, 5, 4),
    )
    scores = torch.zeros(1, 5, 3)
    scores[0, 0, 2], scores[0, 2, 2], scores[0, 4, 0] = (
        2.0,
        1.0,
        50.0,
    )  # sure to be background; and nobody's business
    found = MultiboxLoss(coder_weights=(10, 10, 5, 5), negatives=2.0)(scores, torch.zeros(1, 5, 4), assigned)
    uniform, sure = math.log(3), math.log(2 + math.e) - 1
    assert found["classification"].item() == pytest.approx(uniform + uniform + sure)
    # dx = 0.2 * 10, dy = 0.5 * 10, dw = 0, dh = log 2 * 5; each above 1: the difference less a half
    assert found["box_regression"].item() == pytest.approx(1.5 + 4.5 + 5 * math.log(2) - 0.5)


def test_both_are_divided_by_the_positives_of_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, offsets = torch.randn(2, 6, 4, generator=generator), torch.randn(2, 6, 4, generator=generator)
    positive = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    labels, boxes = torch.zeros(2, 6).long(), torch.tensor([0.0, 0, 10, 10]).expand(2, 6, 4)
    anchors = boxes[0]
    loss = MultiboxLoss(coder_weights=(1, 1, 1, 1))
    found = loss(scores, offsets, Assignment(anchors, positive, ~positive, labels, boxes))
    box = F.smooth_l1_loss(offsets[positive], torch.zeros(4, 4), reduction="sum") / 4
    assert_close(found["box_regression"], box)
    none = torch.zeros_like(positive)
    empty = loss(scores, offsets, Assignment(anchors, none, ~none, labels, boxes))
    assert empty["classification"] == empty["box_regression"] == 0


def test_the_best_of_each_class_are_probabilities_beside_the_background() -> None:
    logits = torch.tensor([[[0.0, 2, 1], [3, 0, 0], [1, 1, 5]]])
    found = BestOfEachClass(2)(logits, [3])
    p = logits.softmax(-1)[0]
    assert found.labels.tolist() == [[0, 0, 1, 1]]
    assert found.index.tolist() == [[1, 0, 0, 1]]
    assert_close(found.scores, torch.stack([p[1, 0], p[0, 0], p[0, 1], p[1, 1]])[None])
    assert BestOfEachClass(400)(logits, [3]).scores.shape == (1, 6)
