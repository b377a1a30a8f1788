"""Oracles: means written out, and torchvision's AlexNet with the same weights."""

import torch
from torch.testing import assert_close
from torchvision import models

from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.vector import ImageVector, exact


def test_the_vector_is_the_mean_of_the_last_map_or_of_its_parts() -> None:
    backbone = tiny(width=16)
    maps = {name: torch.randn(2, spec.channels, 4, 6) for name, spec in backbone.specs.items()}
    last = maps["c5"]
    whole, quarters = ImageVector(backbone), ImageVector(backbone, bins=2)
    assert_close(whole(maps), last.mean((2, 3)))
    found = quarters(maps).view(2, -1, 2, 2)
    assert_close(found[:, :, 0, 1], last[:, :, :2, 3:].mean((2, 3)))
    assert_close(found[:, :, 1, 0], last[:, :, 2:, :3].mean((2, 3)))
    assert (whole.outputs, quarters.outputs) == (last.shape[1], 4 * last.shape[1])


def test_fc6_and_fc7_make_the_vector_where_the_backbone_has_them() -> None:
    torch.manual_seed(0)
    oracle = models.alexnet().eval()
    backbone = alexnet(with_classifier=True)
    backbone.load_state_dict(
        {k: v for k, v in oracle.state_dict().items() if not k.startswith("classifier.6")}
    )
    vector = ImageVector(backbone).eval()
    images = torch.randn(1, 3, 224, 192)
    with torch.no_grad():
        found = vector(backbone.eval()(images))
        expected = oracle.classifier[:6](oracle.avgpool(oracle.features(images)).flatten(1))
    assert vector.outputs == 4096
    assert_close(found, expected)
    assert not [name for name in backbone.state_dict() if name.startswith("classifier")]  # it has one owner


def test_the_last_layer_is_exact_under_autocast() -> None:
    torch.manual_seed(0)
    layer, vector = torch.nn.Linear(64, 8), torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact(layer, vector), layer.float()(vector.float()).float()) is False
        found = exact(layer, vector)
    assert torch.equal(found, layer(vector))


def test_the_maxima_of_the_parts_stand_in_for_their_means() -> None:
    backbone = tiny(width=16)
    maps = {"c5": torch.randn(2, backbone.specs["c5"].channels, 4, 6)}
    assert_close(ImageVector(backbone, pool="max")(maps), maps["c5"].amax((2, 3)))
    quarters = ImageVector(backbone, bins=2, pool="max")(maps).view(2, -1, 2, 2)
    assert_close(quarters[:, :, 1, 0], maps["c5"][:, :, 2:, :3].amax((2, 3)))
