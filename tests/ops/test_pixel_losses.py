"""Oracles: torch's own losses over the pixels that are not void, picked out one by one, and sums by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from cvtasks.ops.pixel_losses import cross_entropy, dice, focal, hard_pixels

CLASSES = 4
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])
LOSSES = {
    "cross_entropy": cross_entropy,
    "focal": lambda *a, **k: focal(*a, gamma=2.0, **k),
    "hard_pixels": lambda *a, **k: hard_pixels(*a, threshold=0.7, min_kept=5, **k),
    "dice": dice,
}


def example(*, void: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 5, 6, generator=generator)
    labels = torch.randint(0, CLASSES, (2, 5, 6), dtype=torch.uint8, generator=generator)
    if void:
        labels[0, :2] = 255
        labels[1, :, 3] = 255
    return logits, labels


def picked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels that count: [N, K] and [N]."""
    counted = labels != 255
    return logits.permute(0, 2, 3, 1)[counted], labels[counted].long()


def test_cross_entropy_is_the_mean_over_pixels_that_are_not_void() -> None:
    logits, labels = example()
    assert_close(cross_entropy(logits, labels), F.cross_entropy(*picked(logits, labels)))


def test_class_and_pixel_weights_are_factors_and_the_sum_is_divided_by_the_number_of_pixels() -> None:
    # torch's own mean divides by the sum of weights: a batch of one class would then not feel its weight.
    logits, labels = example()
    pixel_weights = torch.rand(labels.shape)
    rows, truth = picked(logits, labels)
    each = F.cross_entropy(rows, truth, reduction="none")
    weighted = each * WEIGHTS[truth] * pixel_weights[labels != 255]
    for name, expected in (
        ("cross_entropy", weighted.mean()),
        ("focal", (weighted * (1 - torch.exp(-each)) ** 2).mean()),
    ):
        found = LOSSES[name](logits, labels, class_weights=WEIGHTS, pixel_weights=pixel_weights)
        assert_close(found, expected)


def test_focal_loss_of_two_classes_is_torchvisions_on_the_difference_of_logits() -> None:
    logits, labels = example()
    logits, labels = logits[:, :2], torch.where(labels == 255, 255, labels % 2)
    rows, truth = picked(logits, labels)
    expected = sigmoid_focal_loss(rows[:, 1] - rows[:, 0], truth.float(), alpha=-1, gamma=3.0)
    assert_close(focal(logits, labels, gamma=3.0), expected.mean())


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 0), (0.2, 0), (0.2, 12), (0.0, 7), (1.0, 0)])
def test_hard_pixels_are_those_below_the_threshold_and_at_least_the_hardest_few(
    threshold: float, min_kept: int
) -> None:
    logits, labels = example()
    losses = F.cross_entropy(*picked(logits, labels), reduction="none").sort(descending=True).values
    hard = int((torch.exp(-losses) <= threshold).sum())
    assert 0 < hard < len(losses) or threshold in (0.0, 1.0)  # else the case shows nothing
    kept = max(hard, min_kept * 2)
    found = hard_pixels(logits, labels, threshold=threshold, min_kept=min_kept)
    assert_close(found, losses[:kept].mean())


def test_fewer_pixels_than_are_to_be_kept_are_all_kept_and_void_is_none_of_them() -> None:
    logits, labels = example()
    labels[:, 1:] = 255
    assert_close(
        hard_pixels(logits, labels, threshold=0.1, min_kept=1000), F.cross_entropy(*picked(logits, labels))
    )


def test_dice_is_one_minus_twice_the_overlap_of_each_class_that_occurs() -> None:
    logits, labels = example()
    labels[labels == 2] = 1
    rows, truth = picked(logits, labels)
    p = rows.softmax(1)
    terms = []
    for k in (0, 1, 3):
        mine = truth == k
        terms.append(1 - 2 * p[mine, k].sum() / (p[:, k].sum() + mine.sum()))
    assert_close(dice(logits, labels), torch.stack(terms).mean())
    certain = F.one_hot(torch.tensor([[[0, 1], [3, 3]]]), CLASSES).permute(0, 3, 1, 2) * 100.0
    assert_close(dice(certain, torch.tensor([[[0, 1], [3, 3]]], dtype=torch.uint8)), torch.tensor(0.0))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_void_alone_has_loss_0_and_no_gradient(name: str) -> None:
    logits, labels = example()
    logits.requires_grad_()
    loss = LOSSES[name](logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_void_pixels_pass_no_gradient_and_bf16_logits_are_taken_as_float32(name: str) -> None:
    logits, labels = example()
    logits.requires_grad_()
    LOSSES[name](logits, labels).backward()
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[labels == 255].any()
    assert logits.grad.permute(0, 2, 3, 1)[labels != 255].any()
    coarse = logits.detach().bfloat16()
    assert LOSSES[name](coarse, labels).dtype == torch.float32
    assert_close(LOSSES[name](coarse, labels), LOSSES[name](coarse.float(), labels))


@pytest.mark.parametrize("name", LOSSES)
def test_the_layout_in_memory_changes_nothing(name: str) -> None:
    logits, labels = example()
    last: dict[str, Any] = {"memory_format": torch.channels_last}
    assert_close(LOSSES[name](logits.contiguous(**last), labels), LOSSES[name](logits, labels))


def test_a_pixel_that_is_all_but_certain_has_a_finite_focal_gradient() -> None:
    logits = torch.tensor([200.0, 0, 0, 0]).view(1, 4, 1, 1).requires_grad_()
    focal(logits, torch.zeros(1, 1, 1, dtype=torch.uint8), gamma=1.0).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
