"""Oracles: crops of an image that says where each of its pixels is, networks that know the truth, NumPy's statistics."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from people import JOINTS, PERSON, Pixels, make_batch, nonzero_gradients, spread
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.engine.optim import parameter_groups
from cvtasks.models.pose.deeppose import DeepPose
from cvtasks.models.pose.regression import Joints, PoseRegression
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.poses import places
from cvtasks.types import Batch, ClassInfo, Prediction

SHOULDER, HIP = PERSON.keypoint_names.index("left shoulder"), PERSON.keypoint_names.index("right hip")


def make(**settings: Any) -> DeepPose:
    torch.manual_seed(0)
    model = DeepPose(tiny(width=16), classes=PERSON, **{"crop_size": 32} | settings)
    spread(model, **{f"regressors__{n}__joints": 0.01 for n in range(len(model.stages))})
    return model.eval()


def predictions(model: DeepPose, *batches: Batch) -> Iterator[tuple[Batch, list[Prediction]]]:
    return ((batch, model.predict(batch)) for batch in batches)


def through_all_stages(model: DeepPose, batch: Batch) -> DeepPose:
    for n in range(1, len(model.stages)):
        model.begin_stage(n, predictions(model, batch))
    return model


class Knows(nn.Module):
    """A network that says what it is told to, whatever it sees; `seen` keeps that."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers, self.seen = list(answers), list[Tensor]()
        self.backbone = Pixels()

    def forward(self, images: Tensor) -> Joints:
        self.seen.append(images)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Joints(answer.expand(len(images), -1, -1), None)

    def losses(self, joints: Joints, truth: Tensor) -> Tensor:
        self.truth = truth
        return (joints.places - truth).square().sum(-1)


def told(*networks: nn.Module, **settings: Any) -> DeepPose:
    model = DeepPose(Pixels(), classes=PERSON, cascade=len(networks), **settings)
    model.regressors = nn.ModuleList(networks)
    model.stage = len(networks) - 1
    return model.eval()


def map_of_places(size: int) -> Tensor:
    """A uint8 image [3, S, S] that holds in x and in y where each pixel's middle is, times two."""
    line = (2 * torch.arange(size) + 1).to(torch.uint8)
    return torch.stack(
        [line.expand(size, size), line[:, None].expand(size, size), torch.zeros_like(line).expand(size, size)]
    )


def test_the_first_stage_is_pose_regression() -> None:
    model, batch = make(cascade=1), make_batch()
    other = PoseRegression(tiny(width=16), classes=PERSON).eval()
    other.regressor.load_state_dict(model.regressors[0].state_dict())
    assert_close(model.losses(batch), other.losses(batch))
    for one, two in zip(model.predict(batch), other.predict(batch), strict=True):
        assert torch.equal(one["keypoints"], two["keypoints"])
        assert torch.equal(one["stages"], two["keypoints"])


def test_a_crop_shows_what_lies_around_the_joint_and_grey_outside_the_image() -> None:
    size, batch = 64, make_batch(1)
    batch.images = map_of_places(size)[None]
    middles = torch.rand(1, JOINTS, 2) * 0.5 - 0.25
    middles[0, 0] = torch.tensor([-0.5, 0.5])  # a corner of the image
    middles[0, SHOULDER], middles[0, HIP] = torch.tensor([0.1, -0.1]), torch.tensor([-0.025, 0.0])
    second = Knows(torch.zeros(1, JOINTS, 2))
    model = told(Knows(middles), second, crop_scale=1.5, crop_size=12, learn_joints=None)
    model.predict(batch)
    (crops,) = second.seen
    side = 1.5 * math.hypot(0.125, 0.1) * size
    assert crops.shape == (JOINTS, 3, 12, 12)
    steps = ((torch.arange(12) + 0.5) / 12 - 0.5) * side
    for joint in (3, SHOULDER, HIP):
        x, y = ((middles[0, joint] + 0.5) * size).tolist()
        assert_close(crops[joint, 0, 4] * 255 / 2, x + steps, atol=1e-3, rtol=1e-3)
        assert_close(crops[joint, 1, :, 4] * 255 / 2, y + steps, atol=1e-3, rtol=1e-3)
    assert crops[0, :, :, 0].abs().max() == 0
    assert crops[0, 1, 0, 11] > 0


