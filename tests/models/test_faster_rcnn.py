"""Oracle: torchvision's Faster R-CNNs with the same weights; and what the configuration promises."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from cvtasks.errors import ConfigError
from cvtasks.models.detection import torchvision_weights
from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.models.detection.torchvision_weights import load_torchvision_detector
from cvtasks.nn import region_sampling, rpn
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.types import Batch, ClassInfo

NAMES = ("circle", "square", "figure")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def make_batch(images: int = 2, *, size: int = 96, objects: int = 3) -> Batch:
    """Images of different sizes, the last without objects, unless it is the only one."""
    generator = torch.Generator().manual_seed(0)
    heights = size - 10 * torch.arange(images)
    sizes = torch.stack([heights, torch.full_like(heights, size)], 1)
    corner, extent = torch.rand(2, images, objects, 2, generator=generator) * (size / 3)
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator),
        sizes=sizes,
        orig_sizes=2 * sizes,
        image_ids=list(range(images)),
        valid=(torch.arange(images) < max(1, images - 1))[:, None].expand(-1, objects),
        boxes=torch.cat([corner, corner + extent + 8], -1),
        labels=torch.randint(0, len(NAMES), (images, objects), generator=generator),
        ignore=torch.zeros(images, objects, dtype=torch.bool),
    )


def small(**settings: Any) -> RegionDetector:
    torch.manual_seed(0)
    settings = {
        "anchor_sizes": [[12], [24], [48], [96], [192]],
        "fpn_channels": 32,
        "head_channels": 64,
        "rpn_samples": 64,
        "roi_samples": 64,
    } | settings
    return faster_rcnn(tiny(width=16), classes=ClassInfo(NAMES), **settings)


# --- against torchvision ---------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """The same network twice, and the same images."""

    theirs: Any
    ours: RegionDetector
    batch: Batch
    images: ImageList

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        assert self.batch.boxes is not None
        assert self.batch.labels is not None
        assert self.batch.valid is not None
        rows = zip(self.batch.boxes, self.batch.labels, self.batch.valid, strict=True)
        return [{"boxes": boxes[valid], "labels": labels[valid] + 1} for boxes, labels, valid in rows]


def randomize(model: Any, images: Tensor) -> None:
    """Weights and norm statistics without a pattern, yet scores and offsets of a sane size, so that much is detected."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become this batch's
    with torch.no_grad():
        features = model.train().backbone(images)
        model.roi_heads.box_head(torch.randn(50, 256, 7, 7) * features["0"].std())
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.normal_(norm.bias, std=0.1)
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.2)
        features = model.eval().backbone(images)
        x = model.rpn.head.conv(features["0"])
        box = model.roi_heads.box_predictor
        regions = model.roi_heads.box_head(F.adaptive_max_pool2d(features["0"], 7))
        for layer, inputs, spread in (
            (model.rpn.head.cls_logits, x, 2.0),
            (model.rpn.head.bbox_pred, x, 0.3),
            (box.cls_score, regions, 2.0),
            (box.bbox_pred, regions, 1.0),
        ):
            nn.init.normal_(layer.weight)
            layer.weight *= spread / layer(inputs).std()


SIZE = 160
ALL_SIZES = (32, 64, 128, 256, 512)
FORMS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": {},
    "fasterrcnn_resnet50_fpn_v2": {
        "fpn_norm": "batch",
        "rpn_convs": 2,
        "head": "conv_fc",
        "head_norm": "batch",
    },
    "fasterrcnn_mobilenet_v3_large_fpn": {
        "levels": ["c5_first", "c5"],
        "anchor_sizes": [ALL_SIZES, ALL_SIZES, ALL_SIZES],
        "rpn_score_threshold": 0.05,
    },
}


@pytest.fixture(scope="module", params=FORMS)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    theirs = getattr(detection, request.param)(
        weights=None,
        weights_backbone=None,
        num_classes=len(NAMES) + 1,
        rpn_post_nms_top_n_train=400,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=128,
    )
    backbone = mobilenet(norm="batch") if "mobilenet" in request.param else resnet(depth=50, norm="batch")
    ours = faster_rcnn(
        backbone,
        classes=ClassInfo(NAMES),
        rpn_proposals_train=400,
        rpn_proposals_test=300,
        roi_samples=128,
        **FORMS[request.param],
    ).eval()
    batch = make_batch(size=SIZE)
    images = ours.backbone.normalize(batch.images, batch.sizes)
    randomize(theirs, images)
    assert load_torchvision_detector(ours, theirs.state_dict(), classes=NAMES) == []
    return Pair(theirs, ours, batch, ImageList(images, [tuple(s) for s in batch.sizes.tolist()]))


