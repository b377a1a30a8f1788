"""Oracles: the paper's sizes and numbers, and the network written out with functions of torch alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from label_scenes import CLASSES, NAMES, make_batch, without_gradient
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.segmentation.unet import BorderWeights, middle, unet
from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.backbones.full_resolution import full_resolution
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.unet import unet_encoder, valid_size
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.segmenter import Segmenter
from cvtasks.nn.upsample import UpsampleKind
from cvtasks.ops.borders import border_weights, components
from cvtasks.types import ClassInfo

KINDS: tuple[UpsampleKind, ...] = (
    "nearest",
    "bed_of_nails",
    "max_unpool",
    "bilinear",
    "transpose_conv",
    "resize_conv",
)


def plain(*, width: int = 4, valid: bool = False, **settings: Any) -> Segmenter:
    torch.manual_seed(0)
    return unet(unet_encoder(width=width, valid=valid), classes=CLASSES, **settings)


def written_out(model: Segmenter, images: Tensor, *, valid: bool) -> Tensor:
    """The paper's figure 1. Images of a size that it takes; with `valid` the result is smaller."""
    state = dict(model.named_parameters())

    def convolutions(x: Tensor, name: str) -> Tensor:
        for n in (0, 2):
            x = F.conv2d(x, state[f"{name}.{n}.weight"], state[f"{name}.{n}.bias"], padding=0 if valid else 1)
            x = F.relu(x)
        return x

    skips = [convolutions(images, "backbone.level0.0")]
    for n in range(1, 5):
        skips.append(convolutions(F.max_pool2d(skips[-1], 2), f"backbone.level{n}.1"))
    x = skips.pop()
    for n in range(4):
        x = F.conv_transpose2d(x, state[f"decoder.upsample.{n}.weight"], stride=2)
        skip = skips.pop()
        cut = (skip.shape[-1] - x.shape[-1]) // 2
        assert valid or cut == 0
        skip = skip[..., cut : cut + x.shape[-2], cut : cut + x.shape[-1]]
        x = convolutions(torch.cat([skip, x], 1), f"decoder.convolutions.{n}")
    return F.conv2d(x, state["decoder.score.weight"], state["decoder.score.bias"])


def test_it_is_the_papers_network() -> None:
    model = plain().eval()
    images = torch.randn(2, 3, 48, 64)
    assert_close(model.logits(images), written_out(model, images, valid=False), rtol=1e-4, atol=1e-5)


def test_it_has_the_papers_31_million_parameters() -> None:
    with torch.device("meta"):
        model = unet(unet_encoder(), classes=ClassInfo(("ground", "cell")))
    widths = (64, 128, 256, 512, 1024)
    by_hand = 2 * 64 + 2  # the scores
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        by_hand += 9 * (inputs + outputs) * outputs + 2 * outputs
    for outputs in widths[:-1]:
        by_hand += 4 * 2 * outputs * outputs + 9 * (2 * outputs + outputs) * outputs + 2 * outputs
    assert sum(p.numel() for p in model.parameters()) == by_hand
    assert round(by_hand / 1e6, 1) == 31.0


def test_without_padding_572_pixels_become_388_as_in_the_paper() -> None:
    assert valid_size(388) == 572
    model = plain(width=1, valid=True).eval()
    assert written_out(model, torch.zeros(1, 3, 572, 572), valid=True).shape[2:] == (388, 388)
    shapes: list[tuple[int, ...]] = []
    model.backbone.level4.register_forward_hook(
        lambda m, args, output: shapes.append(tuple(output.shape[2:]))
    )
    assert model.logits(torch.zeros(1, 3, 388, 388)).shape == (1, len(NAMES), 388, 388)
    assert shapes == [(28, 28)]


def test_without_padding_the_image_is_mirrored_by_92_pixels_and_every_pixel_gets_its_own_scores() -> None:
    model = plain(width=2, valid=True).eval()
    images = torch.randn(1, 3, 96, 128)
    # 96 + 60 and 128 + 60 pixels: 10 and 12 times 16, and 124 more.
    bottom, right = 284 - 96 - 92, 316 - 128 - 92
    larger = F.pad(images, (92, right - 8, 92, bottom - 8), mode="reflect")
    larger = F.pad(larger, (0, 8, 0, 8))  # what is mirrored twice is cut off again anyway
    expected = written_out(model, larger, valid=True)[..., :96, :128]
    assert_close(model.logits(images)[..., :80, :112], expected[..., :80, :112], rtol=1e-4, atol=1e-5)