def test_a_displacement_is_in_sides_of_the_crop_and_each_joint_takes_its_own() -> None:
    batch = make_batch(2)
    first = torch.rand(1, JOINTS, 2) * 0.5 - 0.25
    moves = [torch.rand(1, JOINTS, 2) * 0.2 - 0.1 for _ in range(2)]
    model = told(Knows(first), *map(Knows, moves), crop_scale=2.0, crop_size=4)
    for n, prediction in enumerate(model.predict(batch)):
        extent = batch.orig_sizes[n].flip(0)
        joints = (first[0] + 0.5) * extent
        assert_close(prediction["stages"][0], joints)
        for stage, move in enumerate(moves, start=1):
            joints = joints + move[0] * 2 * (joints[SHOULDER] - joints[HIP]).norm()
            assert_close(prediction["stages"][stage], joints, rtol=1e-4, atol=1e-3)
        assert torch.equal(prediction["keypoints"][0], prediction["stages"][-1])


def test_what_a_later_stage_learns_brings_it_to_the_truth() -> None:
    # The same crop and unit in training and in prediction: a network that answers its own target ends at the truth.
    batch = make_batch(2)
    truth, _ = places(batch)
    model = told(
        Knows(truth[:1]), Knows(torch.zeros(1, 1, 2).expand(1, JOINTS, 2)), learn_joints=None, crop_size=4
    )
    model.error_std[1] = 0.05
    middles = []
    crops = model._crops
    model._crops = lambda images, middle, side: (middles.append((middle, side)), crops(images, middle, side))[
        1
    ]  # type: ignore[assignment]
    model.losses(batch)
    ((middle, side),) = middles
    assert batch.keypoints is not None
    moved = middle + model.regressors[1].truth.view(2, JOINTS, 2) * side  # type: ignore[operator]
    ordered = moved.flatten(1, 2).sort(1).values
    assert_close(ordered, batch.keypoints[:, 0].flatten(1, 2).sort(1).values, rtol=1e-4, atol=1e-3)
    assert (middle - moved).abs().max() > 1


def test_errors_are_measured_on_the_training_images_joint_by_joint() -> None:
    model, batches = make(cascade=2), [make_batch(3), make_batch(2)]
    for number, batch in enumerate(batches):
        assert batch.keypoints is not None
        assert batch.visible is not None
        batch.keypoints += number
        batch.visible[0, 0, 4] = 0
        batch.keypoints[0, 0, 4] = math.nan
        batch.visible[:, 0, 7] = 0
    errors: list[list[np.ndarray]] = [[] for _ in range(JOINTS)]
    shares = []
    for batch in batches:
        for n, prediction in enumerate(model.predict(batch)):
            extent = batch.sizes[n].flip(0)
            found = prediction["keypoints"][0] / 2
            assert batch.boxes is not None
            low, high = batch.boxes[n, 0].split(2)
            shares.append(((found[SHOULDER] - found[HIP]).norm() / (high - low).norm()).item())
            for joint in batch.visible[n, 0].nonzero()[:, 0].tolist():
                errors[joint].append(((found[joint] - batch.keypoints[n, 0, joint]) / extent).numpy())
    model.begin_stage(1, predictions(model, *batches))
    for joint in range(JOINTS):
        if joint == 7:
            assert not model.error_std[1, joint].any()
            continue
        assert len(errors[joint]) == (3 if joint == 4 else 5)
        assert_close(model.error_mean[1, joint].numpy(), np.mean(errors[joint], 0), rtol=1e-3, atol=1e-5)
        assert_close(model.error_std[1, joint].numpy(), np.std(errors[joint], 0), rtol=1e-3, atol=1e-5)
    assert model.torso_share.item() == pytest.approx(np.mean(shares), rel=1e-4)


def test_training_crops_are_displaced_as_the_stage_before_errs() -> None:
    batch = make_batch(2)
    model = told(
        Knows(torch.zeros(1, JOINTS, 2)), Knows(torch.zeros(1, JOINTS, 2)), learn_joints=None, crop_size=1
    )
    torch.manual_seed(0)
    model.error_mean[1] = 0.1 * torch.randn(JOINTS, 2)
    model.error_std[1] = 0.02 + 0.1 * torch.rand(JOINTS, 2)
    drawn: list[Tensor] = []
    index: list[Tensor] = []
    model._crops = lambda images, middle, side: (
        drawn.append(middle),
        images[:1, :, :4, :4].repeat(2 * JOINTS, 1, 1, 1),
    )[1]  # type: ignore[assignment]
    topk = Tensor.topk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "topk", lambda *a, **k: (index.append(topk(*a, **k)[1]), topk(*a, **k))[1])
        for _ in range(400):
            model.losses(batch)
    truth, _ = places(batch)
    middles = torch.stack(drawn) / batch.sizes.flip(1)[:, None] - 0.5
    errors = torch.zeros_like(middles)
    for n, (middle, chosen) in enumerate(zip(middles, index, strict=True)):
        errors[n].scatter_(
            1,
            chosen[..., None].expand(-1, -1, 2),
            middle - truth.gather(1, chosen[..., None].expand(-1, -1, 2)),
        )
    assert_close(errors.mean((0, 1)), model.error_mean[1], rtol=0, atol=0.02)
    assert_close(errors.flatten(0, 1).std(0), model.error_std[1], rtol=0.12, atol=0)


