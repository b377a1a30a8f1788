"""Oracle: rows of the state dictionary, looked up by hand. That the outputs agree: test_faster_rcnn.py."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from cvtasks.errors import WeightsError
from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.models.detection.torchvision_weights import (
    COCO_CATEGORIES,
    is_torchvision_detector,
    load_torchvision_detector,
)
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.types import ClassInfo


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """As in the published file: 91 outputs, and the names of layers before torchvision 0.13."""
    torch.manual_seed(0)
    state = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    old = {}
    for key, value in state.items():
        for new_part, old_part in (("conv.0.0.", "conv."), ("_blocks.{}.0.", "_blocks.{}.")):
            for i in range(4):
                key = key.replace(new_part.format(i), old_part.format(i))
        old[key] = value
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    return old


def model_for(classes: Sequence[str], norm: str = "frozen") -> RegionDetector:
    return faster_rcnn(resnet(depth=50, norm=norm), classes=ClassInfo(tuple(classes)))  # type: ignore[arg-type]


def test_classes_are_found_by_name_also_in_a_file_that_does_not_tell_them(state: dict[str, Tensor]) -> None:
    classes = ["zebra", "person", "cat"]
    # COCO's category ids, which are the rows: zebra 24, person 1, cat 17, and the background is 0.
    rows = torch.tensor([24, 1, 17])
    for names in (COCO_CATEGORIES, None):
        model = model_for(classes)
        assert load_torchvision_detector(model, state, classes=classes, names=names) == []
        head = model.heads["box"]
        scores, offsets = (
            state["roi_heads.box_predictor.cls_score.bias"],
            state["roi_heads.box_predictor.bbox_pred.bias"],
        )
        assert torch.equal(head.scores.bias, torch.cat([scores[rows], scores[:1]]))
        assert torch.equal(head.offsets.bias.view(3, 4), offsets.view(91, 4)[rows])
        assert torch.equal(model.backbone.conv1.weight, state["backbone.body.conv1.weight"])


def test_with_other_classes_the_predictor_starts_fresh_and_one_note_says_so(state: dict[str, Tensor]) -> None:
    classes = ["person", "platelet"]
    model = model_for(classes)
    fresh = model.heads["box"].scores.weight.clone()
    notes = load_torchvision_detector(model, state, classes=classes, source="fasterrcnn_resnet50_fpn")
    assert len(notes) == 1
    assert "no platelet" in notes[0]
    assert "start fresh" in notes[0]
    assert torch.equal(model.heads["box"].scores.weight, fresh)
    assert torch.equal(model.heads["box"].trunk.fc7.weight, state["roi_heads.box_head.fc7.weight"])


def test_another_network_is_refused_with_the_keys_that_do_not_fit(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"backbone\.norm=frozen"):
        load_torchvision_detector(model_for(["cat"], norm="group"), state, classes=["cat"])


def test_a_state_that_is_no_faster_rcnn_is_refused(state: dict[str, Tensor]) -> None:
    model = model_for(["cat"])
    assert is_torchvision_detector(state)
    assert not is_torchvision_detector(model.state_dict())
    with pytest.raises(WeightsError, match="not a Faster R-CNN of torchvision's"):
        load_torchvision_detector(model, {"conv1.weight": torch.zeros(1)}, classes=["cat"])
