"""Oracles: sums written out joint by joint, and the likelihood worked out by hand."""

import math
from typing import Any

import pytest
import torch
from people import JOINTS, PERSON, make_batch, nonzero_gradients, spread
from torch.testing import assert_close

from cvtasks.models.pose.regression import PoseRegression, residual_log_likelihood
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.poses import places
from cvtasks.nn.real_nvp import RealNVP


def make(**settings: Any) -> PoseRegression:
    torch.manual_seed(0)
    model = PoseRegression(tiny(width=16), classes=PERSON, **settings)
    spread(model, regressor__joints=0.02)
    return model.eval()


@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1"])
def test_the_loss_is_the_mean_over_labelled_joints_alone(kind: Any) -> None:
    model, batch = make(loss=kind, beta=0.05), make_batch()
    assert batch.visible is not None
    assert batch.keypoints is not None
    batch.visible[0, 0, ::2] = 0
    batch.visible[1, 0, 5] = 1  # hidden, and labelled all the same
    batch.keypoints[0, 0, ::2] = math.nan
    found = model.regressor(model.regressor.backbone.normalize(batch.images, batch.sizes)).places
    losses = []
    for n, (height, width) in enumerate(batch.sizes.tolist()):
        for joint in range(JOINTS):
            if batch.visible[n, 0, joint] == 0:
                continue
            x, y = batch.keypoints[n, 0, joint].tolist()
            for off in (found[n, joint, 0] - (x / width - 0.5), found[n, joint, 1] - (y / height - 0.5)):
                size = off.abs()
                smooth = size**2 / 0.1 if size < 0.05 else size - 0.025
                losses.append({"l2": off**2, "l1": size, "smooth_l1": smooth}[kind])
    expected = torch.stack(losses).sum() / int((batch.visible > 0).sum())
    assert_close(model.losses(batch)["keypoints"], expected)
    model.losses(batch)["keypoints"].backward()
    assert len(nonzero_gradients(model)) > 10
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_residual_log_likelihood_is_worked_out_by_hand() -> None:
    flow = RealNVP()
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)  # the standard normal
    mean, sigma = torch.tensor([[[0.1, 0.2]]]), torch.tensor([[[0.5, 0.25]]])
    truth = torch.tensor([[[0.3, -0.3]]])
    by_hand = 0.0
    for error, s in ((0.2 / 0.5, 0.5), (-0.5 / 0.25, 0.25)):
        by_hand -= math.log(0.5 * math.exp(-abs(error)))  # Q, the Laplace distribution
        by_hand -= math.log(math.exp(-(error**2) / 2) / math.sqrt(2 * math.pi))  # G
        by_hand += math.log(s)
    assert residual_log_likelihood(mean, sigma, truth, flow).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_flow_is_the_density_of_the_normalised_error() -> None:
    torch.manual_seed(0)
    flow = RealNVP()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mean, truth = torch.randn(2, 4, 7, 2)
    sigma = torch.rand(4, 7, 2) + 0.1
    error = (truth - mean) / sigma
    laplace = torch.distributions.Laplace(0.0, 1.0).log_prob(error)
    expected = sigma.log().sum(-1) - laplace.sum(-1) - flow.log_density(error)
    assert_close(residual_log_likelihood(mean, sigma, truth, flow), expected)
    mirrored = residual_log_likelihood(-mean, sigma, -truth, flow)
    assert not torch.allclose(
        mirrored, expected
    )  # truth - place, in this order: a flow need not be symmetric


def test_with_rle_sigma_learns_how_far_off_joints_are_and_tells_the_score() -> None:
    torch.manual_seed(0)
    flow = RealNVP()
    noise = torch.tensor([0.02, 0.2])[:, None, None] * torch.randn(
        2, 256, 2
    )  # of a sure joint and an unsure one
    logits = torch.zeros(2, 1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits, *flow.parameters()], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        residual_log_likelihood(
            torch.zeros(2, 256, 2), logits.sigmoid().expand(2, 256, 2), noise, flow
        ).mean().backward()
        optimizer.step()
    sure, unsure = logits.sigmoid().mean((1, 2)).tolist()
    assert 5 < unsure / sure < 15  # ten times, on its way


def test_with_rle_unlabelled_joints_neither_count_nor_spoil_a_gradient() -> None:
    model, batch = make(loss="rle"), make_batch()
    assert batch.visible is not None
    assert batch.keypoints is not None
    batch.visible[:, 0, 3] = 0
    expected = model.losses(batch)["keypoints"]
    batch.keypoints[:, 0, 3] = 1e9
    found = model.losses(batch)["keypoints"]
    assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_flow_has_no_part_in_predictions_and_sigma_makes_the_scores() -> None:
    model, batch = make(loss="rle"), make_batch()
    joints = model.regressor(model.regressor.backbone.normalize(batch.images, batch.sizes))
    assert joints.sigma is not None
    first = model.predict(batch)
    assert_close(first[1]["keypoint_scores"][0], 1 - joints.sigma[1].mean(-1))
    assert model.regressor.flow is not None
    for parameter in model.regressor.flow.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    assert torch.equal(model.predict(batch)[1]["keypoints"], first[1]["keypoints"])
    assert make().predict(batch)[0]["keypoint_scores"].tolist() == [[1.0] * JOINTS]


def test_predictions_are_places_in_the_file_and_learning_the_truth_predicts_it() -> None:
    model, batch = make(), make_batch()
    assert batch.keypoints is not None
    truth, _ = places(batch)
    model.regressor.joints.weight.data.zero_()
    model.regressor.joints.bias.data = truth[1].flatten()
    assert_close(model.predict(batch)[1]["keypoints"], 2 * batch.keypoints[1])


def test_a_mirrored_image_has_mirrored_joints_with_left_and_right_exchanged() -> None:
    model, batch = make(eval_flip=True), make_batch()
    width = batch.orig_sizes[0, 1].item()
    other = make_batch()
    for n, side in enumerate(batch.sizes[:, 1].tolist()):
        other.images[n, :, :, :side] = batch.images[n, :, :, :side].flip(2)
    order = list(PERSON.flip_index)
    for one, two in zip(model.predict(batch), model.predict(other), strict=True):
        expected = one["keypoints"][:, order] * torch.tensor([-1, 1]) + torch.tensor([width, 0])
        assert_close(two["keypoints"], expected, rtol=1e-4, atol=1e-3)
    plain = make().predict(batch)[0]["keypoints"]
    assert not torch.allclose(plain, model.predict(batch)[0]["keypoints"])
