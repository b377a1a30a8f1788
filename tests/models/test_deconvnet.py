"""Oracles: VGG16's own pooling with its positions, and the paper's table of layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from label_scenes import CLASSES, NAMES, make_batch, randomized, without_gradient
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.segmentation.deconvnet import deconvnet
from cvtasks.nn.backbones.full_resolution import full_resolution
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.norm import FrozenBatchNorm2d
from cvtasks.nn.segmenter import Segmenter
from cvtasks.nn.upsample import UpsampleKind


def on_vgg(**settings: Any) -> Segmenter:
    torch.manual_seed(0)
    return deconvnet(vgg16(norm="batch"), classes=CLASSES, **({"fc_kernel": 2, "fc_channels": 8} | settings))


def small(**settings: Any) -> Segmenter:
    torch.manual_seed(0)
    return deconvnet(tiny(width=16), classes=CLASSES, **({"fc_kernel": 2, "fc_channels": 8} | settings))


def test_the_mirror_has_the_papers_layers() -> None:
    with torch.device("meta"):
        model = deconvnet(vgg16(norm="batch", with_classifier=True), classes=CLASSES)
    fc6, fc7, back = (m for m in model.decoder.fc if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert (fc6.weight.shape, fc6.padding) == ((4096, 512, 7, 7), (0, 0))
    assert fc7.weight.shape == (4096, 4096, 1, 1)
    assert isinstance(back, nn.ConvTranspose2d)
    assert back.weight.shape == (4096, 512, 7, 7)
    widths = [
        [(m.in_channels, m.out_channels) for m in step if isinstance(m, nn.Conv2d)]
        for step in model.decoder.convolutions
    ]
    assert widths == [
        [(512, 512), (512, 512), (512, 512)],
        [(512, 512), (512, 512), (512, 256)],
        [(256, 256), (256, 256), (256, 128)],
        [(128, 128), (128, 64)],
        [(64, 64), (64, 64)],
    ]
    # Batch norm behind every convolution but the scores.
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert len(norms) == len(convolutions) - 1


def test_fc6_and_fc7_are_the_classifiers() -> None:
    class WithClassifier(type(tiny())):  # type: ignore[misc]
        pass

    backbone = tiny(width=16)
    channels = backbone.specs["c5"].channels
    backbone.classifier = nn.Sequential(nn.Linear(channels * 9, 10), nn.ReLU(), nn.Linear(10, 12), nn.ReLU())
    fc6, fc7 = backbone.classifier[0], backbone.classifier[2]
    model = deconvnet(backbone, classes=CLASSES)
    maps = torch.randn(1, channels, 3, 3)
    found = model.decoder.fc[3](F.relu(model.decoder.fc[0](maps)))
    assert_close(found.flatten(), fc7(F.relu(fc6(maps.flatten(1)))).flatten())


def test_every_unpooling_uses_the_positions_of_the_matching_pooling() -> None:
    model = on_vgg().eval()
    pooled: list[Tensor] = []
    for module in model.backbone.features:
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(
                lambda m, args, output: pooled.append(F.max_pool2d(args[0], 2, return_indices=True)[1])
            )
    unpooled: list[tuple[Tensor, Tensor]] = []
    for module in model.decoder.upsample:
        module.register_forward_hook(lambda m, args, output: unpooled.append((args[0], output)))
    model.logits(torch.randn(1, 3, 64, 96))
    assert len(pooled) == len(unpooled) == 5
    for positions, (small_map, large_map) in zip(reversed(pooled), unpooled, strict=True):
        assert positions.shape == small_map.shape
        expected = F.max_unpool2d(small_map, positions, 2)
        assert expected.any()
        assert_close(large_map, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "kind", ["nearest", "bed_of_nails", "max_unpool", "bilinear", "transpose_conv", "resize_conv"]
)
def test_every_kind_of_up_sampling_learns_in_all_its_parameters(kind: UpsampleKind) -> None:
    model, batch = randomized(small(upsample=kind)), make_batch(size=96)
    model.losses(batch)["segmentation"].backward()
    assert without_gradient(model) == []
    for prediction, size in zip(model.eval().predict(batch), batch.orig_sizes.tolist(), strict=True):
        assert list(prediction["segmentation"].shape) == size
        assert prediction["segmentation"].max() < len(NAMES)


def test_what_fc6_takes_off_its_transpose_gives_back() -> None:
    model = small(fc_kernel=3).eval()
    assert model.logits(torch.randn(1, 3, 96, 160)).shape == (1, len(NAMES), 96, 160)
    with pytest.raises(ConfigError, match=r"fc6 spans 3 steps of 32 pixels.* has 64; choose images of 96"):
        model.logits(torch.randn(1, 3, 64, 160))


def test_a_backbone_that_does_not_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"type backbone=vgg16_bn"):
        deconvnet(full_resolution(width=4), classes=CLASSES)