def test_only_labelled_joints_are_drawn_to_learn_from() -> None:
    batch = make_batch(3)
    assert batch.visible is not None
    assert batch.keypoints is not None
    batch.visible[0, 0, 2:] = 0  # two of them are left
    batch.visible[1, 0, :] = 0
    batch.keypoints[1] = math.nan
    network = Knows(torch.full((1, JOINTS, 2), 0.5))
    model = told(Knows(torch.zeros(1, JOINTS, 2)), network, learn_joints=4, crop_size=2)
    loss = model.losses(batch)["keypoints"]
    each = (0.5 - network.truth[:, 0]).square().sum(-1).view(3, 4)
    assert_close(loss, (each[0, :2].sum() + each[2].sum()) / 6)
    assert len(network.seen[0]) == 3 * 4


def test_without_shoulder_and_hip_the_persons_box_is_the_measure() -> None:
    batch = make_batch(2)
    model = told(Knows(torch.zeros(1, JOINTS, 2)), crop_scale=1.5)
    assert batch.boxes is not None
    joints = torch.zeros(2, JOINTS, 2)
    joints[:, SHOULDER] = torch.tensor([3.0, 4.0])
    low, high = batch.boxes[:, 0].split(2, 1)
    diagonal = (high - low).norm(dim=1)
    labelled = torch.ones(2, JOINTS, dtype=torch.bool)
    labelled[1, HIP] = False
    model.torso_share.fill_(0.25)
    found = model._crop_sides(joints * diagonal[:, None, None], batch, labelled)
    assert_close(found.flatten(), 1.5 * torch.stack([5 * diagonal[0], 0.25 * diagonal[1]]))
    # Joints that were found in one place would leave nothing to see.
    assert_close(model._crop_sides(torch.zeros(2, JOINTS, 2), batch).flatten(), 1.5 * 0.1 * diagonal)
    face = DeepPose(Pixels(), classes=ClassInfo(("face",), keypoint_names=("nose", "chin")), crop_scale=1.5)
    assert_close(face._crop_sides(torch.zeros(2, 2, 2), batch).flatten(), 1.5 * diagonal)


def test_each_stage_trains_its_own_network_alone_and_predicts_with_those_before() -> None:
    model, batch = make(), make_batch()
    model.train()
    assert model.stages == ("stage 1", "stage 2", "stage 3")
    for stage in range(3):
        model.begin_stage(stage, predictions(model.eval(), batch) if stage else iter(()))
        model.train()
        model.zero_grad(set_to_none=True)
        model.losses(batch)["keypoints"].backward()
        assert {name.split(".")[1] for name in nonzero_gradients(model)} == {str(stage)}
        wants = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
        assert wants == {str(stage)}
        assert all(p.grad is not None for p in model.regressors[stage].parameters())
        assert len(model.eval().predict(batch)[0]["stages"]) == stage + 1


def test_a_stage_that_is_done_keeps_its_batch_norm_and_a_frozen_backbone_stays_frozen() -> None:
    backbone = resnet(depth=18, norm="batch", freeze_until="layer2")
    model, batch = DeepPose(backbone, classes=PERSON, cascade=2, crop_size=32).eval(), make_batch()
    model.begin_stage(1, predictions(model, batch))
    model.train()
    before = copy.deepcopy(model.state_dict())
    model.losses(batch)["keypoints"].backward()
    moved = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    layers = {tuple(name.split(".")[1:4]) for name in moved}
    assert layers == {("1", "backbone", "layer3"), ("1", "backbone", "layer4")}
    learning = {tuple(name.split(".")[1:4]) for name in nonzero_gradients(model)}
    assert learning == layers | {("1", "joints", "weight"), ("1", "joints", "bias")}


