"""Oracle: torchvision's RetinaNets with the same weights; and what the configuration promises."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_faster_rcnn import NAMES, make_batch
from test_launches import Launches, make_step
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from cvtasks.errors import ConfigError
from cvtasks.models.detection.retinanet import levels_between, retinanet
from cvtasks.models.detection.torchvision_retinanet import load_torchvision_retinanet
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.dense_detector import DenseDetector
from cvtasks.types import Batch, ClassInfo

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
SIZE = 160


def small(**settings: Any) -> DenseDetector:
    torch.manual_seed(0)
    settings = {"fpn_channels": 32, "anchor_scale": 2.0, "head_convs": 2} | settings
    return retinanet(tiny(width=16), classes=ClassInfo(NAMES), **settings)


# --- against torchvision ---------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """The same network twice, and the same images."""

    theirs: Any
    ours: DenseDetector
    batch: Batch
    images: ImageList

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        assert self.batch.boxes is not None
        assert self.batch.labels is not None
        assert self.batch.valid is not None
        rows = zip(self.batch.boxes, self.batch.labels, self.batch.valid, strict=True)
        return [{"boxes": boxes[valid], "labels": labels[valid]} for boxes, labels, valid in rows]


def randomize(model: Any, images: Tensor) -> None:
    """Weights and norm statistics without a pattern, yet scores and offsets of a sane size, so that much is detected."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become this batch's
    with torch.no_grad():
        model.train().backbone(images)
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.normal_(norm.bias, std=0.1)
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
        features = model.eval().backbone(images)["0"]
        classes, boxes = model.head.classification_head, model.head.regression_head
        for tower, last, spread, mean in (
            (classes.conv, classes.cls_logits, 1.5, -3.0),
            (boxes.conv, boxes.bbox_reg, 0.3, 0),
        ):
            x = features
            for layer in tower:
                if len(layer) == 3:  # a group norm, which would make any weights do
                    nn.init.uniform_(layer[1].weight, 0.7, 1.3)
                    nn.init.normal_(layer[1].bias, std=0.1)
                else:
                    layer[0].weight *= 1 / layer(x).std()
                x = layer(x)
            last.weight *= spread / last(x).std()
            nn.init.constant_(last.bias, mean)