def test_proposals_are_torchvisions(pair: Pair) -> None:
    with torch.no_grad():
        expected, _ = pair.theirs.rpn(pair.images, pair.theirs.backbone(pair.images.tensors))
        found = pair.ours.proposer.propose(pair.ours.maps(pair.batch), pair.batch)
    for boxes, valid, want in zip(found.boxes, found.valid, expected, strict=True):
        assert len(want) > 100
        assert valid.sum() == len(want)
        # Each is another's within rounding; two whose scores differ by less than that may have changed places.
        distance = (boxes[valid][:, None] - want).abs().amax(-1) / SIZE
        assert max(distance.amin(0).max(), distance.amin(1).max()) < 1e-4
        assert (distance.argmin(1) - torch.arange(len(want))).abs().max() <= 1


def test_the_four_losses_and_their_gradients_are_torchvisions_with_the_same_samples(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_ones(
        positive: Tensor, negative: Tensor, *, count: int, positive_fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Instead of random ones: the first positives, then the first negatives."""
        positive = positive & (positive.cumsum(1) <= int(count * positive_fraction))
        negative = negative & (negative.cumsum(1) <= count - positive.sum(1, keepdim=True))
        chosen, index = (positive | negative).int().sort(dim=1, descending=True, stable=True)
        return index[:, :count], chosen[:, :count] > 0

    def their_first_ones(count: int, fraction: float) -> Any:
        def choose(labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            flags = [
                first_ones((x >= 1)[None], (x == 0)[None], count=count, positive_fraction=fraction)
                for x in labels
            ]
            masks = [
                torch.zeros_like(x, dtype=torch.bool).index_fill_(0, index[0][drawn[0]], True)
                for x, (index, drawn) in zip(labels, flags, strict=True)
            ]
            return (
                [(m & (x >= 1)).to(torch.uint8) for m, x in zip(masks, labels, strict=True)],
                [(m & (x == 0)).to(torch.uint8) for m, x in zip(masks, labels, strict=True)],
            )

        return choose

    monkeypatch.setattr(rpn, "sample", first_ones)
    monkeypatch.setattr(region_sampling, "sample", first_ones)
    monkeypatch.setattr(pair.theirs.rpn, "fg_bg_sampler", their_first_ones(256, 0.5))
    monkeypatch.setattr(pair.theirs.roi_heads, "fg_bg_sampler", their_first_ones(128, 0.25))
    features = pair.theirs.backbone(pair.images.tensors)
    pair.theirs.rpn.training = pair.theirs.roi_heads.training = True  # and the norms stay as they are
    proposals, rpn_losses = pair.theirs.rpn(pair.images, features, pair.targets)
    _, roi_losses = pair.theirs.roi_heads(features, proposals, pair.images.image_sizes, pair.targets)
    pair.theirs.eval()
    found = pair.ours.losses(pair.batch)
    expected = {
        "rpn_objectness": rpn_losses["loss_objectness"],
        "rpn_box": rpn_losses["loss_rpn_box_reg"],
        "classification": roi_losses["loss_classifier"],
        "box_regression": roi_losses["loss_box_reg"],
    }
    assert all(loss > 1e-3 for loss in expected.values())
    assert_close(found, expected, **CLOSE)

    sum(found.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()
    ours = dict(pair.ours.named_parameters())
    for key, parameter in pair.theirs.named_parameters():
        # Not the heads', whose order differs (they show in all that lies before them), nor norms', whose scale may.
        name = torchvision_weights.rename(key)
        if name.startswith(("backbone.", "neck.", "proposer.")) and parameter.ndim > 1:
            gradient, want = ours[name].grad, parameter.grad
            assert gradient is not None
            assert (gradient - want).norm() <= 1e-2 * want.norm(), name


def test_boxes_labels_and_scores_are_torchvisions(pair: Pair) -> None:
    with torch.no_grad():
        features = pair.theirs.backbone(pair.images.tensors)
        proposals, _ = pair.theirs.rpn(pair.images, features)
        expected, _ = pair.theirs.roi_heads(features, proposals, pair.images.image_sizes)
    for found, want in zip(pair.ours.predict(pair.batch), expected, strict=True):
        assert len(want["labels"]) > 20
        assert torch.equal(found["labels"], want["labels"] - 1)
        assert_close(found["scores"], want["scores"], **CLOSE)
        # The file's image is twice as large.
        assert_close(found["boxes"] / (2 * SIZE), want["boxes"] / SIZE, **CLOSE)


# --- what the two verbs promise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"anchor_sizes": [[12], [24], [48], [96]], "fpn_norm": "group", "rpn_convs": 2},
        {"head": "conv_fc", "head_norm": "group", "sampling_ratio": 0},
        {
            "levels": ["c4"],
            "fpn_channels": None,
            "anchor_sizes": [[32, 64, 96]],
            "region_features": "roi_pool",
        },
    ],
    ids=["pyramid", "no_extra_level", "conv_fc", "paper"],
)
def test_every_form_learns_in_all_its_parameters_and_predicts_in_original_pixels(
    settings: dict[str, Any],
) -> None:
    # So many samples that some lie on each level.
    model, batch = small(**settings, rpn_samples=4000), make_batch()
    losses = model.losses(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "classification", "box_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    predictions = model.eval().predict(batch)
    assert len(predictions) == len(batch)
    for prediction, (height, width) in zip(predictions, batch.orig_sizes.tolist(), strict=True):
        boxes, scores, labels = prediction["boxes"], prediction["scores"], prediction["labels"]
        assert len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.dtype == scores.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert (scores.diff() <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_losses_of_a_batch_without_any_object_are_finite() -> None:
    batch = make_batch()
    batch.valid = torch.zeros_like(batch.valid)  # type: ignore[arg-type]
    losses = small().losses(batch)
    assert losses["rpn_box"] == losses["box_regression"] == 0
    assert all(loss.isfinite() for loss in losses.values())


def test_an_ignored_object_is_neither_object_nor_background() -> None:
    # All regions lie inside the crowd that covers the image: nothing is left to learn from.
    batch = make_batch(1, objects=1)
    batch.boxes = torch.tensor([[[0.0, 0, 96, 96]]])
    batch.ignore = torch.tensor([[True]])
    losses = small().losses(batch)
    assert losses["classification"] == losses["box_regression"] == 0


@pytest.mark.parametrize(
    "part", ["proposer.offsets.bias", "proposer.objectness.weight", "heads.box.scores.bias"]
)
def test_a_network_that_has_diverged_has_a_loss_that_is_not_finite_and_does_not_crash(part: str) -> None:
    model = small()
    model.get_parameter(part).data.fill_(torch.nan)
    losses = model.losses(make_batch())
    assert not all(loss.isfinite() for loss in losses.values())
    model.predict(make_batch())


def test_bf16_losses_are_float32_and_close_to_the_exact_ones() -> None:
    model, batch = small(), make_batch(4)
    torch.manual_seed(1)
    exact = model.losses(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.losses(batch)
    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    assert_close(rounded, exact, rtol=0.05, atol=0.01)
    sum(rounded.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_same_seed_gives_the_same_losses_and_gradients_bit_for_bit() -> None:
    model, batch, runs = small(), make_batch(), []
    for _ in range(2):
        torch.manual_seed(1)
        losses = model.losses(batch)
        runs.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), list(model.parameters()))])  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class Counting(nn.Module):
    """A head that is no box head: it says how many regions it saw."""

    def losses(self, maps: Any, samples: Any, batch: Batch) -> dict[str, Tensor]:
        return {"counted": samples.drawn.sum().float()}

    def add(self, maps: Any, predictions: list[dict[str, Tensor]], batch: Batch) -> None:
        for prediction in predictions:
            prediction["sides"] = prediction["boxes"][:, 2:] - prediction["boxes"][:, :2]


def test_a_further_head_is_one_more_entry_and_sees_boxes_in_the_batchs_pixels() -> None:
    model, batch = small(score_threshold=0.0), make_batch()
    model.heads["count"] = Counting()
    assert model.losses(batch)["counted"] == len(batch) * 64
    for prediction in model.eval().predict(batch):
        boxes = prediction["boxes"]
        assert len(boxes)
        assert_close((boxes[:, 2:] - boxes[:, :2]) / 2, prediction["sides"], rtol=1e-4, atol=1e-3)


# --- putting it together ---------------------------------------------------------------------------------------------


class WithClassifier(Backbone):
    """Stands for VGG16: a stride-16 map, and fc layers that take 7 x 7 of it."""

    def __init__(self) -> None:
        super().__init__(
            {"c4": FeatureSpec(8, 16), "c5": FeatureSpec(8, 32)}, {"c4": ["body"], "c5": ["pool"]}
        )
        self.body, self.pool = nn.Conv2d(3, 8, 16, stride=16), nn.MaxPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(8 * 49, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU())


def test_the_papers_form_owns_the_backbones_fc_layers_and_reads_its_stride_16_map() -> None:
    backbone = WithClassifier()
    fc7 = backbone.classifier[2].weight
    model = faster_rcnn(
        backbone,
        classes=ClassInfo(NAMES),
        levels=["c4"],
        fpn_channels=None,
        anchor_sizes=[[32, 64, 96]],
        region_features="roi_pool",
        head="vgg_fc",
    )
    assert [name for name, p in model.named_parameters() if p is fc7] == ["heads.box.trunk.layers.2.weight"]
    assert list(backbone.specs) == ["c4"]
    assert model.proposer.objectness.out_channels == 9
    sum(model.losses(make_batch()).values()).backward()  # type: ignore[union-attr]
    assert fc7.grad is not None
    assert fc7.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"levels": ["c2", "c9"]},
            r"task\.levels=\['c2', 'c9'\]: expected levels of this backbone.*c1, c2, c3",
        ),
        ({"levels": []}, r"task\.levels=\[\]"),
        ({"fpn_channels": None}, r"without a pyramid there is one level"),
        ({"anchor_sizes": [[32], [64]]}, r"task\.anchor_sizes=.*expected 4 lists"),
        ({"region_features": "roi_pool"}, r"roi_pool reads one map"),
        ({"head": "vgg_fc"}, r"backbone=vgg16"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_to_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)
