"""The oracle of a dense run is the sliding window itself: patch by patch, cut out by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from label_scenes import CLASSES, NAMES, make_batch, without_gradient
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.segmentation.sliding_window import draw_pixels, sliding_window_seg
from cvtasks.nn.backbones.patch_cnn import PatchCNN, patch_cnn
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.segmenter import Segmenter

NETWORKS: dict[str, dict[str, Any]] = {
    "farabet": {"channels": (4, 6, 8)},
    "even_kernels": {"channels": (4, 6, 8), "kernels": (4, 3, 2), "pools": (2, 3, 1)},
    "one_pool": {"channels": (4, 6), "kernels": (5, 3), "pools": (3, 1)},
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pyramid": {"scales": 3},
    "recurrence": {"recurrence": 3},
    "both": {"scales": 2, "recurrence": 2},
}
SMALL = NETWORKS["even_kernels"]


def make(network: dict[str, Any] = SMALL, **settings: Any) -> Segmenter:
    """With used norm statistics, and scores under which all classes occur in noise."""
    torch.manual_seed(0)
    model = sliding_window_seg(patch_cnn(**network), classes=CLASSES, hidden=8, **settings).double().eval()
    for norm in model.backbone.norms:
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    if settings.get("recurrence", 1) > 1:
        model.decoder.feedback.weight.data.mul_(5)
    with torch.no_grad():
        model.decoder.score.weight.mul_(10)
        model.decoder.score.bias.sub_(model.logits(torch.randn(1, 3, 24, 24).double()).mean((0, 2, 3)))
    return model


def as_sliding(model: Segmenter, *, slide: int = 1) -> Segmenter:
    model.evaluate, model.slide = "sliding", slide
    return model


# --- one network, two ways -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_dense_and_sliding_give_the_same_labels_up_to_the_border(network: str, form: str) -> None:
    model = make(NETWORKS[network], **FORMS[form])
    height, width = (12, 11) if network == "farabet" else (22, 19)  # its 46 x 46 pixels take long
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    dense = model.logits(images)
    sliding = as_sliding(model).logits(images)
    assert dense.shape == sliding.shape == (2, len(NAMES), height, width)
    assert len(dense.argmax(1).unique()) > 1
    assert torch.equal(dense.argmax(1), sliding.argmax(1))
    assert_close(dense, sliding)


def test_predictions_of_both_ways_are_the_same_label_maps() -> None:
    model, batch = make(NETWORKS["farabet"]).float(), make_batch(size=32)
    dense = model.predict(batch)
    for one, other in zip(dense, as_sliding(model).predict(batch), strict=True):
        assert one["segmentation"].shape[1] == 64
        assert torch.equal(one["segmentation"], other["segmentation"])


def test_the_label_of_a_pixel_is_that_of_the_patch_around_it_with_zeros_outside_the_image() -> None:
    model = make(NETWORKS["farabet"])
    images = torch.randn(1, 3, 30, 40, dtype=torch.float64)
    logits = model.logits(images)
    side = model.backbone.patch
    for y, x in ((0, 0), (29, 39), (13, 20)):
        patch = torch.zeros(1, 3, side, side, dtype=torch.float64)
        for i in range(side):
            for j in range(side):
                row, column = y - side // 2 + i, x - side // 2 + j
                if 0 <= row < 30 and 0 <= column < 40:
                    patch[0, :, i, j] = images[0, :, row, column]
        features = model.backbone.on_patches(patch)
        assert features.shape[2:] == (1, 1)
        assert_close(model.decoder([features])[..., 0, 0], logits[..., y, x])


def test_farabets_network_sees_46_pixels() -> None:
    backbone = patch_cnn()
    assert isinstance(backbone, PatchCNN)
    assert backbone.patch == 46
    assert backbone.on_patches(torch.randn(2, 3, 46, 46)).shape == (2, 256, 1, 1)
    assert backbone.specs["c0"].channels == 256


@pytest.mark.parametrize("slide", [2, 3])
def test_a_coarser_slide_labels_squares_by_the_pixel_in_their_middle(slide: int) -> None:
    model = make()
    images = torch.randn(1, 3, 20, 23, dtype=torch.float64)
    dense = model.logits(images)
    coarse = as_sliding(model, slide=slide).logits(images)
    assert coarse.shape == dense.shape
    for y in range(20):
        for x in range(23):
            middle = [min(p // slide * slide + slide // 2, side - 1) for p, side in ((y, 20), (x, 23))]
            assert_close(coarse[0, :, y, x], dense[0, :, middle[0], middle[1]])


# --- pyramid and recurrence ------------------------------------------------------------------------------------------


def test_every_scale_of_the_pyramid_shares_the_weights_and_sees_the_image_at_half_the_size_of_the_last() -> (
    None
):
    model = make(scales=3)
    plain = make()
    assert [n for n, _ in model.backbone.named_parameters()] == [
        n for n, _ in plain.backbone.named_parameters()
    ]
    images = torch.randn(1, 3, 16, 24, dtype=torch.float64)
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    model.logits(images)
    for scale, features in enumerate(seen):
        reduced = F.avg_pool2d(images, 2**scale)
        expected = model.backbone(reduced)["c0"]
        assert_close(features, F.interpolate(expected, size=(16, 24), mode="nearest"))


def test_a_pass_is_fed_the_labels_of_the_one_before_and_the_first_one_nothing() -> None:
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    model = make(recurrence=2)
    first = model.densely(images, None)
    assert_close(model.densely(images, torch.zeros_like(first)), first)
    assert_close(model.logits(images), model.densely(images, first.softmax(1)))
    assert not torch.allclose(model.logits(images), first)
    assert not hasattr(make().decoder, "feedback")
    assert "decoder.feedback." in model.class_layers


def test_the_label_map_joins_in_as_more_channels_of_the_first_convolution() -> None:
    model = make(recurrence=2)
    images, labels = torch.randn(1, 3, 16, 16).double(), torch.rand(1, len(NAMES), 16, 16).double()
    first = model.backbone.convolutions[0]
    weight = torch.cat([first.weight, model.decoder.feedback.weight], dim=1)
    padded = model.backbone.padded(torch.cat([images, labels], dim=1))
    alone = model.backbone.padded(images)
    added = model.decoder.feedback(model.backbone.padded(labels))
    assert_close(F.conv2d(alone, first.weight) + added, F.conv2d(padded, weight))
    seen: list[Tensor] = []
    model.backbone.norms[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.densely(images, labels)
    assert_close(seen[0], F.conv2d(padded, weight))


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_is_learnt_from_patches_is_what_a_dense_run_says_of_their_pixels(form: str) -> None:
    model, batch = make(samples=20, **FORMS[form]), make_batch(size=32)
    images = model.backbone.normalize(batch.images, batch.sizes).double()
    number = (
        torch.arange(32 * 32, dtype=torch.uint8).view(1, 32, 32).repeat(2, 1, 1)
    )  # tells where a pixel is
    torch.manual_seed(3)
    examples = model.examples(images, number)
    torch.manual_seed(3)
    index = draw_pixels(number, 20, balanced=True)
    previous = None
    for logits, labels in examples:
        expected = model.densely(images, previous)
        previous = expected.softmax(1)
        assert logits.shape == (40, len(NAMES), 1, 1)
        rows = expected.flatten(2).gather(2, index[:, None].expand(-1, len(NAMES), -1))
        assert_close(logits.flatten(1), rows.transpose(1, 2).flatten(0, 1))
        assert torch.equal(labels.flatten(), number.flatten(1).gather(1, index).flatten())
    assert len(examples) == model.recurrence


@pytest.mark.parametrize("form", FORMS)
def test_every_form_learns_in_all_its_parameters(form: str) -> None:
    model, batch = make(samples=64, **FORMS[form]).float().train(), make_batch(size=32)
    model.losses(batch)["segmentation"].backward()
    assert [n for n in without_gradient(model) if "norms" not in n] == []


def test_pixels_are_drawn_once_each_and_never_of_void_while_there_are_others() -> None:
    labels = make_batch().segmentation
    assert labels is not None
    for balanced in (False, True):
        index = draw_pixels(labels, 100, balanced=balanced)
        assert all(len(set(row)) == 100 for row in index.tolist())
        assert (labels.flatten(1).gather(1, index) != 255).all()
    few = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    few[0, 3, 4] = 1
    assert 3 * 8 + 4 in draw_pixels(few, 5, balanced=True)[0]
    assert draw_pixels(few, 1000, balanced=False).shape == (1, 64)


def test_balanced_drawing_takes_all_classes_alike_and_the_other_as_they_come() -> None:
    labels = torch.zeros(1, 100, 100, dtype=torch.uint8)
    labels[0, :10, :50], labels[0, 10:20, :30] = 1, 2  # 5 % and 3 % of the pixels
    shares = {}
    for balanced in (False, True):
        torch.manual_seed(0)
        drawn = labels.flatten(1).gather(1, draw_pixels(labels, 300, balanced=balanced))
        shares[balanced] = torch.bincount(drawn.flatten().long(), minlength=3) / 300
    assert_close(shares[False], torch.tensor([0.92, 0.05, 0.03]), rtol=0, atol=0.05)
    assert_close(shares[True], torch.full((3,), 1 / 3), rtol=0, atol=0.08)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: sliding_window_seg(tiny(), classes=CLASSES), r"type backbone=patch_cnn"),
        (lambda: make(slide=2), r"task\.slide=2 is for task\.evaluate=sliding"),
        (lambda: patch_cnn(channels=(4, 8)), r"expected three lists of the same length"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_type(run: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run()
