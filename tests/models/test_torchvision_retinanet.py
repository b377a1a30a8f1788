"""Oracle: rows of the state dictionary, looked up by hand. That the outputs agree: test_retinanet.py."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn

from cvtasks.assembly import start_from
from cvtasks.errors import WeightsError
from cvtasks.models.detection.retinanet import retinanet
from cvtasks.models.detection.torchvision_retinanet import (
    is_torchvision_retinanet,
    load_torchvision_retinanet,
)
from cvtasks.models.detection.torchvision_weights import COCO_CATEGORIES, is_torchvision_detector
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.dense_detector import DenseDetector
from cvtasks.types import ClassInfo

SCORES = "head.classification_head.cls_logits"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """As in the published file: 91 outputs, and the names of layers before torchvision 0.13 and 0.14."""
    torch.manual_seed(0)
    state = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    state[f"{SCORES}.bias"] = torch.randn(9 * 91)
    old = {}
    for key, value in state.items():
        for i in range(4):
            key = key.replace(f"_blocks.{i}.0.", f"_blocks.{i}.").replace(
                f"head.conv.{i}.0.", f"head.conv.{2 * i}!"
            )
        old[key.replace("!", ".")] = value
    assert {"head.regression_head.conv.6.weight", "backbone.fpn.inner_blocks.2.bias"} <= old.keys()
    assert "head.classification_head.conv.1.0.weight" not in old
    return old


def model_for(classes: Sequence[str], norm: Any = "frozen", extra_from: Any = "pyramid") -> DenseDetector:
    backbone = resnet(depth=50, norm=norm)
    return retinanet(backbone, classes=ClassInfo(tuple(classes)), extra_from=extra_from)


def test_classes_are_found_by_name_also_in_a_file_that_does_not_tell_them(state: dict[str, Tensor]) -> None:
    classes = ["zebra", "person", "cat"]
    # COCO's category ids, which are the rows of each of the nine kinds of anchors.
    rows = torch.tensor([24, 1, 17])
    for names in (COCO_CATEGORIES, None):
        model = model_for(classes)
        assert load_torchvision_retinanet(model, state, classes=classes, names=names) == []
        own = model.state_dict()
        for part in ("weight", "bias"):
            expected = state[f"{SCORES}.{part}"].unflatten(0, (9, 91))[:, rows]
            assert torch.equal(own[f"head.scores.{part}"].unflatten(0, (9, 3)), expected)
        for ours, theirs in (
            ("backbone.conv1.weight", "backbone.body.conv1.weight"),
            ("neck.extra.convs.1.bias", "backbone.fpn.extra_blocks.p7.bias"),
            ("head.class_tower.2.0.weight", "head.classification_head.conv.4.weight"),
            ("head.box_tower.1.0.weight", "head.regression_head.conv.2.weight"),
            ("head.offsets.weight", "head.regression_head.bbox_reg.weight"),
        ):
            assert torch.equal(own[ours], state[theirs]), ours


def test_weights_of_the_file_are_known_for_a_retinanets_by_what_is_in_it(state: dict[str, Tensor]) -> None:
    model, classes = model_for(["cat"]), ClassInfo(("cat",))
    assert start_from(model, (state, tuple(COCO_CATEGORIES)), classes, "retinanet_resnet50_fpn") == []
    assert torch.equal(model.head.scores.bias, state[f"{SCORES}.bias"][17::91])  # type: ignore[union-attr]


def test_with_other_classes_the_scores_start_fresh_with_their_prior_and_one_note_says_so(
    state: dict[str, Tensor],
) -> None:
    classes = ["person", "platelet"]
    model = model_for(classes)
    (note,) = load_torchvision_retinanet(model, state, classes=classes, source="retinanet_resnet50_fpn")
    assert "no platelet" in note
    assert "starts fresh" in note
    assert torch.allclose(model.head.scores.bias.sigmoid(), torch.tensor(0.01))  # type: ignore[union-attr, operator]
    assert torch.equal(model.head.offsets.bias, state["head.regression_head.bbox_reg.bias"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"extra_from": "backbone"}, r"task\.extra_from=pyramid"),
        ({"norm": "group"}, r"backbone\.norm=frozen"),
    ],
)
def test_another_form_of_the_network_is_refused_with_what_to_type(
    state: dict[str, Tensor], form: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_torchvision_retinanet(model_for(["cat"], **form), state, classes=["cat"])


def test_a_state_that_is_no_retinanet_is_refused(state: dict[str, Tensor]) -> None:
    model = model_for(["cat"])
    assert is_torchvision_retinanet(state)
    assert not is_torchvision_detector(state)
    assert not is_torchvision_retinanet(model.state_dict())
    with pytest.raises(WeightsError, match="not a RetinaNet of torchvision's"):
        load_torchvision_retinanet(model, {"conv1.weight": torch.zeros(1)}, classes=["cat"])
