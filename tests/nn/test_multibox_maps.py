"""Sizes are the papers'; weights that are taken over do what they did."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.detection.ssd import ssd
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.multibox_maps import AtrousFC, MultiboxHead, MultiboxMaps, ScaledL2Norm
from cvtasks.types import ClassInfo

SPECS = {"c3": FeatureSpec(8, 8), "c4": FeatureSpec(16, 16)}
PLAIN = {"l2_scale": None, "fc_channels": None}


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        (300, {}, [38, 19, 10, 5, 3, 1]),
        (
            512,
            {
                "extra_channels": [512, 256, 256, 256, 256],
                "extra_layers": ["half", "half", "half", "half", "last"],
                "scales": [0.1] * 8,
                "ratios": [[2]] * 7,
                "steps": None,
            },
            [64, 32, 16, 8, 4, 2, 1],
        ),
    ],
)
def test_vgg16_makes_the_papers_maps(size: int, settings: dict, expected: list[int]) -> None:
    with torch.device("meta"):
        model = ssd(vgg16(), classes=ClassInfo(("a",)), **settings)
        maps = model.neck(model.backbone(torch.zeros(1, 3, size, size)))
    assert [x.shape[2] for x in maps.values()] == [x.shape[3] for x in maps.values()] == expected
    assert [x.shape[1] for x in maps.values()] == [512, 1024, 512] + [256] * (len(expected) - 3)


def test_a_normalised_map_has_vectors_of_the_learnt_length_whatever_they_were() -> None:
    norm = ScaledL2Norm(8, 20.0)
    x = torch.randn(2, 8, 3, 4)
    assert_close(norm(x).norm(dim=1), torch.full((2, 3, 4), 20.0))
    assert_close(norm(7 * x), norm(x))
    with torch.no_grad():
        norm.weight[3] = 40.0
    assert_close(norm(x)[:, 3], 2 * ScaledL2Norm(8, 20.0)(x)[:, 3])


def test_fc6_and_fc7_taken_over_are_every_fourth_output_and_nine_of_the_49_positions() -> None:
    torch.manual_seed(0)
    fc6, fc7 = nn.Linear(5 * 49, 24), nn.Linear(24, 24)
    layer = AtrousFC(5, 6)
    layer.take_over(nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout()))
    x = torch.randn(1, 5, 9, 9)
    # pool5 without its stride makes fc6 a 7x7 convolution with dilation 2; the other weights are not there.
    kernel = torch.zeros(6, 5, 7, 7)
    kernel[:, :, ::3, ::3] = fc6.weight.view(24, 5, 7, 7)[::4, :, ::3, ::3].detach()
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    hidden = F.conv2d(pooled, kernel, fc6.bias[::4], dilation=2, padding=6).relu()
    expected = F.conv2d(hidden, fc7.weight[::4, ::4, None, None], fc7.bias[::4]).relu()
    assert_close(layer(x), expected)
    with pytest.raises(ConfigError, match=r"task\.fc_channels=7: does not divide the 24 channels"):
        AtrousFC(5, 7).take_over(nn.Sequential(fc6, fc7))


def test_a_backbones_fully_connected_layers_go_into_the_network() -> None:
    with torch.device("meta"):
        backbone = vgg16(with_classifier=True)
    backbone.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        backbone.classifier[0].bias.copy_(torch.arange(4096.0))
    model = ssd(backbone, classes=ClassInfo(("a",)))
    assert model.neck.fc[1].bias.tolist() == list(range(0, 4096, 4))
    assert not hasattr(model.backbone, "classifier")


def test_a_lite_network_mixes_channels_by_1x1_convolutions_alone() -> None:
    maps = MultiboxMaps(
        SPECS, ["c3", "c4"], extra_channels=[16], extra_layers=["half"], lite=True, norm="batch", **PLAIN
    )
    head = MultiboxHead(maps.channels, [4, 4, 4], 3, lite=True, norm="batch")
    for layer in (*maps.modules(), *head.modules()):
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (1, 1) or layer.groups == layer.in_channels
    scores, offsets = head(maps({"c3": torch.randn(2, 8, 8, 8), "c4": torch.randn(2, 16, 4, 4)}))
    assert scores.shape == (2, 4 * (64 + 16 + 4), 4)
    assert offsets.shape == (2, 4 * (64 + 16 + 4), 4)


def test_what_the_head_says_lies_position_by_position_and_kind_by_kind() -> None:
    # Each output of the one map is its own number, so the order shows.
    head = MultiboxHead([1], [2], num_classes=2)
    for layer, columns in ((head.scores[0], 3), (head.offsets[0], 4)):
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.weight[:, 0, 1, 1] = 1
            layer.bias.copy_(100.0 * torch.arange(2 * columns))
    x = torch.arange(6.0).view(1, 1, 2, 3)
    scores, offsets = head({"c3": x})
    position = torch.arange(6.0)[:, None, None]
    for found, columns in ((scores, 3), (offsets, 4)):
        expected = position + 100 * torch.arange(2 * columns).view(2, columns)
        assert_close(found[0].view(6, 2, columns), expected.float())


def test_maps_and_settings_that_do_not_fit_are_refused_with_what_to_type() -> None:
    with pytest.raises(ConfigError, match=r"task\.extra_layers=\['half'\]: expected one for each"):
        MultiboxMaps(SPECS, ["c4"], extra_channels=[8, 8], extra_layers=["half"], **PLAIN)
    with pytest.raises(ConfigError, match=r"task\.ratios: 1 lists; expected 2"):
        MultiboxHead([8, 8], [4], 3)
    maps = MultiboxMaps(SPECS, ["c4"], extra_channels=[8], extra_layers=["valid"], **PLAIN)
    with pytest.raises(ConfigError, match=r"map 1 has 2 x 5 positions.*pipeline\.size"):
        maps({"c4": torch.zeros(1, 16, 2, 5)})
