"""Faster R-CNN's four steps: what learns in each, from which maps and proposals, and what detects."""

from __future__ import annotations

import copy

import pytest
import torch
from region_scenes import scenes

from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.nn.alternating import AlternatingDetector
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.types import ClassInfo

LEARNS = [
    {"first", "proposer"},
    {"backbone", "neck", "heads"},
    {"proposer"},
    {"heads"},
]


def make(training: str = "alternating", **settings: object) -> AlternatingDetector:
    torch.manual_seed(0)
    return faster_rcnn(  # type: ignore[return-value]
        tiny(width=16),
        classes=ClassInfo(("a", "b", "c")),
        fpn_channels=16,
        anchor_sizes=((12,), (24,), (32,), (48,)),
        head_channels=32,
        rpn_proposals_train=50,
        rpn_proposals_test=20,
        training=training,  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
    )


def test_each_step_trains_its_own_parts() -> None:
    model, batch = make(), scenes()
    for step, parts in enumerate(LEARNS):
        model.begin_stage(step, iter(()))
        model.train()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        optimizer.zero_grad()
        losses = model.losses(batch)
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        after = model.state_dict()
        moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
        assert moved == parts
        taught = {name for name, value in losses.items() if value > 0}
        assert taught == (
            {"rpn_objectness", "rpn_box"} if step in (0, 2) else {"classification", "box_regression"}
        )


def test_the_two_networks_begin_as_one_and_the_second_does_not_see_what_the_first_has_learnt() -> None:
    model = make()
    initial = copy.deepcopy(model.backbone.state_dict())
    model.begin_stage(0, iter(()))
    with torch.no_grad():
        for parameter in model.first.parameters():
            parameter.add_(1)
    model.begin_stage(1, iter(()))
    assert all(torch.equal(value, initial[name]) for name, value in model.backbone.state_dict().items())


def test_until_the_third_step_proposals_are_made_of_maps_of_their_own() -> None:
    model, batch = make().eval(), scenes()
    model.begin_stage(1, iter(()))
    first = model.propose(model.maps(batch), batch).boxes
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(0.5)
    assert torch.equal(model.propose(model.maps(batch), batch).boxes, first)
    model.begin_stage(2, iter(()))
    shared = model.propose(model.maps(batch), batch).boxes
    with torch.no_grad():
        for parameter in model.first.parameters():
            parameter.mul_(0)
    assert torch.equal(model.propose(model.maps(batch), batch).boxes, shared)


def test_the_proposal_network_begins_anew_on_the_shared_maps() -> None:
    model = make()
    model.begin_stage(1, iter(()))
    before = model.proposer.objectness.weight.clone()
    model.begin_stage(2, iter(()))
    assert not torch.equal(model.proposer.objectness.weight, before)
    after = model.proposer.objectness.weight.clone()
    model.begin_stage(3, iter(()))
    assert torch.equal(model.proposer.objectness.weight, after)


def test_what_does_not_learn_keeps_its_running_statistics_and_frozen_stages_stay_frozen() -> None:
    torch.manual_seed(0)
    backbone = tiny(width=16, norm="batch", freeze_until="c2")
    model = faster_rcnn(
        backbone,
        classes=ClassInfo(("a", "b")),
        levels=("c3",),
        fpn_channels=None,
        anchor_sizes=((12, 24),),
        head_channels=32,
        training="alternating",
    )
    assert isinstance(model, AlternatingDetector)
    batch = scenes()
    batch.labels.clamp_(max=1)
    for step in range(4):
        model.begin_stage(step, iter(()))
        model.train()
        before = copy.deepcopy(model.state_dict())
        model.losses(batch)
        changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
        own = {0: "first.backbone.", 1: "backbone."}.get(step)
        assert all("running" in n or "num_batches" in n for n in changed)
        assert bool(changed) == (own is not None)
        assert all(n.startswith(str(own)) for n in changed)
        frozen = ("backbone.stem", "backbone.layer1", "first.backbone.stem", "first.backbone.layer1")
        assert not [n for n, p in model.named_parameters() if n.startswith(frozen) and p.requires_grad]
        assert not [n for n in changed if n.startswith(frozen)]


def test_a_checkpoint_knows_its_step() -> None:
    model, other, batch = make().eval(), make().eval(), scenes()
    model.begin_stage(2, iter(()))
    other.load_state_dict(model.state_dict())
    assert other.stage == 2
    for one, two in zip(model.predict(batch), other.predict(batch), strict=True):
        assert torch.equal(one["boxes"], two["boxes"])


def test_joint_training_is_as_it_was() -> None:
    model = make("joint")
    assert type(model) is RegionDetector
    assert not [name for name in model.state_dict() if name.startswith(("first", "stage"))]


@pytest.mark.parametrize("step", range(4))
def test_training_is_finite_without_an_object(step: int) -> None:
    model, batch = make(), scenes()
    assert batch.valid is not None
    batch.valid[:] = False
    model.begin_stage(step, iter(()))
    assert all(value.isfinite() for value in model.losses(batch).values())
