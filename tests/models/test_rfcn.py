"""Oracle: torchvision's position-sensitive pooling of maps made by hand, and what the paper asks for."""

from typing import Any

import pytest
import torch
from test_faster_rcnn import NAMES, make_batch
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.detection.rfcn import REGIONS, PositionSensitiveHead, rfcn
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.region_sampling import HardExampleMining
from cvtasks.types import ClassInfo


def small(**settings: Any) -> RegionDetector:
    torch.manual_seed(0)
    settings = {
        "proposal_level": "c3",
        "level": "c4",
        "channels": 32,
        "anchor_sizes": [12, 24, 48],
        "rpn_samples": 64,
        "rpn_proposals_train": 50,
        "rpn_proposals_test": 30,
        "roi_samples": 32,
    } | settings
    return rfcn(tiny(width=16), classes=ClassInfo(NAMES), **settings)


def test_a_class_is_the_mean_vote_of_bins_that_each_read_their_own_map() -> None:
    """A map of weights that copy the input: 3 classes and the background, 2 x 2 bins."""
    head = PositionSensitiveHead(FeatureSpec(16, 16), 3, bins=2, pooling="ps_roi_pool")
    torch.nn.init.dirac_(head.scores.weight)
    maps = torch.zeros(1, 16, 8, 8)
    box = torch.tensor([[[32.0, 16, 96, 80]]])  # columns 2 to 5, rows 1 to 4
    maps[0, 4 * 1 + 0, 1:3, 2:4] = 8.0  # class 1 at the upper left: where that bin reads
    maps[0, 4 * 2 + 3, 1:3, 2:4] = 8.0  # class 2's lower right, but there its bin does not read
    maps[0, 4 * 3 + 2, 3:5, 2:4] = 4.0  # the background at the lower left
    scores, offsets = head({REGIONS: maps}, box)
    assert_close(scores, torch.tensor([[[0.0, 2, 0, 1]]]))
    assert offsets.shape == (1, 1, 1, 4)


def test_the_box_is_voted_for_by_four_times_k_by_k_maps_and_shared_by_the_classes() -> None:
    head = PositionSensitiveHead(FeatureSpec(8, 16), 3, bins=3, pooling="ps_roi_pool")
    assert head.scores.out_channels == 9 * 4
    assert head.offsets.out_channels == 9 * 4
    torch.nn.init.zeros_(head.offsets.weight)
    head.offsets.bias.data = torch.arange(36.0)
    _, offsets = head({REGIONS: torch.zeros(1, 8, 8, 8)}, torch.tensor([[[0.0, 0, 96, 96]]]))
    assert_close(offsets.flatten(), torch.tensor([4.0, 13, 22, 31]))  # means of 0..8, 9..17, ...


def test_regions_have_no_layer_of_their_own() -> None:
    model = small()
    convolutions = {name for name, _ in model.heads.named_modules() if name.endswith(("scores", "offsets"))}
    assert convolutions == {"box.scores", "box.offsets"}
    runs = []
    for layer in (model.heads["box"].scores, model.heads["box"].offsets):  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *args: runs.append(args[2].shape))  # type: ignore[union-attr, arg-type]
    model.eval().predict(make_batch())
    assert runs == [(2, 36, 12, 12)] * 2  # once for each image, at stride 8


def test_the_last_stage_keeps_the_resolution_and_proposals_come_from_the_one_before() -> None:
    model, plain = small(), small(dilate=False)
    images = torch.zeros(1, 3, 96, 96)
    maps = model.neck(model.backbone(images))
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "c3": (32, 12, 12),
        REGIONS: (32, 12, 12),
    }
    assert plain.neck(plain.backbone(images))[REGIONS].shape[2:] == (6, 6)
    assert model.proposer.levels == ("c3",)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("settings", [{}, {"roi_sampling": "ohem"}, {"pooling": "ps_roi_align"}, {"bins": 7}])
def test_every_form_learns_in_all_its_parameters_and_predicts(settings: dict[str, Any]) -> None:
    model, batch = small(**settings), make_batch()
    losses = model.losses(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "classification", "box_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    for prediction in model.eval().predict(batch):
        assert prediction["boxes"].shape == (len(prediction["labels"]), 4)
        assert (prediction["scores"].diff() <= 0).all()


def test_mining_takes_regions_whose_mean_loss_is_no_smaller_than_that_of_random_ones() -> None:
    model, batch = small(roi_samples=8), make_batch()
    torch.manual_seed(0)
    random = model.losses(batch)
    mining = small(roi_sampling="ohem", roi_samples=8, ohem_nms_threshold=1.0)
    assert isinstance(mining.sampler, HardExampleMining)
    torch.manual_seed(0)
    hard = mining.losses(batch)
    total = [losses["classification"] + losses["box_regression"] for losses in (random, hard)]
    assert total[1] > total[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "c9"}, r"task\.level=c9: expected levels of this backbone.*c1, c2, c3"),
        ({"proposal_level": "c9"}, r"task\.proposal_level=c9"),
        ({"proposal_level": "c5"}, r"task\.proposal_level=c5: lies above task\.level=c4"),
    ],
)
def test_levels_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)