@pytest.fixture(scope="module", params=["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    # Their first class is a background that no object has: without it both have the same outputs.
    theirs = getattr(detection, request.param)(weights=None, weights_backbone=None, num_classes=len(NAMES))
    form: dict[str, Any] = {"extra_from": "pyramid"}
    if request.param.endswith("v2"):
        form = {"head_norm": "group", "box_loss": "giou"}
    ours = retinanet(
        resnet(depth=50, norm="batch"), classes=ClassInfo(NAMES), detections_per_image=300, **form
    ).eval()
    batch = make_batch(size=SIZE)
    images = ours.backbone.normalize(batch.images, batch.sizes)
    randomize(theirs, images)
    assert load_torchvision_retinanet(ours, theirs.state_dict(), classes=NAMES, names=NAMES) == []
    return Pair(theirs, ours, batch, ImageList(images, [tuple(s) for s in batch.sizes.tolist()]))


def test_anchors_are_torchvisions(pair: Pair) -> None:
    with torch.no_grad():
        features = list(pair.theirs.backbone(pair.images.tensors).values())
        ours = pair.ours.lay_anchors(pair.ours.maps(pair.batch), pair.batch)
    assert len(ours) == 5
    assert torch.equal(torch.cat(ours), pair.theirs.anchor_generator(pair.images, features)[0])


def test_both_losses_and_all_gradients_are_torchvisions(pair: Pair) -> None:
    pair.theirs.zero_grad()
    features = list(pair.theirs.backbone(pair.images.tensors).values())
    anchors = pair.theirs.anchor_generator(pair.images, features)
    expected = pair.theirs.compute_loss(pair.targets, pair.theirs.head(features), anchors)
    found = pair.ours.losses(pair.batch)
    assert all(loss > 1e-2 for loss in expected.values())
    assert_close(found["classification"], expected["classification"], **CLOSE)
    assert_close(found["box_regression"], expected["bbox_regression"], **CLOSE)

    sum(found.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()
    mapped = {key: torch.zeros_like(value) for key, value in pair.theirs.state_dict().items()}
    mapped |= {key: p.grad for key, p in pair.theirs.named_parameters()}
    stand_in = retinanet(
        resnet(depth=50, norm="batch"),
        classes=ClassInfo(NAMES),
        extra_from="pyramid" if pair.ours.neck.extra.from_pyramid else "backbone",  # type: ignore[union-attr]
        head_norm=None if isinstance(pair.ours.head.class_tower[0][1], nn.ReLU) else "group",  # type: ignore[index, union-attr]
    )
    load_torchvision_retinanet(stand_in, mapped, classes=NAMES, names=NAMES)
    want = dict(stand_in.named_parameters())
    for name, parameter in pair.ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - want[name]).norm() <= 1e-2 * want[name].norm() + 1e-6, name
    pair.ours.zero_grad()


def test_boxes_labels_and_scores_are_torchvisions_but_for_its_boxes_without_extent(pair: Pair) -> None:
    pair.theirs.detections_per_img = 400
    with torch.no_grad():
        features = list(pair.theirs.backbone(pair.images.tensors).values())
        outputs = pair.theirs.head(features)
        anchors = pair.theirs.anchor_generator(pair.images, features)
        counts = [x.shape[2] * x.shape[3] * 9 for x in features]
        expected = pair.theirs.postprocess_detections(
            {name: list(value.split(counts, dim=1)) for name, value in outputs.items()},
            [list(of_image.split(counts)) for of_image in anchors],
            pair.images.image_sizes,
        )
    for found, want in zip(pair.ours.predict(pair.batch), expected, strict=True):
        extended = (want["boxes"][:, 2:] > want["boxes"][:, :2]).all(1)
        assert extended.sum() > 300
        want = {name: value[extended][:300] for name, value in want.items()}
        assert torch.equal(found["labels"], want["labels"])
        assert_close(found["scores"], want["scores"], **CLOSE)
        # The file's image is twice as large.
        assert_close(found["boxes"] / (2 * SIZE), want["boxes"] / SIZE, **CLOSE)


# --- what the two verbs promise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"extra_from": "pyramid", "extra_levels": 1, "box_loss": "smooth_l1"},
        {
            "extra_levels": 0,
            "levels": ["c2", "c5"],
            "fpn_norm": "group",
            "head_norm": "group",
            "box_loss": "giou",
        },
        {"head_convs": 0, "anchor_octaves": 1, "anchor_ratios": [1.0]},
    ],
    ids=["paper", "one_extra_level", "norms", "plain"],
)
def test_every_form_learns_in_all_its_parameters_and_predicts_in_original_pixels(
    settings: dict[str, Any],
) -> None:
    model, batch = small(**settings), make_batch()
    losses = model.losses(batch)
    assert set(losses) == {"classification", "box_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []
    model.suppression.score_threshold = 0.005
    for prediction, (height, width) in zip(
        model.eval().predict(batch), batch.orig_sizes.tolist(), strict=True
    ):
        boxes, scores, labels = prediction["boxes"], prediction["scores"], prediction["labels"]
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.dtype == scores.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert (scores.diff() <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_at_first_every_class_has_its_prior_so_that_the_background_does_not_drown_the_objects() -> None:
    model, batch = small(), make_batch(1, objects=1)
    scores, _ = model.head(model.maps(batch))
    assert_close(scores.sigmoid().mean(), torch.tensor(0.01), rtol=0.1, atol=0)
    # All anchors together weigh less than one positive anchor, whose cross-entropy is -log(0.01).
    model.criterion = type(model.criterion)(alpha=0.5)  # type: ignore[arg-type]
    assert model.losses(batch)["classification"] < 0.5 * 2 * -math.log(0.01)


def test_a_second_image_without_objects_halves_the_losses_of_the_first() -> None:
    """Each image is divided by its own positives, then the mean is taken; of the empty one only easy background is left."""
    model = small()
    nn.init.constant_(model.head.scores.bias, -12.0)  # type: ignore[union-attr, arg-type]
    alone, both = model.losses(make_batch(1)), make_batch(2)
    both.images[0], both.boxes[0], both.labels[0] = (  # type: ignore[index]
        make_batch(1).images[0],
        make_batch(1).boxes[0],  # type: ignore[index]
        make_batch(1).labels[0],  # type: ignore[index]
    )
    together = model.losses(both)
    for name, loss in alone.items():
        assert_close(together[name], loss / 2, rtol=1e-4, atol=1e-5)


def test_losses_of_a_batch_without_any_object_are_finite() -> None:
    batch = make_batch()
    batch.valid = torch.zeros_like(batch.valid)  # type: ignore[arg-type]
    losses = small().losses(batch)
    assert losses["box_regression"] == 0
    assert losses["classification"].isfinite()


def test_anchors_in_a_crowd_are_left_out() -> None:
    batch = make_batch(1, objects=1)
    batch.boxes = torch.tensor([[[-600.0, -600, 700, 700]]])
    batch.ignore = torch.tensor([[True]])
    losses = small().losses(batch)
    assert losses["classification"] == losses["box_regression"] == 0


@pytest.mark.parametrize("part", ["head.offsets.bias", "head.scores.weight"])
def test_a_network_that_has_diverged_has_a_loss_that_is_not_finite_and_does_not_crash(part: str) -> None:
    model = small()
    model.get_parameter(part).data.fill_(torch.nan)
    assert not all(loss.isfinite() for loss in model.losses(make_batch()).values())
    model.predict(make_batch())


def test_bf16_losses_are_float32_and_close_to_the_exact_ones() -> None:
    model, batch = small(), make_batch(4)
    exact = model.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.losses(batch)
    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    assert_close(rounded, exact, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_a_step_never_waits_and_its_operations_do_not_grow_with_the_batch(box_loss: str) -> None:
    counted = []
    for images in (2, 4):
        model = small(box_loss=box_loss).to(memory_format=torch.channels_last)
        step = make_step(model, make_batch(images))  # type: ignore[arg-type]
        with Launches() as launches:
            step()
        assert launches.waits.total() == 0
        counted.append(launches.all)
    assert counted[0] == counted[1]


# --- putting it together ---------------------------------------------------------------------------------------------


def test_levels_are_those_of_the_asked_strides_and_of_a_network_without_any_its_last_three() -> None:
    assert levels_between(tiny(width=16), 8, 32) == ["c3", "c4", "c5"]
    assert levels_between(tiny(width=16), 4, 16) == ["c2", "c3", "c4"]
    assert levels_between(mobilenet(size="small"), 8, 32) == ["c3", "c4", "c5"]
    fine = {"c0": 1, "c1": 2, "c2_first": 4, "c2": 4, "c3_first": 8, "c3": 8}
    specs = {level: FeatureSpec(8, stride) for level, stride in fine.items()}
    assert levels_between(Backbone(specs), 8, 32) == ["c3"]
    del specs["c3"], specs["c3_first"]
    assert levels_between(Backbone(specs), 8, 32) == ["c0", "c1", "c2"]


def test_a_levels_anchors_are_its_stride_times_the_scale_in_thirds_of_an_octave() -> None:
    cell = small(anchor_scale=4.0).anchors.get_buffer("cell0")  # type: ignore[union-attr]
    assert len(cell) == 9
    assert_close(cell[3:6, 2:].amax(1) * 2, torch.tensor([32.0, 40, 50]))
    assert_close(cell[0], torch.tensor([-23.0, -11, 23, 11]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["c3", "c9"]}, r"task\.levels=\['c3', 'c9'\]: expected levels of this backbone"),
        ({"negative_iou": 0.6}, r"task\.negative_iou=0\.6: expected at most task\.positive_iou=0\.5"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_to_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)