BACKBONES: dict[str, Any] = {
    "plain": lambda: unet_encoder(width=4, norm="batch"),
    "valid": lambda: unet_encoder(width=4, valid=True),
    "tiny": lambda: tiny(width=16),
    "resnet18": lambda: resnet(depth=18, norm="batch"),
    "mobilenet": lambda: mobilenet(size="small"),
    "alexnet": alexnet,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_on_any_backbone_it_labels_images_of_any_size(name: str) -> None:
    torch.manual_seed(0)
    model, batch = unet(BACKBONES[name](), classes=CLASSES, norm="batch"), make_batch(size=128)
    losses = model.losses(batch)
    losses["segmentation"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    for prediction, size in zip(model.eval().predict(batch), batch.orig_sizes.tolist(), strict=True):
        assert list(prediction["segmentation"].shape) == size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plain", "tiny"])
def test_every_kind_of_up_sampling_learns_in_all_its_parameters(name: str, kind: UpsampleKind) -> None:
    torch.manual_seed(0)
    model, batch = unet(BACKBONES[name](), classes=CLASSES, norm="batch", upsample=kind), make_batch(size=96)
    model.losses(batch)["segmentation"].backward()
    assert without_gradient(model) == []
    assert model.eval().predict(batch)[0]["segmentation"].shape == (192, 192)


def test_max_unpool_puts_values_where_the_skip_has_its_maxima() -> None:
    model = plain(upsample="max_unpool").eval()
    seen: list[tuple[Tensor, Tensor]] = []
    model.decoder.upsample[3].register_forward_hook(lambda m, args, output: seen.append((args[1], output)))
    model.logits(torch.randn(1, 3, 32, 32))
    ((skip, unpooled),) = seen
    _, positions = F.max_pool2d(skip, 2, return_indices=True)
    assert unpooled.flatten(2).gather(2, positions.flatten(2)).count_nonzero() == unpooled.count_nonzero()
    assert unpooled.count_nonzero() > 100


def test_channels_of_each_step_are_the_skips_or_those_that_are_asked_for() -> None:
    def widths(**settings: Any) -> list[int]:
        model = unet(resnet(depth=18), classes=CLASSES, **settings)
        return [step[0].out_channels for step in model.decoder.convolutions]

    assert widths() == [256, 128, 64, 64, 32]
    assert widths(channels=[256, 128, 64, 32, 16]) == [256, 128, 64, 32, 16]
    assert [step[0].out_channels for step in plain(width=8).decoder.convolutions] == [64, 32, 16, 8]
    on_vgg = unet(vgg16(), classes=CLASSES)
    assert on_vgg.decoder.skips == ["c4", "c3", "c2", "c1", "c0"]


@pytest.mark.parametrize(("window", "margin"), [(224, 96), (256, 96)])
def test_tiles_with_the_papers_margin_give_the_labels_of_the_whole_image(window: int, margin: int) -> None:
    # A pixel sees no further than 92 pixels, and tiles begin where the pools' windows do.
    model = plain(width=4).eval()
    batch = make_batch(1, size=160)
    whole = F.pad(model.backbone.normalize(batch.images, batch.sizes), (96, 96, 96, 96), mode="reflect")
    model.decoder.score.bias.data.sub_(model.logits(whole).mean((0, 2, 3)))  # else one class is everywhere
    expected = model.logits(whole)[0, :, 96:-96, 96:-96].argmax(0)
    assert len(expected.unique()) > 1
    model.window, model.margin = window, margin
    batch.orig_sizes = batch.sizes
    (found,) = model.predict(batch)
    assert (found["segmentation"] != expected).sum() <= 2  # sums of another order


def test_the_loss_is_weighted_between_touching_objects() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[0, 20:40, 8:28] = labels[0, 20:40, 31:55] = 1
    batch = make_batch(1)
    batch.segmentation = labels
    expected = border_weights(components(labels), weight=10.0, sigma=5.0)
    assert expected[0, 30, 29] > 5 > 1.1 > expected[0, 5, 5]
    assert_close(BorderWeights(10.0, 5.0)(batch), expected)

    model = plain(border_weight=10.0)
    model.eval()
    logits = model.logits(model.backbone.normalize(batch.images, batch.sizes))
    each = F.cross_entropy(logits, labels.long(), reduction="none")
    assert_close(model.losses(batch)["segmentation"], (each * expected).mean())
    assert plain(border_weight=0.0).pixel_weights is None


def test_masks_tell_objects_apart_that_touch() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[0, 20:40, 8:50] = 1
    batch = make_batch(1)
    batch.segmentation = labels
    assert (BorderWeights(10.0, 5.0)(batch) == 1).all()  # one region
    masks = torch.zeros(1, 3, 64, 64, dtype=torch.bool)
    masks[0, 0, 20:40, 8:28], masks[0, 1, 20:40, 28:50] = True, True
    masks[0, 2] = True  # padding, not an object
    batch.masks, batch.valid = masks, torch.tensor([[True, True, False]])
    weights = BorderWeights(10.0, 5.0)(batch)
    assert weights[0, 19, 27] > 8
    assert (weights[0, 20:40, 8:50] == 1).all()


def test_the_middle_of_a_map_is_as_far_from_either_side() -> None:
    assert_close(middle(torch.arange(10.0).view(1, 1, 1, 10), 1, 4).flatten(), torch.arange(3.0, 7.0))


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        (lambda: full_resolution(width=4), {}, r"maps are as large as the image"),
        (lambda: tiny(width=16), {"channels": [8, 8]}, r"from stride 32 to the image there are 5 steps"),
    ],
)
def test_parts_that_do_not_fit_are_refused(backbone: Any, settings: dict[str, Any], message: str) -> None:
    made: Backbone = backbone()
    with pytest.raises(ConfigError, match=message):
        unet(made, classes=CLASSES, **settings)


def test_bf16_losses_are_float32_and_close_to_the_exact_ones() -> None:
    model, batch = unet(tiny(width=16), classes=CLASSES, norm="batch"), make_batch(4)
    exact = model.losses(batch)["segmentation"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.losses(batch)["segmentation"]
    assert rounded.dtype == torch.float32
    assert_close(rounded, exact, rtol=0.05, atol=0.01)


def test_dropout_ends_the_contracting_path_and_only_in_training() -> None:
    model = plain()
    assert isinstance(model.backbone.level4[-1], nn.Dropout)
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(model.logits(images), model.logits(images))
    model.eval()
    assert torch.equal(model.logits(images), model.logits(images))
