"""SVMs against scikit-learn's LinearSVC, and the mining of hard negatives by hand."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from cvtasks.nn.svm import NEVER, LinearSvms, _OneClass, solve


def examples(count: int, width: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features, positive = (
        torch.randn(count, width, generator=generator).abs(),
        torch.arange(count) < count // 5,
    )
    features[positive, : width // 4] += apart
    return features * 20 / features.norm(dim=1).mean(), positive


@pytest.mark.parametrize(
    ("count", "width", "apart", "cost"),
    [
        (300, 20, 0.5, 1e-3),
        (400, 64, 0.3, 1e-3),
        (60, 5, 3.0, 1e-3),
        (120, 200, 0.2, 1e-2),
        (500, 16, 0.1, 0.1),
    ],
)
def test_an_svm_is_that_of_scikit_learn(count: int, width: int, apart: float, cost: float) -> None:
    # Separable and not, more features than examples and fewer; liblinear itself, at a tolerance that takes it long.
    features, positive = examples(count, width, apart)
    weight, bias = solve(features, positive, cost=cost, positive_weight=2.0)
    other = LinearSVC(
        loss="hinge", C=cost, intercept_scaling=10, class_weight={1: 2, 0: 1}, tol=1e-9, max_iter=10**6
    )
    other.fit(features.double().numpy(), positive.numpy())
    np.testing.assert_allclose(weight.numpy(), other.coef_[0], atol=1e-6)
    np.testing.assert_allclose(float(bias), other.intercept_[0], atol=1e-5)


def test_the_optimum_is_no_worse_than_anything_near_it() -> None:
    features, positive = examples(200, 12, 0.3)
    weight, bias = solve(features.double(), positive)

    def value(weight: Tensor, bias: Tensor) -> Tensor:
        margins = (features.double() @ weight + bias) * (positive.double() * 2 - 1)
        costs = torch.where(positive, 2e-3, 1e-3)
        return (weight.square().sum() + (bias / 10).square()) / 2 + (costs * (1 - margins).clamp(min=0)).sum()

    for _ in range(50):
        assert value(weight, bias) <= value(
            weight + 1e-3 * torch.randn_like(weight), bias + 1e-2 * torch.randn_like(bias)
        )


def test_it_is_the_same_twice_to_the_last_bit() -> None:
    features, positive = examples(300, 20, 0.4)
    one, two = solve(features, positive), solve(features, positive)
    assert all(map(torch.equal, one, two))


def image(features: Tensor, *, objects: list[int], overlaps: Tensor, ignored: Tensor | None = None):
    count = len(features)
    return {
        "features": features.half(),
        "objects": torch.tensor(objects + [-1] * (count - len(objects))),
        "overlaps": overlaps,
        "ignored": torch.zeros(count, dtype=torch.bool) if ignored is None else ignored,
    }


def test_positives_are_true_boxes_and_negatives_overlap_less_than_0_3_and_are_not_ignored() -> None:
    # One class; of five regions one is the object, one overlaps it by 0.3, one is a crowd's: two are left as negatives.
    features = torch.eye(5) * 20
    overlaps = torch.tensor([[1.0], [0.3], [0.29], [0.0], [0.0]])
    ignored = torch.tensor([False, False, False, True, False])
    svms = LinearSvms(5, 1)
    assert svms.fit([image(features, objects=[0], overlaps=overlaps, ignored=ignored)]) == []
    positive = torch.tensor([True, False, False])
    weight, bias = solve(features[[0, 2, 4]], positive)
    torch.testing.assert_close(svms.weight[0], weight)
    torch.testing.assert_close(svms.bias[0], bias)
    assert svms.weight[0, 1] == svms.weight[0, 3] == 0
    torch.testing.assert_close(svms(features), (features @ weight + bias)[:, None])


def test_features_are_scaled_to_a_mean_norm_of_20() -> None:
    features, positive = examples(100, 8, 0.5)
    overlaps = positive.float()[:, None]
    objects = [0] * int(positive.sum())
    one, other = LinearSvms(8, 1), LinearSvms(8, 1)
    one.fit([image(features, objects=objects, overlaps=overlaps)])
    other.fit([image(features / 4, objects=objects, overlaps=overlaps)])
    torch.testing.assert_close(one(features), other(features / 4), atol=2e-3, rtol=1e-3)
    weight, bias = solve(features.half().float(), positive)
    torch.testing.assert_close(one(features)[:, 0], features @ weight + bias, atol=2e-3, rtol=1e-3)


def test_a_negative_beyond_the_margin_is_not_added_and_an_easy_one_is_dropped() -> None:
    one = _OneClass(torch.tensor([[20.0, 0.0]] * 50), 1e-3, 2.0)
    one.mine(torch.tensor([[0.0, 20.0]] * 40 + [[-60.0, 20.0]]))  # the first are all hard
    assert one.solved
    margins = torch.tensor([[0.0, 20.0], [-60.0, 20.0]]) @ one.weight + one.bias
    assert margins[1] < -1.2  # easy: forgotten at once
    assert len(one.negatives) == (40 if margins[0] >= -1.2 else 0)
    before = len(one.negatives)
    one.mine(torch.tensor([[-60.0, 20.0]] * 7))
    assert (len(one.negatives), one.new) == (before, 0)
    one.mine(torch.tensor([[10.0, 10.0]] * 7))
    assert (len(one.negatives), one.new) == (before + 7, 7)  # kept until 2,000 are new


def test_after_2000_new_negatives_the_svm_is_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from cvtasks.nn import svm

    monkeypatch.setattr(svm, "RETRAIN_AFTER", 20)
    one = _OneClass(torch.randn(10, 4) + 3, 1e-3, 2.0)
    one.mine(torch.randn(15, 4))
    first = one.weight
    one.mine(torch.randn(15, 4) + 1)
    assert torch.equal(one.weight, first)
    one.mine(torch.randn(15, 4) + 1)
    assert not torch.equal(one.weight, first)
    assert one.new == 0


def test_a_class_without_a_positive_is_named_and_never_found() -> None:
    features, positive = examples(40, 6, 0.5)
    overlaps = torch.stack([positive.float(), torch.zeros(40)], 1)
    svms = LinearSvms(6, 2)
    assert svms.fit([image(features, objects=[0] * int(positive.sum()), overlaps=overlaps)]) == [1]
    assert (svms(features)[:, 1] == NEVER).all()
    assert (svms(features).sigmoid()[:, 1] == 0).all()
    assert svms.weight.isfinite().all()  # a checkpoint refuses any other


def test_without_a_negative_and_without_an_image_there_is_a_result() -> None:
    svms = LinearSvms(3, 1)
    assert svms.fit([image(torch.eye(3), objects=[0, 0, 0], overlaps=torch.ones(3, 1))]) == []
    assert (svms(torch.eye(3)) > 0).all()
    assert svms.fit([]) == [0]
    assert svms.solved
