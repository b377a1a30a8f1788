"""Oracle: an example worked out by hand, and torchvision's Matcher image by image."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from cvtasks.ops import matching
from cvtasks.ops.matching import match, take

# Four anchors of 10 x 10 side by side, and one object over the first and a part of the second.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]])
THRESHOLDS = {"positive_iou": 0.7, "negative_iou": 0.3}


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor([rows])


def test_the_hand_worked_example() -> None:
    # IoU with the object (0, 0, 14, 10): 100 / 140 = 0.71, 40 / 200 = 0.2, 0, 0.
    found = match(
        ANCHORS, boxes((0, 0, 14, 10)), objects=torch.tensor([[True]]), **THRESHOLDS, keep_best=False
    )
    assert found.positive.tolist() == [[True, False, False, False]]
    assert found.negative.tolist() == [[False, True, True, True]]


def test_between_the_thresholds_an_anchor_is_neither() -> None:
    # IoU 100 / 200 = 0.5 with the first two.
    found = match(
        ANCHORS, boxes((0, 0, 20, 10)), objects=torch.tensor([[True]]), **THRESHOLDS, keep_best=False
    )
    assert not found.positive.any()
    assert found.negative.tolist() == [[False, False, True, True]]


def test_with_a_least_overlap_of_the_background_what_nothing_is_near_to_is_neither() -> None:
    # IoU 0.71, 0.2, 0, 0 as above: Fast R-CNN's negatives overlap an object by 0.1 at least.
    objects = torch.tensor([[True]])
    found = match(
        ANCHORS,
        boxes((0, 0, 14, 10)),
        objects=objects,
        **THRESHOLDS,
        background_iou=0.1,
        keep_best=False,
    )
    assert found.positive.tolist() == [[True, False, False, False]]
    assert found.negative.tolist() == [[False, True, False, False]]


def test_the_best_anchors_of_an_object_are_positive_however_bad_and_ties_all_count() -> None:
    found = match(
        ANCHORS, boxes((0, 0, 20, 10)), objects=torch.tensor([[True]]), **THRESHOLDS, keep_best=True
    )
    assert found.positive.tolist() == [[True, True, False, False]]


def test_an_object_that_no_anchor_touches_makes_none_positive() -> None:
    far = boxes((500, 500, 510, 510))
    found = match(ANCHORS, far, objects=torch.tensor([[True]]), **THRESHOLDS, keep_best=True)
    assert not found.positive.any()
    assert found.negative.all()


def test_in_an_image_without_objects_all_are_negative_whatever_the_padding_holds() -> None:
    found = match(ANCHORS, ANCHORS[None, :1], objects=torch.tensor([[False]]), **THRESHOLDS, keep_best=True)
    assert not found.positive.any()
    assert found.negative.all()


def test_an_anchor_half_inside_an_ignored_object_is_no_negative_unless_it_is_positive() -> None:
    # A crowd over the upper 60 % of anchors 1 and 2, and 40 % of 3; anchor 1 is an object's, too.
    truth = boxes((0, 0, 10, 10), (0, 0, 20, 6), (20, 0, 30, 4))
    found = match(
        ANCHORS,
        truth,
        objects=torch.tensor([[True, False, False]]),
        ignored=torch.tensor([[False, True, True]]),
        **THRESHOLDS,
        keep_best=True,
    )
    assert found.positive.tolist() == [[True, False, False, False]]
    assert found.negative.tolist() == [[False, False, True, True]]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 6))
def test_every_image_of_a_batch_is_matched_as_torchvision_matches_it(
    seed: int, keep_best: bool, n: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:  # whole numbers, so that there are ties
        corner, size = torch.randint(0, 12, (2, *shape, 2), generator=generator)
        return torch.cat([corner, corner + size + 1], -1).float()

    references, truth = some(3, 40), some(3, n)
    counts = torch.randint(1, n + 1, (3,), generator=generator)
    objects = torch.arange(n) < counts[:, None]
    # There torchvision makes every reference positive: see the test above.
    assume((box_iou(truth.flatten(0, 1), references.flatten(0, 1)).view(3, n, 3, -1).amax(-1) > 0).all())
    found = match(references, truth, objects=objects, **THRESHOLDS, keep_best=keep_best)
    for image, count in enumerate(counts.tolist()):
        expected = Matcher(0.7, 0.3, keep_best)(box_iou(truth[image, :count], references[image]))
        assert torch.equal(found.positive[image], expected >= 0)
        assert torch.equal(found.negative[image], expected == -1)
        positive = found.positive[image]
        assert torch.equal(found.index[image][positive], expected[positive])


def test_a_batch_too_large_for_memory_is_matched_in_parts_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 5, 43, 2, generator=generator) * 20
    truth, references = torch.cat([corner, corner + size], -1).split([3, 40], dim=1)
    objects, ignored = (torch.rand(2, 5, 3, generator=generator) < 0.6).unbind()
    settings = {"objects": objects, "ignored": ignored & ~objects, **THRESHOLDS, "keep_best": True}
    for each in (references, references[0]):
        whole = match(each, truth, **settings)
        for most in (1, 2 * 3 * 40, 4 * 3 * 40 + 1):
            monkeypatch.setattr(matching, "MOST_PAIRS", most)
            parts = match(each, truth, **settings)
            monkeypatch.undo()
            for name in ("index", "positive", "negative"):
                assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_take_picks_rows_of_each_image() -> None:
    values = torch.arange(12).view(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert take(values, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert take(values[..., 0], index).tolist() == [[4, 0], [8, 8]]
