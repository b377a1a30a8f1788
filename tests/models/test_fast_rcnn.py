"""Oracle: torchvision's RoI pooling on the same map, and the same head with all of its components."""

from typing import Any

import pytest
import torch
from test_faster_rcnn import NAMES, WithClassifier, make_batch
from torch.testing import assert_close
from torchvision import ops

from cvtasks.errors import ConfigError
from cvtasks.models.detection.fast_rcnn import fast_rcnn
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.heads import PretrainedFC, TwoFC
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.region_sampling import HardExampleMining
from cvtasks.types import Batch, ClassInfo


def batch_with_proposals(images: int = 2) -> Batch:
    batch = make_batch(images)
    assert batch.boxes is not None
    corner, extent = torch.rand(2, images, 40, 2, generator=torch.Generator().manual_seed(1)) * 45
    near = batch.boxes + 2
    batch.proposals = torch.cat(
        [near, torch.cat([corner, corner + extent + 4], -1), torch.zeros(images, 5, 4)], 1
    )
    return batch


def small(**settings: Any) -> RegionDetector:
    torch.manual_seed(0)
    settings = {"level": "c3", "head_channels": 32, "roi_background_iou": 0.1} | settings
    return fast_rcnn(tiny(width=16), classes=ClassInfo(NAMES), **settings)


def test_a_region_is_pooled_to_seven_by_seven_from_the_one_map() -> None:
    model, batch = small().eval(), batch_with_proposals()
    seen = []
    model.heads["box"].trunk.register_forward_pre_hook(lambda module, args: seen.append(args[0]))  # type: ignore[union-attr, arg-type]
    losses_maps = model.maps(batch)
    proposals = model.proposer.propose(losses_maps, batch)
    model.heads["box"](losses_maps, proposals.boxes)
    image = torch.arange(2.0).repeat_interleave(proposals.boxes.shape[1])[:, None]
    rows = torch.cat([image, proposals.boxes.flatten(0, 1)], 1)
    assert_close(seen[0], ops.roi_pool(losses_maps["c3"], rows, 7, 1 / 8))


@pytest.mark.parametrize(
    "settings", [{}, {"roi_sampling": "ohem", "roi_samples": 16}, {"region_features": "roi_align"}]
)
def test_it_learns_in_all_its_parameters_from_given_proposals(settings: dict[str, Any]) -> None:
    model, batch = small(**settings), batch_with_proposals()
    losses = model.losses(batch)
    assert set(losses) == {"classification", "box_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_an_image_without_proposals_has_no_detections_and_its_true_boxes_teach() -> None:
    model, batch = small(score_threshold=0.0), batch_with_proposals()
    batch.proposals = torch.zeros(2, 1, 4)
    assert [len(p["labels"]) for p in model.eval().predict(batch)] == [0, 0]
    losses = model.losses(batch)
    assert losses["classification"] > 0
    assert losses["box_regression"] > 0


def test_detections_lie_at_proposals_whose_boxes_are_given_in_the_batchs_pixels() -> None:
    model, batch = (
        small(score_threshold=0.0, detections_per_image=1000, nms_threshold=1.0),
        batch_with_proposals(),
    )
    torch.nn.init.zeros_(model.heads["box"].offsets.weight)  # type: ignore[union-attr, arg-type]
    found = model.eval().predict(batch)[0]["boxes"]
    assert batch.proposals is not None
    expected = 2 * batch.proposals[0, :43].clamp(max=96)  # the file's image is twice as large
    assert_close(found.unique(dim=0), expected.unique(dim=0))


def test_truncated_to_all_components_it_predicts_the_same_and_to_few_something_near() -> None:
    batch, found = batch_with_proposals(), []
    for settings in ({}, {"svd_fc6": 32, "svd_fc7": 32}, {"svd_fc6": 4, "svd_fc7": 2}):
        model = small(**settings, score_threshold=0.0, detections_per_image=1000, nms_threshold=1.0).eval()
        model.heads["box"].scores.weight.data.mul_(100)  # type: ignore[union-attr, operator]
        found.append(model.predict(batch)[0])
    whole, exact, few = found
    assert_close(exact["scores"], whole["scores"])
    assert_close(exact["boxes"], whole["boxes"])
    assert not torch.allclose(few["scores"], whole["scores"], atol=1e-3)


def test_truncation_is_for_detection_alone_and_no_part_of_a_checkpoint() -> None:
    batch, losses, states = batch_with_proposals(), [], []
    for settings in ({}, {"svd_fc6": 2, "svd_fc7": 2}):
        model = small(**settings)
        model.predict(batch)
        torch.manual_seed(1)
        losses.append(model.losses(batch))
        states.append(model.state_dict().keys())
    assert_close(losses[0], losses[1])
    assert states[0] == states[1]


def test_auto_takes_fc6_and_fc7_over_where_the_backbone_has_them() -> None:
    classes = ClassInfo(NAMES)
    model = fast_rcnn(WithClassifier(), classes=classes)
    trunk = model.heads["box"].trunk  # type: ignore[union-attr]
    assert isinstance(trunk, PretrainedFC)
    model.losses(batch_with_proposals())["classification"].backward()
    assert isinstance(small().heads["box"].trunk, TwoFC)  # type: ignore[union-attr]
    other = fast_rcnn(WithClassifier(), classes=classes, svd_fc6=20, svd_fc7=20, score_threshold=0.0)
    other.load_state_dict(model.state_dict())
    batch = batch_with_proposals()
    for one, two in zip(model.eval().predict(batch), other.eval().predict(batch), strict=True):
        assert_close(one["scores"], two["scores"][: len(one["scores"])])


def test_mining_is_an_option() -> None:
    assert isinstance(small(roi_sampling="ohem").sampler, HardExampleMining)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "c9"}, r"task\.level=c9: expected levels of this backbone"),
        ({"head": "vgg_fc"}, r"backbone=vgg16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)
