"""The oracle of a dense run are the windows themselves, cropped one by one; that of the grid, counting by hand."""

from typing import Any

import pytest
import torch
from test_faster_rcnn import NAMES, make_batch
from torch import nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.detection.sliding_window import WindowGrid, sample, sliding_window_det
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.backbones.patch_cnn import patch_cnn
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.ops.boxes import iou
from cvtasks.types import Batch, ClassInfo


def network(**settings: Any) -> Backbone:
    """Patches of 10 pixels, which lie 2 apart in a strided run."""
    return patch_cnn(**{"channels": (6, 8), "kernels": (3, 4), "pools": (2, 1)} | settings)


def small(backbone: Backbone | None = None, **settings: Any) -> RegionDetector:
    torch.manual_seed(0)
    backbone = backbone or network()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    settings = {
        "window_sizes": [20, 40],
        "window_ratios": [0.5, 1.0],
        "crop": 14,
        "stride": 4,
        "hidden": 16,
        "roi_negative_iou": 0.3,
    } | settings
    model = sliding_window_det(backbone, classes=ClassInfo(NAMES), **settings)
    nn.init.normal_(model.heads["windows"].scores.weight)  # type: ignore[union-attr, arg-type]
    return model


def batch_of(height: int, width: int, *sizes: tuple[int, int]) -> Batch:
    of_images = torch.tensor(sizes or [(height, width)])
    return Batch(
        torch.zeros(len(of_images), 3, height, width), of_images, of_images, [*range(len(of_images))]
    )


# --- the grid --------------------------------------------------------------------------------------------------------


def test_windows_have_the_sizes_and_ratios_asked_for_and_lie_a_part_of_themselves_apart() -> None:
    grid = WindowGrid([20], [1.0, 4.0], crop=10, stride=5)
    boxes = grid.propose({}, batch_of(40, 40)).boxes[0]
    # Squares of 20 every 10 pixels, 3 x 3; then 40 high and 10 wide, every 5 pixels across: 1 x 7.
    squares = [[x, y, x + 20.0, y + 20.0] for y in (0.0, 10, 20) for x in (0.0, 10, 20)]
    towers = [[x, 0.0, x + 10.0, 40.0] for x in (0.0, 5, 10, 15, 20, 25, 30)]
    assert_close(boxes, torch.tensor(squares + towers))


def test_the_last_window_reaches_the_images_end_and_a_large_one_covers_it() -> None:
    boxes = WindowGrid([20], [1.0], crop=10, stride=5).propose({}, batch_of(30, 45)).boxes[0]
    assert boxes[:, 0].unique().tolist() == [0, 10, 20, 30]  # up to 50: the one before ends at 40
    assert boxes[:, 1].unique().tolist() == [0, 10]
    boxes = WindowGrid([99], [1.0], crop=10, stride=5).propose({}, batch_of(30, 45)).boxes[0]
    assert_close(boxes, torch.tensor([[0.0, 0, 99, 99]]))


def test_a_smaller_image_of_the_batch_has_the_windows_that_it_has_alone() -> None:
    grid = WindowGrid([13, 20, 31], [0.5, 1.0, 2.0], crop=14, stride=4)
    sizes = [(64, 80), (40, 61), (17, 80), (9, 9)]
    proposals = grid.propose({}, batch_of(64, 80, *sizes))
    for size, boxes, valid in zip(sizes, proposals.boxes, proposals.valid, strict=True):
        alone = grid.propose({}, batch_of(*size))
        assert alone.valid.all()
        assert_close(boxes[valid], alone.boxes[0])


def test_every_object_of_the_sizes_asked_for_has_a_window_that_overlaps_it_by_half() -> None:
    grid = WindowGrid([16, 22, 32, 45, 64], [0.5, 1.0, 2.0], crop=32, stride=8)
    windows = grid.propose({}, batch_of(128, 128)).boxes[0]
    generator = torch.Generator().manual_seed(0)
    size = 16 * 4 ** torch.rand(500, generator=generator)
    ratio = 4 ** (torch.rand(500, generator=generator) - 0.5)
    sides = torch.stack([size / ratio.sqrt(), size * ratio.sqrt()], dim=1)
    corner = torch.rand(500, 2, generator=generator) * (128 - sides)
    best = iou(torch.cat([corner, corner + sides], dim=1), windows).amax(1)
    assert (best > 0.5).float().mean() > 0.99


