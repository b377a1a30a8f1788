"""Oracles: the losses written out image by image, torchvision's boxes, and numbers worked out by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from people import CLASSES, Pixels, make_batch, nonzero_gradients, spread
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_convert, generalized_box_iou

from cvtasks.errors import ConfigError
from cvtasks.models.localization.localization import Localization, centre_and_size, corners
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.types import Batch, ClassInfo


def make(**settings: Any) -> Localization:
    torch.manual_seed(0)
    model = Localization(tiny(width=16), classes=CLASSES, **settings)
    spread(model, scores=0.2, boxes=0.015)
    return model.eval()


def written_out(scores: Tensor, boxes: Tensor, batch: Batch, kind: str) -> dict[str, Tensor]:
    """Both means over the images, in pixels where that makes no difference."""
    assert batch.label is not None
    assert batch.boxes is not None
    classification, regression = [], []
    for n, (height, width) in enumerate(batch.sizes.tolist()):
        k = int(batch.label[n])
        classification.append(-scores[n].log_softmax(0)[k])
        x, y, w, h = boxes[n, k if boxes.shape[1] > 1 else 0]
        x1, y1, x2, y2 = batch.boxes[n, 0]
        differences = torch.stack(
            [
                x - (x1 + x2) / 2 / width,
                y - (y1 + y2) / 2 / height,
                w - (x2 - x1) / width,
                h - (y2 - y1) / height,
            ]
        )
        if kind == "giou":
            pixels = torch.stack(
                [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            )
            regression.append(1 - generalized_box_iou(pixels[None], batch.boxes[n])[0, 0])
        elif kind == "smooth_l1":
            regression.append(F.smooth_l1_loss(differences, torch.zeros(4), beta=0.1, reduction="sum"))
        else:
            regression.append(differences.square().sum() if kind == "l2" else differences.abs().sum())
    return {
        "classification": torch.stack(classification).mean(),
        "box_regression": torch.stack(regression).mean(),
    }


@pytest.mark.parametrize("box", ["shared", "per_class"])
@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1", "giou"])
def test_the_losses_are_those_of_the_lecture_with_the_box_as_parts_of_the_image(kind: Any, box: Any) -> None:
    model, batch = make(box=box, box_loss=kind), make_batch()
    scores, boxes = model(batch)
    assert boxes.shape == (3, len(CLASSES) if box == "per_class" else 1, 4)
    assert boxes[..., 2:].min() > 0  # else the formula above would need absolute sizes
    assert_close(model.losses(batch), written_out(scores, boxes, batch, kind))


def test_both_heads_read_the_same_vector_which_is_the_mean_of_the_last_map() -> None:
    model, batch = make(), make_batch()
    images = model.backbone.normalize(batch.images, batch.sizes)
    vector = model.backbone(images)["c5"].mean((2, 3))
    scores, boxes = model(batch)
    assert_close(scores, vector @ model.scores.weight.T + model.scores.bias)
    assert_close(boxes[:, 0], vector @ model.boxes.weight.T + model.boxes.bias)


def test_of_boxes_for_each_class_only_the_true_ones_learn() -> None:
    model, batch = make(box="per_class"), make_batch()
    model.losses(batch)["box_regression"].backward()
    assert model.boxes.weight.grad is not None
    assert batch.label is not None
    learnt = model.boxes.weight.grad.view(len(CLASSES), -1).abs().sum(1) > 0
    assert learnt.nonzero()[:, 0].tolist() == sorted(set(batch.label.tolist()))
    assert learnt.any()
    assert not learnt.all()


def test_images_without_an_object_count_nowhere() -> None:
    model, batch = make(), make_batch()
    assert batch.label is not None
    assert batch.valid is not None
    assert batch.boxes is not None
    first = Batch(
        batch.images[:1],
        batch.sizes[:1],
        batch.orig_sizes[:1],
        [0],
        valid=batch.valid[:1],
        boxes=batch.boxes[:1],
        label=batch.label[:1],
    )
    alone = model.losses(first)
    batch.valid[1:], batch.label[1:], batch.boxes[1:] = False, 255, 0
    assert_close(model.losses(batch), alone)
    batch.valid[:] = False
    losses = model.losses(batch)
    assert {name: value.item() for name, value in losses.items()} == {
        "classification": 0,
        "box_regression": 0,
    }


def test_a_prediction_is_the_best_five_classes_each_with_its_own_box_in_the_files_pixels() -> None:
    model, batch = make(box="per_class"), make_batch()
    scores, boxes = model(batch)
    for n, prediction in enumerate(model.predict(batch)):
        order = scores[n].argsort(descending=True)[:5]
        assert torch.equal(prediction["labels"], order)
        assert_close(prediction["scores"], scores[n].softmax(0)[order])
        height, width = (2 * batch.sizes[n]).tolist()  # of the file
        pixels = box_convert(boxes[n, order], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
        expected = pixels.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        assert_close(prediction["boxes"], expected)
        assert len(prediction["boxes"].unique(dim=0)) == 5


def test_a_shared_box_goes_with_every_class_and_few_classes_are_all_told() -> None:
    torch.manual_seed(0)
    model = Localization(tiny(width=16), classes=ClassInfo(("one", "other"))).eval()
    (prediction, *_) = model.predict(make_batch())
    assert prediction["labels"].sort().values.tolist() == [0, 1]
    assert prediction["scores"].sum().item() == pytest.approx(1)
    assert torch.equal(prediction["boxes"][0], prediction["boxes"][1])


def test_it_begins_with_a_box_in_the_middle() -> None:
    torch.manual_seed(0)
    model, batch = Localization(Pixels(), classes=CLASSES).eval(), make_batch(1)
    batch.images[:] = 0
    assert_close(model.predict(batch)[0]["boxes"][0], torch.tensor([32.0, 32, 96, 96]))


def test_centre_and_size_are_the_corners_again_whichever_sign_a_size_has() -> None:
    boxes = torch.tensor([[10.0, 20, 50, 40], [-3, 4, 5, 6.5]])
    assert_close(centre_and_size(boxes), box_convert(boxes, "xyxy", "cxcywh"))
    assert_close(corners(centre_and_size(boxes)), boxes)
    assert_close(corners(centre_and_size(boxes) * torch.tensor([1, 1, -1, 1])), boxes)


def test_giou_draws_a_box_that_is_inside_out_to_the_true_one() -> None:
    predicted = torch.tensor([[0.2, 0.8, -0.3, 0.1]], requires_grad=True)
    truth = centre_and_size(torch.tensor([[0.5, 0.2, 0.9, 0.4]]))
    model = make(box_loss="giou")
    optimizer = torch.optim.Adam([predicted], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        model._box_loss(predicted, truth).sum().backward()
        optimizer.step()
    assert_close(corners(predicted), corners(truth), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("until", "trained"),
    [
        (None, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
        ("layer2", ("layer3", "layer4")),
        ("layer4", ()),
    ],
)
def test_a_part_of_the_backbone_is_frozen_by_torchvisions_names_with_its_batch_norm(
    until: Any, trained: tuple[str, ...]
) -> None:
    model = Localization(resnet(depth=18, norm="batch", freeze_until=until), classes=CLASSES).eval().train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    sum(model.losses(make_batch()).values()).backward()  # type: ignore[union-attr]
    learning = {name.split(".")[1] for name in nonzero_gradients(model) if name.startswith("backbone.")}
    assert learning == set(trained)
    assert {"scores.weight", "boxes.weight"} <= set(nonzero_gradients(model))
    moved = {
        name.split(".")[1]
        for name, values in model.state_dict().items()
        if not torch.equal(values, before[name])
    }
    assert moved == {name for name in trained if name != "conv1"}


def test_a_level_that_is_not_there_is_still_named_with_those_that_are() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone.freeze_until=layer5: this network has c1, c2, c3, c4, c5"
    ):
        resnet(depth=18, freeze_until="layer5")  # type: ignore[arg-type]


def test_scores_start_afresh_for_other_classes_and_boxes_only_if_each_class_has_its_own() -> None:
    assert make().class_layers == ["scores."]
    assert make(box="per_class").class_layers == ["scores.", "boxes."]


def test_boxes_are_exact_in_bf16() -> None:
    model, batch = make(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        scores, boxes = model(batch)
        losses = model.losses(batch)
    assert scores.dtype == boxes.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert_close(losses, model.losses(batch), rtol=0.1, atol=0.02)
