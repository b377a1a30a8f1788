"""Oracles: torchvision's VGG16 classifier, `F.interpolate`, and the sums of the paper's figure 3 written out."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from label_scenes import CLASSES, NAMES, make_batch, randomized, without_gradient
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision import models

from cvtasks.assembly import start_from
from cvtasks.errors import ConfigError, WeightsError
from cvtasks.models.segmentation.fcn import as_convolutions, fcn8s, fcn16s, fcn32s, fcn_full_res
from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.full_resolution import full_resolution
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.unet import unet_encoder
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.segmenter import Segmenter
from cvtasks.nn.upsample import UpsampleKind
from cvtasks.types import ClassInfo

SYSTEMS = {32: fcn32s, 16: fcn16s, 8: fcn8s}


def small(stride: int, *, seed: int = 0, classes: ClassInfo = CLASSES, **settings: Any) -> Segmenter:
    torch.manual_seed(seed)
    return SYSTEMS[stride](tiny(width=16), classes=classes, **settings)


def bilinear(scores: Tensor, factor: int) -> Tensor:
    return F.interpolate(scores, scale_factor=factor, mode="bilinear")


# --- a classifier made convolutional ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_vgg16_as_convolutions_gives_its_classifiers_scores_in_the_middle_of_a_224_pixel_image() -> None:
    torch.manual_seed(0)
    theirs = models.vgg16().eval()
    backbone = vgg16(with_classifier=True)
    backbone.load_state_dict(theirs.state_dict() | {}, strict=False)
    images = torch.randn(1, 3, 224, 224)
    model = fcn32s(backbone, classes=ClassInfo(tuple(map(str, range(1000)))), upsample="nearest").eval()
    last = theirs.classifier[6]
    model.decoder.score.weight.data.copy_(last.weight[:, :, None, None])
    model.decoder.score.bias.data.copy_(last.bias)
    with torch.no_grad():
        pool5 = model.backbone(images)["c5"]
        scores = model.decoder.score(model.decoder.head(pool5))
        assert scores.shape == (1, 1000, 7, 7)
        assert_close(scores[..., 3, 3], theirs(images), rtol=1e-3, atol=1e-4)


def test_fully_connected_layers_become_convolutions_that_give_the_same_where_they_see_the_same() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Linear(6 * 5 * 5, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 7), nn.ReLU(), nn.Dropout()
    ).eval()
    layers = as_convolutions(classifier, 6).eval()
    assert [m.kernel_size for m in layers if isinstance(m, nn.Conv2d)] == [(5, 5), (1, 1)]
    maps = torch.randn(2, 6, 9, 12)
    found = layers(maps)
    assert found.shape == (2, 7, 9, 12)
    # In position (y, x) of the middle stands what the classifier says of the 5 x 5 around it.
    for y, x in ((2, 2), (4, 7), (6, 9)):
        around = maps[:, :, y - 2 : y + 3, x - 2 : x + 3]
        assert_close(found[:, :, y, x], classifier(around.flatten(1)))


def test_the_backbones_fc_layers_move_into_the_model_with_their_weights() -> None:
    backbone = alexnet(with_classifier=True)
    fc7 = backbone.classifier[4].weight.detach().clone()
    model = fcn32s(backbone, classes=CLASSES)
    assert not any(name.startswith("backbone.classifier") for name, _ in model.named_parameters())
    assert_close(model.decoder.head[4].weight.flatten(1), fc7)
    assert model.decoder.score.in_channels == 4096


def test_vgg16s_skips_are_its_pools_and_a_resnets_its_last_layers() -> None:
    on_vgg, on_resnet = (fcn8s(backbone, classes=CLASSES) for backbone in (vgg16(), resnet(depth=18)))
    assert on_vgg.decoder.levels == {16: "c4_first", 8: "c3_first"}
    assert on_resnet.decoder.levels == {16: "c4", 8: "c3"}
    assert on_vgg.decoder.top == on_resnet.decoder.top == "c5"
    images = torch.randn(1, 3, 64, 64)
    maps = on_vgg.backbone(images)
    assert_close(maps["c4_first"], F.max_pool2d(maps["c3"], 2))
    assert_close(maps["c3_first"], F.max_pool2d(maps["c2"], 2))


# --- what is added up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", SYSTEMS)
def test_scores_of_finer_maps_are_added_to_those_of_coarser_ones_which_are_up_sampled_bilinearly(
    stride: int,
) -> None:
    model = small(stride)
    for layer in (model.decoder.score, *model.decoder.skips.values()):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    images = torch.randn(1, 3, 96, 128)
    maps = model.backbone(images)
    expected = model.decoder.score(maps["c5"])
    for finer, level in ((16, "c4"), (8, "c3")):
        if stride <= finer:
            expected = bilinear(expected, 2) + model.decoder.skips[str(finer)](maps[level])
    expected = bilinear(expected, stride)
    # A transposed convolution sees zeros around its map where F.interpolate repeats the border.
    inner = (..., slice(64, -64), slice(64, -64)) if stride == 32 else (..., slice(48, -48), slice(48, -48))
    found = model.logits(images)
    assert found.shape == (1, len(NAMES), 96, 128)
    assert_close(found[inner], expected[inner], rtol=1e-4, atol=1e-4)
    exact = small(stride, upsample="bilinear")
    exact.load_state_dict({k: v for k, v in model.state_dict().items() if "upsample" not in k}, strict=False)
    assert_close(exact.logits(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", SYSTEMS)
def test_all_scores_begin_at_zero(stride: int) -> None:
    assert not small(stride).logits(torch.randn(1, 3, 64, 64)).any()


@pytest.mark.parametrize(
    "kind", ["nearest", "bed_of_nails", "max_unpool", "bilinear", "transpose_conv", "resize_conv"]
)
@pytest.mark.parametrize("stride", SYSTEMS)
def test_every_kind_of_up_sampling_learns_in_all_its_parameters(stride: int, kind: UpsampleKind) -> None:
    model, batch = randomized(small(stride, upsample=kind)), make_batch()
    losses = model.losses(batch)
    losses["segmentation"].backward()
    assert without_gradient(model) == []
    for prediction, size in zip(model.eval().predict(batch), batch.orig_sizes.tolist(), strict=True):
        assert list(prediction["segmentation"].shape) == size
        assert prediction["segmentation"].max() < len(NAMES)


def test_a_network_whose_maps_are_a_little_small_is_stretched_to_the_image() -> None:
    batch = make_batch(size=128)
    model = fcn16s(alexnet(), classes=CLASSES)
    assert model.losses(batch)["segmentation"].isfinite()
    assert [list(p["segmentation"].shape) for p in model.eval().predict(batch)] == batch.orig_sizes.tolist()


# --- staged training -------------------------------------------------------------------------------------------------


def stage_weights(model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    return {k: v.clone() for k, v in model.state_dict().items()}, NAMES


@pytest.mark.parametrize(("coarse", "fine"), list(pairwise(SYSTEMS)))
def test_the_next_stage_starts_as_what_the_last_one_has_become(coarse: int, fine: int) -> None:
    before, after = small(coarse, upsample="bilinear"), small(fine, seed=1, upsample="bilinear")
    randomized(before)
    (note,) = start_from(after, stage_weights(before), CLASSES, "runs/before")
    assert note.startswith("weights=runs/before are of an earlier stage")
    assert f"decoder.skips.{fine}.weight" in note
    assert "zero" in note
    images = torch.randn(1, 3, 64, 64)
    maps = after.backbone(images)
    assert_close(after.decoder.score(maps["c5"]), before.decoder.score(maps["c5"]))
    # Nothing is added yet, so all that differs is in how many steps it is up-sampled.
    coarse_logits, fine_logits = before.eval().logits(images), after.eval().logits(images)
    assert (coarse_logits - fine_logits).abs().mean() < 0.1 * coarse_logits.std()


def test_a_later_stages_up_sampling_is_bilinear_where_the_earlier_one_had_another_kernel() -> None:
    before, after = randomized(small(32)), small(16, seed=1)
    new = {k: v.clone() for k, v in after.state_dict().items() if ".upsample." in k or ".skips." in k}
    start_from(after, stage_weights(before), CLASSES, "w")
    assert {k: after.state_dict()[k] for k in new}.keys() == new.keys()
    assert all(torch.equal(after.state_dict()[k], v) for k, v in new.items())
    assert torch.equal(after.decoder.score.weight, before.decoder.score.weight)


def test_a_stage_for_other_classes_keeps_the_body_and_says_both() -> None:
    before, after = randomized(small(32)), small(16, classes=ClassInfo(("a", "b")))
    notes = start_from(after, stage_weights(before), ClassInfo(("a", "b")), "w")
    assert len(notes) == 2
    assert "decoder.score.weight" in notes[1]
    assert not after.decoder.score.weight.any()
    assert torch.equal(after.backbone.stem1[0].weight, before.backbone.stem1[0].weight)


def test_weights_of_another_network_are_no_earlier_stage() -> None:
    state, names = stage_weights(small(32))
    del state["backbone.stem1.0.weight"]
    with pytest.raises(WeightsError, match=r"missing backbone\.stem1\.0\.weight"):
        start_from(small(16), (state, names), CLASSES, "w")


# --- full resolution -------------------------------------------------------------------------------------------------


def test_without_down_sampling_every_map_is_as_large_as_the_image() -> None:
    model = fcn_full_res(full_resolution(width=8, dilations=(1, 2, 1)), classes=CLASSES)
    shapes: set[tuple[int, ...]] = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ReLU):
            module.register_forward_hook(lambda m, args, output: shapes.add(tuple(output.shape[2:])))
    batch = make_batch()
    randomized(model).losses(batch)["segmentation"].backward()
    assert shapes == {(64, 64)}
    # The first two biases of a norm may be dead behind their ReLUs; every convolution is reached.
    assert not [name for name in without_gradient(model) if name.endswith("0.weight")]


def test_a_pixel_sees_one_more_than_twice_the_sum_of_the_dilations() -> None:
    model = fcn_full_res(full_resolution(width=4, dilations=(1, 2, 3), norm=None), classes=CLASSES)
    images = torch.randn(1, 3, 33, 33, requires_grad=True)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    model.logits(images.abs())[0, 0, 16, 16].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min(), rows.max()) == (16 - 6, 16 + 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fcn_full_res(tiny(), classes=CLASSES), r"type backbone=full_resolution"),
        (
            lambda: fcn8s(full_resolution(width=4), classes=CLASSES),
            r"stride 32, 16, 8; this backbone's have 1;",
        ),
        (lambda: fcn32s(unet_encoder(width=2), classes=CLASSES), r"have 1, 2, 4, 8, 16; type backbone=vgg16"),
        (lambda: full_resolution(dilations=()), r"backbone\.dilations: the list is empty"),
    ],
)
def test_backbones_that_do_not_fit_are_refused_with_what_to_type(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