# --- one network, two ways -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2},
        {"crop": 10},
        {"window_sizes": [9, 33.3], "window_ratios": [1.0, 1.7]},
        {"backbone": network(kernels=(5, 3), pools=(2, 2), channels=(4, 6)), "crop": 22},
    ],
    ids=["plain", "fine", "patch", "uneven", "two_pools"],
)
def test_dense_and_cropped_windows_have_the_same_scores(settings: dict[str, Any]) -> None:
    model = small(**settings).eval()
    batch = make_batch()
    maps = model.maps(batch)
    proposals = model.proposer.propose(maps, batch)
    head = model.heads["windows"]
    with torch.no_grad():
        dense, crops = head.dense(maps), head(maps, proposals.boxes)  # type: ignore[operator]
    assert crops.std() > 0.1
    assert_close(dense.softmax(-1), crops.softmax(-1), rtol=0, atol=1e-4)
    assert_close(dense, crops, rtol=1e-3, atol=1e-3)


def test_predictions_of_both_ways_are_the_same_detections() -> None:
    batch, found = make_batch(), []
    for run in ("dense", "crops"):
        found.append(small(run=run).eval().predict(batch))
    for one, two in zip(*found, strict=True):
        assert len(one["labels"]) > 5
        assert torch.equal(one["labels"], two["labels"])
        assert_close(one["boxes"], two["boxes"])
        assert_close(one["scores"], two["scores"], rtol=1e-4, atol=1e-4)


def test_with_padding_the_ways_differ_and_crops_are_what_the_network_learnt() -> None:
    model = small(tiny(width=16), level="c3", crop=32, stride=8).eval()
    batch = make_batch()
    maps = model.maps(batch)
    boxes = model.proposer.propose(maps, batch).boxes
    head = model.heads["windows"]
    with torch.no_grad():
        dense, crops = head.dense(maps), head(maps, boxes)  # type: ignore[operator]
        alone = head.logits(sample(maps["image"][:1], torch.tensor([[0.0, *boxes[0, 7].tolist()]]), (32, 32)))  # type: ignore[operator]
    assert dense.shape == crops.shape
    assert not torch.allclose(dense, crops, atol=1e-2)
    assert_close(alone.flatten(), crops[0, 7])


def test_a_crop_is_the_image_inside_its_window() -> None:
    images = torch.rand(1, 3, 40, 40)
    same = sample(images, torch.tensor([[0.0, 8, 4, 24, 28]]), (24, 16))
    # Two points a side in each pixel, a quarter from its middle: 1/8, 3/4 and 1/8 of it and its neighbours.
    kernel = torch.tensor([0.125, 0.75, 0.125])
    smooth = torch.nn.functional.conv2d(images[0][:, None], (kernel[:, None] * kernel)[None, None])[:, 0]
    assert_close(same[0], smooth[:, 3:27, 7:23])
    ramp = torch.arange(40.0).expand(1, 3, 40, 40)
    half = sample(ramp, torch.tensor([[0.0, 8, 8, 24, 24]]), (8, 8))
    assert_close(half[0, 0, 0], torch.arange(8.0) * 2 + 8.5)


# --- learning --------------------------------------------------------------------------------------------------------


def test_windows_are_positive_from_half_an_overlap_on_and_background_below_three_tenths() -> None:
    model, batch = small(roi_samples=4000, roi_positive_fraction=0.5), make_batch(1)
    maps = model.maps(batch)
    proposals, losses = model.proposer.learn(maps, batch)
    samples = model.sampler(maps, proposals, batch, None)
    assert losses == {}
    assert batch.boxes is not None
    overlaps = iou(batch.boxes[0], samples.boxes[0]).amax(0)
    assert (overlaps[samples.positive[0]] >= 0.5).all()
    assert (overlaps[samples.drawn[0] & ~samples.positive[0]] < 0.3).all()
    assert 0 < samples.positive.sum() < samples.drawn.sum()


@pytest.mark.parametrize(
    "settings", [{}, {"roi_sampling": "ohem"}, {"backbone": tiny(width=16), "crop": 32, "stride": 32}]
)
def test_it_learns_classes_alone_in_all_its_parameters(settings: dict[str, Any]) -> None:
    model, batch = small(**settings), make_batch()
    losses = model.losses(batch)
    assert set(losses) == {"classification"}
    losses["classification"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_detection_is_a_window_cut_off_at_the_images_border() -> None:
    model, batch = (
        small(score_threshold=0.0, detections_per_image=10_000, nms_threshold=1.0).eval(),
        make_batch(1),
    )
    proposals = model.proposer.propose(model.maps(batch), batch)
    expected = 2 * proposals.boxes[0].clamp(max=96)
    assert_close(model.predict(batch)[0]["boxes"].unique(dim=0), expected.unique(dim=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 3}, r"task\.stride=3: a dense run of this network sees every 2 pixels.*task\.run=crops"),
        ({"crop": 7}, r"task\.crop=7: this network needs crops of 10 pixels at least"),
        ({"backbone": tiny(width=16), "crop": 16, "stride": 32}, r"task\.crop=16.*32 pixels"),
        ({"level": "c3"}, r"task\.level=c3: expected levels of this backbone, which are c0"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_type(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)
