"""What all systems of segmentation share, with a decoder of one layer, whose logits can be worked out by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.segmenter import Segmenter, images_like
from cvtasks.ops import pixel_losses
from cvtasks.types import Batch, ClassInfo

CLASSES = ClassInfo(("ground", "red", "green", "blue"))
COLORS = torch.tensor([[90, 90, 90], [250, 20, 20], [20, 250, 20], [20, 20, 250]], dtype=torch.uint8)


class OneMap(Backbone):
    """The image itself, or the mean of each `stride` x `stride` of its pixels."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__({"c0": FeatureSpec(3, stride)})
        self.stride = stride

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"c0": F.avg_pool2d(images, self.stride)}


class NearestColor(nn.Module):
    """Logits: minus the distance to the normalised colour of each class. Remembers how large the images were."""

    class_layers = ("scale",)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.colors = ((COLORS.float() - backbone.mean) / backbone.std)[None, :, :, None, None]
        self.seen: list[tuple[int, ...]] = []

    def forward(self, maps: dict[str, Tensor], images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return -self.scale * (maps["c0"][:, None] - self.colors).square().sum(2)


def make(stride: int = 1, **options: Any) -> Segmenter:
    backbone = OneMap(stride)
    return Segmenter(backbone, NearestColor(backbone), classes=CLASSES, **options)


def painted(images: int = 2, *, size: int = 64) -> tuple[Batch, list[Tensor]]:
    """Images of different heights in blocks of the classes' colours, and the classes of their pixels."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, len(CLASSES), (images, size // 8, size // 8), generator=generator)
    classes = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    pixels = COLORS[classes].permute(0, 3, 1, 2).contiguous()
    heights = size - 8 * torch.arange(images)
    labels = classes.byte()
    for n, height in enumerate(heights.tolist()):
        pixels[n, :, height:], labels[n, height:] = 0, 255
    sizes = torch.stack([heights, torch.full_like(heights, size)], 1)
    batch = Batch(pixels, sizes, sizes.clone(), list(range(images)), segmentation=labels)
    return batch, [label[:height] for label, height in zip(labels, heights.tolist(), strict=True)]


def predicted(model: Segmenter, batch: Batch) -> list[Tensor]:
    return [prediction["segmentation"] for prediction in model.eval().predict(batch)]


WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "windows": {"eval_window": 24, "eval_stride": 10},
    "tiles": {"eval_window": 40, "eval_margin": 8},
    "flip": {"eval_flip": True},
    "scales": {"eval_scales": [1.0, 2.0], "eval_flip": True},
    "windows_at_two_scales": {"eval_window": 32, "eval_scales": [1.0, 2.0]},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_predicting_labels_each_pixel_of_the_image_and_none_of_the_padding(way: str) -> None:
    batch, expected = painted()
    for found, want in zip(predicted(make(**WAYS[way]), batch), expected, strict=True):
        assert found.dtype == torch.uint8
        assert torch.equal(found, want)


@pytest.mark.parametrize("way", WAYS)
def test_predictions_are_as_large_as_the_image_in_its_file(way: str) -> None:
    batch, expected = painted()
    batch.orig_sizes = batch.sizes * torch.tensor([3, 2])
    for found, want in zip(predicted(make(**WAYS[way]), batch), expected, strict=True):
        larger = want.repeat_interleave(3, 0).repeat_interleave(2, 1)
        assert found.shape == larger.shape
        assert (
            found == larger
        ).float().mean() > 0.9  # between two blocks their mean may be nearer to a third


def test_coarse_logits_are_resized_before_losses_and_labels() -> None:
    batch, _ = painted()
    model = make(stride=4)
    images = model.backbone.normalize(batch.images, batch.sizes)
    logits = F.interpolate(model.logits(images), size=(64, 64), mode="bilinear")
    assert model.logits(images).shape[2:] == (16, 16)
    assert batch.segmentation is not None
    expected = pixel_losses.cross_entropy(logits, batch.segmentation)
    assert_close(model.losses(batch), {"segmentation": expected})
    for n, (found, size) in enumerate(zip(predicted(model, batch), batch.sizes.tolist(), strict=True)):
        assert torch.equal(found, logits[n].argmax(0)[: size[0], : size[1]].byte())


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({"eval_window": 24, "eval_stride": 10}, {24}),
        ({"eval_window": 40, "eval_margin": 8}, {40}),
        ({"eval_window": 500}, {64}),
        ({"eval_scales": [0.5, 1.0]}, {32, 64}),
    ],
)
def test_the_network_sees_windows_of_the_size_that_was_asked_for(
    options: dict[str, Any], sides: set[int]
) -> None:
    model = make(**options)
    predicted(model, painted()[0])
    assert {side for shape in model.decoder.seen for side in shape[2:]} == sides


def test_the_image_is_mirrored_around_tiles() -> None:
    batch, _ = painted(1)
    model = make(eval_window=80, eval_margin=8)
    shown: list[Tensor] = []
    model.decoder.register_forward_hook(lambda module, args, output: shown.append(args[1]))
    predicted(model, batch)
    images = model.backbone.normalize(batch.images, batch.sizes)
    assert_close(shown, [F.pad(images, (8, 8, 8, 8), mode="reflect")])


def test_scales_and_flips_average_probabilities_at_the_size_of_the_input() -> None:
    batch, _ = painted()
    model = make(eval_scales=[1.0, 0.5], eval_flip=True)
    images = model.backbone.normalize(batch.images, batch.sizes)
    small = F.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    expected = torch.zeros(2, 4, 64, 64)
    for each in (images, small):
        for axes in ((), (3,)):
            logits = F.interpolate(model.logits(each.flip(axes)).flip(axes), size=(64, 64), mode="bilinear")
            expected += logits.softmax(1)
    assert_close(model.scores(images), expected)


LOSSES: dict[str, tuple[dict[str, Any], Any]] = {
    "cross_entropy": ({}, pixel_losses.cross_entropy),
    "class_weights": (
        {"class_weights": [1, 2, 0.5, 3]},
        lambda *a: pixel_losses.cross_entropy(*a, class_weights=torch.tensor([1, 2, 0.5, 3])),
    ),
    "focal": (
        {"loss": "focal", "focal_gamma": 3.0},
        lambda *a: pixel_losses.focal(*a, gamma=3.0),
    ),
    "hard_pixels": (
        {"loss": "hard_pixels", "hard_threshold": 0.5, "hard_min_kept": 9},
        lambda *a: pixel_losses.hard_pixels(*a, threshold=0.5, min_kept=9),
    ),
    "pixel_weights": (
        {"pixel_weights": lambda batch: batch.segmentation / 64},
        lambda logits, labels: pixel_losses.cross_entropy(logits, labels, pixel_weights=labels / 64),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_computed_with_its_own_settings(name: str) -> None:
    options, expected = LOSSES[name]
    batch, _ = painted()
    batch.images = batch.images.roll(3, -1)  # not everything is right
    model = make(**options)
    model.decoder.scale.data.fill_(0.1)
    assert batch.segmentation is not None
    logits = model.logits(model.backbone.normalize(batch.images, batch.sizes))
    losses = model.losses(batch)
    assert losses["segmentation"] > 0.01
    assert_close(losses, {"segmentation": expected(logits, batch.segmentation)})


def test_dice_is_a_loss_of_its_own_if_it_is_asked_for() -> None:
    batch, _ = painted()
    model = make(dice=True)
    losses = model.losses(batch)
    assert list(losses) == model.loss_names == ["segmentation", "dice"]
    assert make().loss_names == ["segmentation"]
    assert batch.segmentation is not None
    logits = model.logits(model.backbone.normalize(batch.images, batch.sizes))
    assert_close(losses["dice"], pixel_losses.dice(logits, batch.segmentation))


class HostReads(TorchDispatchMode):
    """Counts the operators whose result's size or value the host must wait for."""

    NAMES = {
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::masked_select",
        "aten::unique",
        "aten::equal",
    }

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        by_mask = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        self.count += name in self.NAMES or by_mask
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_for_the_device(name: str) -> None:
    batch, _ = painted()
    model = make(dice=True, **LOSSES[name][0])
    with HostReads() as reads:
        sum(model.losses(batch).values()).backward()  # type: ignore[union-attr]
    assert reads.count == 0


def test_weights_of_classes_are_the_configurations_and_not_the_checkpoints() -> None:
    assert "class_weights" not in make(class_weights=[1, 2, 3, 4]).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"2 numbers for 4 classes \(ground, red"),
        ({"class_weights": "median_frequency"}, r"counted from the training data by cvtasks train"),
        ({"eval_scales": []}, r"task\.eval_scales: the list is empty"),
        ({"eval_stride": 8}, r"set task\.eval_window"),
        ({"eval_window": 16, "eval_stride": 17}, r"would leave gaps"),
        ({"eval_window": 16, "eval_margin": 8}, r"no middle left"),
        ({"eval_window": 32, "eval_margin": 8, "eval_flip": True}, r"set task\.eval_margin=null"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_what_an_up_sampling_layer_is_to_fit_is_no_larger_than_the_image() -> None:
    images = torch.randn(1, 3, 64, 96)
    assert images_like(torch.zeros(1, 1, 16, 24), images, 4) is images
    assert images_like(torch.zeros(1, 1, 15, 24), images, 4).shape == (1, 3, 60, 96)
    assert images_like(torch.zeros(1, 1, 17, 24), images, 4) is images
