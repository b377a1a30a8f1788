"""Oracle: cases made so that the answer is known. Against torchvision's network: tests/models/test_faster_rcnn.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.nn import rpn as rpn_module
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.rpn import RegionProposalNetwork
from cvtasks.ops.matching import take
from cvtasks.types import Batch

SPECS = {"p3": FeatureSpec(8, 8), "p4": FeatureSpec(8, 16)}


def network(**settings: Any) -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(SPECS, anchor_sizes=[[16], [32]], anchor_ratios=[0.5, 1, 2], **settings)


def maps_of(images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        k: torch.randn(images, 8, 64 // s.stride, 64 // s.stride, generator=generator)
        for k, s in SPECS.items()
    }


def batch_of(boxes: list[list[list[float]]], ignore: list[list[bool]] | None = None) -> Batch:
    rows = max(1, *(len(b) for b in boxes))
    padded = torch.zeros(len(boxes), rows, 4)
    for image, image_boxes in enumerate(boxes):
        for row, box in enumerate(image_boxes):
            padded[image, row] = torch.tensor(box)
    sizes = torch.tensor([[64, 64]] * len(boxes))
    return Batch(
        images=torch.zeros(len(boxes), 3, 64, 64, dtype=torch.uint8),
        sizes=sizes,
        orig_sizes=sizes,
        image_ids=list(range(len(boxes))),
        valid=torch.arange(rows) < torch.tensor([len(b) for b in boxes])[:, None],
        boxes=padded,
        ignore=None if ignore is None else torch.tensor(ignore),
    )


OBJECTS = [[[8.0, 8, 24, 24], [20, 30, 60, 60]], []]


def test_proposals_are_a_fixed_number_inside_their_images_best_first() -> None:
    rpn = network(before_nms=(60, 40), after_nms=(50, 7))
    batch = batch_of(OBJECTS)
    batch.sizes = torch.tensor([[64, 64], [40, 30]])
    training, _ = rpn.learn(maps_of(2), batch)
    assert training.boxes.shape == (2, 50, 4)
    proposals = rpn.propose(maps_of(2), batch)
    assert proposals.boxes.shape == (2, 7, 4)
    assert proposals.valid.all()
    assert (proposals.boxes >= 0).all()
    assert (proposals.boxes[1] <= torch.tensor([30, 40, 30, 40])).all()
    assert (proposals.boxes[..., 2:] > proposals.boxes[..., :2]).all()


def test_an_anchor_that_scores_highest_is_the_first_proposal() -> None:
    rpn = network()
    for layer in (rpn.convs[0], rpn.offsets):
        torch.nn.init.zeros_(layer.weight)
    maps = {k: torch.zeros_like(m) for k, m in maps_of(1).items()}
    with torch.no_grad():
        rpn.objectness.bias.copy_(torch.tensor([-1.0, 2, -1]))  # the square one
    first = rpn.propose(maps, batch_of([[]])).boxes[0]
    sides = first[:, 2:] - first[:, :2]
    whole = (first.amin(1) > 0) & (first.amax(1) < 64)
    assert whole[:40].any()
    assert set(sides[:40][whole[:40]].flatten().tolist()) <= {16.0, 32.0}


def test_below_the_score_threshold_nothing_is_a_proposal_and_above_it_all_stay() -> None:
    batch, maps = batch_of([[], []]), maps_of(2)
    rpn = network(score_threshold=0.5)
    free, strict = network().propose(maps, batch), rpn.propose(maps, batch)
    assert 0 < strict.valid.sum() < free.valid.sum()
    for image in range(2):
        count = int(strict.valid[image].sum())
        # Best first: the valid ones are the free ones' beginning, which no worse box could suppress.
        assert_close(strict.boxes[image, :count], free.boxes[image, :count])
    with torch.no_grad():
        rpn.objectness.weight.zero_()
        rpn.objectness.bias.fill_(-1e-3)  # a probability just below one half
    assert not rpn.propose(maps, batch).valid.any()


@pytest.mark.parametrize("convs", [1, 2, 3])
def test_sampled_anchors_have_the_values_and_gradients_that_whole_maps_give_them(convs: int) -> None:
    rpn, batch = network(convs=convs), batch_of([[], []])
    for parameter in rpn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    maps = {k: m.requires_grad_() for k, m in maps_of(2).items()}
    scores, offsets, anchors = rpn(maps, batch)
    dense = torch.cat(scores, 1), torch.cat(offsets, 1)
    # All anchors once, those of every border too, in another order in each image.
    generator = torch.Generator().manual_seed(0)
    index = torch.rand(2, len(torch.cat(anchors)), generator=generator).argsort(1)
    sampled = rpn.sampled(maps, batch, index)
    factors = [torch.randn(t.shape, generator=generator) for t in dense]
    wanted = [*maps.values(), *rpn.parameters()]
    expected = torch.autograd.grad(sum((t * f).sum() for t, f in zip(dense, factors, strict=True)), wanted)  # type: ignore[arg-type]
    factors = [take(f, index) for f in factors]
    found = torch.autograd.grad(sum((t * f).sum() for t, f in zip(sampled, factors, strict=True)), wanted)  # type: ignore[arg-type]
    for got, want in zip(sampled, dense, strict=True):
        assert_close(got, take(want, index), rtol=1e-4, atol=1e-4)
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_another_shape_of_images_has_other_anchors_and_windows() -> None:
    rpn, batch = network(samples=10_000), batch_of(OBJECTS)
    before = rpn.learn(maps_of(2), batch)[1]
    wide = {k: torch.cat([m, m], dim=3) for k, m in maps_of(2).items()}
    larger = replace(batch, images=torch.zeros(2, 3, 64, 128, dtype=torch.uint8))
    assert_close(rpn.learn(wide, larger)[1], network(samples=10_000).learn(wide, larger)[1])
    assert_close(rpn.learn(maps_of(2), batch)[1], before)


def test_on_a_cpu_the_heads_get_no_more_padding_than_up_to_a_round_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proposals = network(score_threshold=0.5).propose(maps_of(2), batch_of([[], []]))
    most = int(proposals.valid.sum(1).max())
    assert most < proposals.valid.shape[1] <= most + rpn_module.HOST_STEP
    monkeypatch.setattr(rpn_module, "on_host", lambda _: False)
    whole = network(score_threshold=0.5).propose(maps_of(2), batch_of([[], []]))
    length = proposals.valid.shape[1]
    assert whole.valid.shape[1] > length
    assert not whole.valid[:, length:].any()
    assert torch.equal(whole.boxes[:, :length], proposals.boxes)


def test_losses_do_not_depend_on_padding() -> None:
    # With more samples than anchors all of them count, so nothing is left to chance.
    rpn, maps = network(samples=10_000), maps_of(2)
    batch = batch_of(OBJECTS)
    assert batch.boxes is not None
    assert batch.valid is not None
    junk = torch.tensor([5.0, 5, 50, 50]).expand(2, 3, 4)
    more = replace(
        batch,
        boxes=torch.cat([batch.boxes, junk], 1),
        valid=torch.cat([batch.valid, torch.zeros(2, 3, dtype=torch.bool)], 1),
    )
    torch.manual_seed(0)
    expected = rpn.learn(maps, batch)[1]
    torch.manual_seed(0)
    assert_close(rpn.learn(maps, more)[1], expected)


def test_an_image_without_objects_teaches_background_only() -> None:
    rpn = network()
    losses = rpn.learn(maps_of(1), batch_of([[]]))[1]
    assert losses["rpn_box"].item() == 0
    assert losses["rpn_objectness"].item() == pytest.approx(0.693, abs=0.05)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())


def test_anchors_inside_an_ignored_object_are_not_background() -> None:
    # Everything is a crowd: no anchor is left to learn from, and the loss is 0 instead of NaN.
    rpn = network()
    losses = rpn.learn(maps_of(1), batch_of([[[-64, -64, 128, 128]]], ignore=[[True]]))[1]
    assert losses["rpn_objectness"].item() == 0
    assert losses["rpn_box"].item() == 0


def test_proposals_carry_no_gradient() -> None:
    proposals, _ = network().learn(maps_of(2), batch_of(OBJECTS))
    assert not proposals.boxes.requires_grad


def test_the_number_of_anchor_sizes_must_fit_the_levels() -> None:
    with pytest.raises(ConfigError, match=r"task\.anchor_sizes=.*expected 2 lists.*p3, p4"):
        RegionProposalNetwork(SPECS, anchor_sizes=[[16]], anchor_ratios=[1])
