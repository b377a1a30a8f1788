"""Oracle: the same sums over the selected values, written out."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from cvtasks.ops.losses import RegressionKind, focal, masked_sum, regression, smooth_l1


def test_a_masked_sum_is_the_sum_of_what_was_selected_and_passes_no_gradient_elsewhere() -> None:
    values = torch.tensor([1.0, 2, float("nan"), 4], requires_grad=True)
    mask = torch.tensor([True, False, False, True])
    total = masked_sum(values, mask)
    total.backward()
    assert total.item() == 5
    assert values.grad is not None
    assert values.grad.tolist() == [1, 0, 0, 1]


def test_smooth_l1_is_squared_below_beta_and_linear_above() -> None:
    predicted = torch.tensor([[0.05, 0, 0, 0], [2, 0, 0, 0]])
    by_hand = torch.tensor([0.5 * 0.05**2 / 0.1, 2 - 0.05])
    assert_close(smooth_l1(predicted, torch.zeros(2, 4), beta=0.1), by_hand)
    assert_close(smooth_l1(predicted, torch.zeros(2, 4), beta=0), torch.tensor([0.05, 2]))


@pytest.mark.parametrize(
    ("kind", "by_hand"),
    [("l2", 0.3**2 + 0.05**2), ("l1", 0.35), ("smooth_l1", (0.3 - 0.05) + 0.5 * 0.05**2 / 0.1)],
)
def test_a_regression_loss_is_summed_over_the_coordinates(kind: RegressionKind, by_hand: float) -> None:
    predicted, target = torch.tensor([[[0.5, 0.25]]]), torch.tensor([[[0.2, 0.3]]])
    found = regression(kind, predicted, target, beta=0.1)
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(by_hand)


def test_smooth_l1_is_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 50, 4, generator=generator)
    expected = torch.nn.SmoothL1Loss(beta=0.4, reduction="sum")(predicted, target)
    assert_close(regression("smooth_l1", predicted, target, beta=0.4).sum(), expected)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (0.5, 0.0)])
def test_the_focal_loss_and_its_gradient_are_torchvisions_where_an_anchor_is_positive_or_negative(
    alpha: float, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 40, 5, generator=generator)).requires_grad_()
    labels = torch.randint(0, 5, (2, 40), generator=generator)
    kind = torch.randint(0, 3, (2, 40), generator=generator)
    positive, negative = kind == 0, kind == 1
    found = focal(logits, labels, positive=positive, negative=negative, alpha=alpha, gamma=gamma)
    targets = torch.nn.functional.one_hot(labels, 5) * positive[..., None]
    each = sigmoid_focal_loss(logits, targets.float(), alpha=alpha, gamma=gamma)
    expected = (each * (positive | negative)[..., None]).sum((1, 2))
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(values.sum(), logits)[0] for values in (found, expected)))


def test_the_focal_loss_of_scores_that_are_far_off_has_a_finite_gradient() -> None:
    logits = torch.tensor([[[-500.0, 500.0], [500.0, -500.0]]], requires_grad=True)
    flags = torch.tensor([[True, False]])
    for gamma in (0.5, 2.0):
        loss = focal(
            logits, torch.zeros(1, 2).long(), positive=flags, negative=~flags, alpha=0.25, gamma=gamma
        )
        assert loss.item() == pytest.approx(0.25 * 500 + 2 * 0.75 * 500)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert_close(gradient, torch.tensor([[[-0.25, 0.75], [0.75, 0]]]))