@pytest.mark.parametrize("start", ["previous", "backbone"])
def test_a_later_stage_begins_where_it_is_told_to(start: Any) -> None:
    model, batch = make(cascade=2, start=start), make_batch()
    for parameter in model.regressors[0].parameters():
        parameter.data += 0.01
    first, own = (copy.deepcopy(model.regressors[n].state_dict()) for n in range(2))
    model.begin_stage(1, predictions(model, batch))
    expected = first if start == "previous" else own
    assert all(
        torch.equal(values, expected[name]) for name, values in model.regressors[1].state_dict().items()
    )


def test_a_loaded_model_is_in_the_stage_in_which_it_was_saved() -> None:
    model, batch = make(), make_batch()
    model.begin_stage(1, predictions(model, batch))
    other = make()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert other.stage == 1
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    for one, two in zip(model.predict(batch), other.predict(batch), strict=True):
        assert torch.equal(one["stages"], two["stages"])
    other.begin_stage(0, iter(()))
    assert int(other.state_dict()["stage_number"]) == 0


@pytest.mark.parametrize("loss", ["l1", "rle"])
def test_every_loss_goes_through_the_cascade(loss: Any) -> None:
    model, batch = make(loss=loss), make_batch()
    through_all_stages(model, batch)
    model.losses(batch)["keypoints"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.regressors[2].parameters())
    scores = model.predict(batch)[0]["keypoint_scores"]
    assert (scores < 1).all() == (loss == "rle")


def test_each_stage_comes_closer() -> None:
    """Dots on a plain ground, one for each of four joints, in its own colour."""
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    names = ("left shoulder", "right hip", "nose", "chin")

    def people(seed: int, images: int = 32, size: int = 32) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        joints = 4 + (size - 8) * torch.rand(images, 4, 2, generator=generator)
        joints[:, 1] = joints[:, 0].flip(1).clamp(8, 24)
        joints[:, 0] = joints[:, 1] + torch.tensor([6.0, -6.0])
        pixels = torch.full((images, 3, size, size), 90, dtype=torch.uint8)
        centres = torch.arange(size) + 0.5
        for joint, color in enumerate(colors):
            x, y = joints[:, joint, :, None, None].unbind(1)
            near = (centres - x).abs().maximum((centres[:, None] - y).abs()) < 2
            pixels = torch.where(near[:, None], color[:, None, None], pixels)
        sizes = torch.full((images, 2), size)
        return Batch(
            pixels,
            sizes,
            sizes,
            list(range(images)),
            valid=torch.ones(images, 1, dtype=torch.bool),
            boxes=torch.tensor([[[0.0, 0, size, size]]]).repeat(images, 1, 1),
            keypoints=joints[:, None],
            visible=torch.full((images, 1, 4), 2),
        )

    torch.manual_seed(0)
    person = ClassInfo(("person",), keypoint_names=names, flip_index=(0, 1, 2, 3))
    model = DeepPose(tiny(width=16, norm="batch"), classes=person, crop_size=32, bins=1)
    for stage in range(3):
        if stage:
            model.begin_stage(stage, predictions(model.eval(), people(10**6), people(10**6 + 1)))
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for step in range(60):
            optimizer.zero_grad()
            model.losses(people(step))["keypoints"].backward()
            optimizer.step()
    model.eval()
    unseen = people(10**7, images=64)
    assert unseen.keypoints is not None
    found = torch.stack([prediction["stages"] for prediction in model.predict(unseen)], 1)
    first, second, third = (found - unseen.keypoints[:, 0]).norm(dim=-1).mean((1, 2)).tolist()
    assert second < 0.8 * first
    assert third < 0.9 * second


def test_joints_are_looked_at_in_parts_that_change_nothing() -> None:
    batch = make_batch(2)
    model = through_all_stages(make(cascade=2), batch)
    few = model.predict(batch)
    model.learn_joints = None
    for one, two in zip(few, model.predict(batch), strict=True):
        assert_close(one["stages"], two["stages"], rtol=1e-4, atol=1e-3)


def test_every_stages_backbone_has_the_backbones_rate() -> None:
    model, batch = make(cascade=2), make_batch(2)
    model.begin_stage(1, predictions(model, batch))
    groups = parameter_groups(model, lr=1.0, weight_decay=0.0, backbone_lr_factor=0.1)
    slow = {id(p) for group in groups if group["lr"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in model.regressors[1].backbone.parameters()}
