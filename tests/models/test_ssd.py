"""Oracle: torchvision's SSDs with the same weights; and what the configuration promises."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection

from cvtasks.assembly import start_from
from cvtasks.errors import ConfigError, WeightsError
from cvtasks.models.detection.retinanet import retinanet
from cvtasks.models.detection.ssd import ssd
from cvtasks.models.detection.torchvision_ssd import is_torchvision_ssd, load_torchvision_ssd, rename
from cvtasks.models.detection.torchvision_weights import COCO_CATEGORIES
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.dense_detector import DenseDetector
from cvtasks.types import Batch, ClassInfo

NAMES = ("circle", "square", "figure")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LITE: dict[str, Any] = {
    "levels": ["c4_expanded", "c5"],
    "l2_scale": None,
    "fc_channels": None,
    "extra_channels": [512, 256, 256, 128],
    "extra_layers": ["half"] * 4,
    "lite": True,
    "norm": "batch",
    "scales": [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0],
    "ratios": [[2, 3]] * 6,
    "steps": None,
    "score_threshold": 0.001,
    "candidates": 300,
    "nms_threshold": 0.55,
    "detections_per_image": 300,
}
SMALL: dict[str, Any] = {
    "levels": ["c3", "c4", "c5"],
    "l2_scale": None,
    "fc_channels": None,
    "extra_channels": [32],
    "extra_layers": ["half"],
    "scales": [0.1, 0.25, 0.45, 0.7, 1.0],
    "ratios": [[2], [2, 3], [2, 3], [2]],
    "steps": None,
}


def make_batch(images: int = 2, *, size: int = 96, objects: int = 3, empty: bool = True) -> Batch:
    """Images of one size, the last without objects where it is not the only one."""
    generator = torch.Generator().manual_seed(0)
    corner, extent = torch.rand(2, images, objects, 2, generator=generator) * (size / 2)
    sizes = torch.full((images, 2), size)
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator),
        sizes=sizes,
        orig_sizes=2 * sizes,
        image_ids=list(range(images)),
        valid=(torch.arange(images) < (max(1, images - 1) if empty else images))[:, None].expand(-1, objects),
        boxes=torch.cat([corner, corner + 0.9 * extent + 5], -1),
        labels=torch.randint(0, len(NAMES), (images, objects), generator=generator),
        ignore=torch.zeros(images, objects, dtype=torch.bool),
    )


def small(**settings: Any) -> DenseDetector:
    torch.manual_seed(0)
    return ssd(tiny(width=16), classes=ClassInfo(NAMES), **SMALL | settings)


@dataclass
class Pair:
    """The same network twice, and the same images."""

    theirs: Any
    ours: DenseDetector
    batch: Batch
    size: int

    @property
    def images(self) -> list[Tensor]:
        return list(self.batch.images.float() / 255)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        assert self.batch.boxes is not None
        assert self.batch.labels is not None
        assert self.batch.valid is not None
        rows = zip(self.batch.boxes, self.batch.labels, self.batch.valid, strict=True)
        return [{"boxes": boxes[valid], "labels": labels[valid] + 1} for boxes, labels, valid in rows]


def randomize(model: Any, images: list[Tensor]) -> None:
    """Weights and norm statistics without a pattern, yet scores and offsets of a sane size, so that much is detected."""
    pixels = model.transform(images)[0].tensors
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become this batch's
    heads = (model.head.classification_head, 2.0), (model.head.regression_head, 0.5)
    with torch.no_grad():
        features = list(model.train().backbone(pixels).values())
        for head, _ in heads:
            head(features)
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.normal_(norm.bias, std=0.1)
        features = list(model.eval().backbone(pixels).values())
        for head, spread in heads:
            for x, layer in zip(features, head.module_list, strict=True):
                last = layer if isinstance(layer, nn.Conv2d) else layer[1]
                nn.init.normal_(last.weight)
                last.weight *= spread / layer(x).std()
                nn.init.normal_(last.bias, std=0.1)


@pytest.fixture(scope="module", params=["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    build = getattr(detection, request.param)
    theirs = build(weights=None, weights_backbone=None, num_classes=len(NAMES) + 1)
    size = theirs.transform.fixed_size[0]
    if request.param == "ssd300_vgg16":
        nn.init.uniform_(theirs.backbone.scale_weight, 10, 30)
        ours = ssd(vgg16(), classes=ClassInfo(NAMES))
    else:
        ours = ssd(mobilenet(norm="batch", reduced_tail=True), classes=ClassInfo(NAMES), **LITE)
    batch = make_batch(size=size)
    pair = Pair(theirs, ours.eval(), batch, size)
    randomize(theirs, pair.images)
    assert load_torchvision_ssd(ours, theirs.state_dict(), classes=NAMES) == []
    return pair


def test_losses_and_their_gradients_are_torchvisions(pair: Pair) -> None:
    pair.theirs.training = True  # and the norms stay as they are
    losses = pair.theirs(pair.images, pair.targets)
    pair.theirs.eval()
    expected = {
        "classification": losses["classification"],
        "box_regression": losses["bbox_regression"],
    }
    found = pair.ours.losses(pair.batch)
    assert all(loss > 1e-2 for loss in expected.values())
    assert_close(found, expected, **CLOSE)

    sum(found.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()
    ours, lite = dict(pair.ours.named_parameters()), hasattr(pair.theirs.backbone, "scale_weight") is False
    for key, parameter in pair.theirs.named_parameters():
        name = rename(key, lite=lite)
        if not name.startswith("head.scores."):  # the background stands elsewhere
            gradient, want = ours[name].grad, parameter.grad
            assert gradient is not None
            assert (gradient - want).norm() <= 1e-2 * want.norm() + 1e-6, name


def test_boxes_labels_and_scores_are_torchvisions(pair: Pair) -> None:
    with torch.no_grad():
        expected = pair.theirs(pair.images)
    for found, want in zip(pair.ours.predict(pair.batch), expected, strict=True):
        assert len(want["labels"]) >= 200
        # Theirs keep boxes that lie outside of the image, and have no area there: compare what stands before the first.
        wide = (want["boxes"][:, 2:] - want["boxes"][:, :2] > 0.02).all(1)
        first = int(wide.int().cumprod(0).sum())
        assert first > 100
        assert_close(found["scores"][:first], want["scores"][:first], **CLOSE)
        # Each is another's within rounding; two whose scores differ by less than that may have changed places.
        rows = [
            torch.cat([boxes, (labels + shift)[:, None]], 1)
            for boxes, labels, shift in (
                (found["boxes"] / (2 * pair.size), found["labels"], 1),  # the file's image is twice as large
                (want["boxes"] / pair.size, want["labels"], 0),
            )
        ]
        distance = (rows[0][: first - 2, None] - rows[1]).abs().amax(-1)
        assert distance.amin(1).max() < 1e-4
        assert (distance.argmin(1) - torch.arange(first - 2)).abs().max() <= 2


def test_the_pixels_statistics_come_with_the_weights_and_stay_with_the_model(pair: Pair) -> None:
    mean, std = (torch.tensor(getattr(pair.theirs.transform, f"image_{name}")) for name in ("mean", "std"))
    assert_close(pair.ours.backbone.mean, 255 * mean)
    assert_close(pair.ours.state_dict()["backbone.std"], 255 * std)


# --- published weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """As in the published file: 91 outputs."""
    torch.manual_seed(0)
    network = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    return network.state_dict()


def lite_for(classes: list[str]) -> DenseDetector:
    return ssd(mobilenet(norm="batch", reduced_tail=True), classes=ClassInfo(tuple(classes)), **LITE)


def test_classes_are_found_by_name_also_in_a_file_that_does_not_tell_them(
    published: dict[str, Tensor],
) -> None:
    classes = ["zebra", "person", "cat"]
    # COCO's category ids, which are the rows: zebra 24, person 1, cat 17; and the background, which is 0, comes last.
    rows = torch.tensor([24, 1, 17, 0])
    theirs = published["head.classification_head.module_list.2.1.weight"].view(6, 91, -1)
    for names in (COCO_CATEGORIES, None):
        model = lite_for(classes)
        assert load_torchvision_ssd(model, published, classes=classes, names=names) == []
        assert torch.equal(model.head.scores[2][1].weight.view(6, 4, -1), theirs[:, rows])
        offsets = published["head.regression_head.module_list.5.1.bias"]
        assert torch.equal(model.head.offsets[5][1].bias, offsets)


def test_with_other_classes_the_scores_start_fresh_and_one_note_says_so(published: dict[str, Tensor]) -> None:
    classes = ["person", "platelet"]
    model = lite_for(classes)
    fresh = model.head.scores[0][1].weight.clone()
    (note,) = load_torchvision_ssd(model, published, classes=classes, source="ssdlite320")
    assert "no platelet" in note
    assert "start fresh" in note
    assert torch.equal(model.head.scores[0][1].weight, fresh)
    assert torch.equal(model.head.offsets[0][1].bias, published["head.regression_head.module_list.0.1.bias"])


def test_a_file_that_the_user_names_is_known_by_its_keys(published: dict[str, Tensor]) -> None:
    model = lite_for(["cat"])
    assert start_from(model, (published, None), ClassInfo(("cat",)), "ssdlite.pth") == []
    want = published["backbone.features.1.0.3.0.weight"]
    assert torch.equal(model.backbone.get_parameter("features.13.block.3.0.weight"), want)


def test_weights_go_to_no_other_detector_and_not_to_another_network(published: dict[str, Tensor]) -> None:
    assert is_torchvision_ssd(published)
    assert not is_torchvision_ssd(lite_for(["a"]).state_dict())
    other = retinanet(tiny(width=16), classes=ClassInfo(NAMES))
    with pytest.raises(WeightsError, match="weights=x: an SSD of torchvision's; type task=ssd"):
        load_torchvision_ssd(other, published, classes=NAMES, source="x")
    with pytest.raises(WeightsError, match="weights=x: do not fit"):
        load_torchvision_ssd(small(), published, classes=NAMES, source="x")


# --- what the two verbs promise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backbone", [lambda: resnet(depth=18), lambda: mobilenet(size="small", norm="group")]
)
@pytest.mark.parametrize("lite", [False, True])
def test_on_other_networks_all_parameters_learn_and_boxes_are_in_original_pixels(
    backbone: Any, lite: bool
) -> None:
    torch.manual_seed(0)
    settings = SMALL | {"lite": lite, "norm": "group", "score_threshold": 0.0, "negatives": 1e6}
    model, batch = ssd(backbone(), classes=ClassInfo(NAMES), **settings), make_batch(objects=4, empty=False)
    batch.boxes = torch.tensor([[0.0, 0, side, side] for side in (11, 26, 48, 85)]).repeat(
        2, 1, 1
    )  # one for each map
    losses = model.losses(batch)
    assert set(losses) == {"classification", "box_regression"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    for prediction in model.eval().predict(batch):
        boxes, scores = prediction["boxes"], prediction["scores"]
        assert 0 < len(boxes) <= 200
        assert boxes.dtype == scores.dtype == torch.float32
        assert (scores.diff() <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes <= 192).all()
        assert boxes.max() > 96


def test_losses_of_a_batch_without_any_object_are_zero() -> None:
    batch = make_batch()
    batch.valid = torch.zeros_like(batch.valid)  # type: ignore[arg-type]
    losses = small().losses(batch)
    assert losses["classification"] == losses["box_regression"] == 0


def test_bf16_losses_are_float32_and_close_to_the_exact_ones() -> None:
    model, batch = small(l2_scale=20.0, norm="group"), make_batch(4)
    exact = model.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.losses(batch)
    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    assert_close(rounded, exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("part", ["head.offsets.0.bias", "head.scores.1.weight", "neck.extra.0.0.weight"])
def test_a_network_that_has_diverged_has_a_loss_that_is_not_finite_and_does_not_crash(part: str) -> None:
    model = small()
    model.get_parameter(part).data.fill_(torch.nan)
    losses = model.losses(make_batch())
    assert not all(loss.isfinite() for loss in losses.values())
    model.eval().predict(make_batch())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["c2", "c9"]}, r"task\.levels=\['c2', 'c9'\]: expected levels of this backbone"),
        ({"ratios": [[2]] * 3, "scales": [0.1] * 4}, r"task\.ratios: 3 lists; expected 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_to_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)


def test_a_run_passes_its_backbone_on_without_the_pixels_statistics(tmp_path: Path) -> None:
    model = small()
    (tmp_path / "checkpoints").mkdir()
    content = {
        "version": 1,
        "model": model.state_dict(),
        "config": "task: {name: ssd}",
        "classes": {"names": []},
    }
    torch.save(content, tmp_path / "checkpoints" / "best.pt")
    backbone = tiny(width=16, weights=str(tmp_path))
    assert torch.equal(backbone.layer3[0].conv1.weight, model.backbone.layer3[0].conv1.weight)
