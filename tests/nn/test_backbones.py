"""Oracles: torchvision's own networks carrying our weights, and numbers worked out by hand."""

import copy
import importlib
import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone, FeatureSpec
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.vgg import vgg16

FILES = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))

resnet18 = partial(resnet, depth=18)

# The layer of torchvision's network that each level must equal: the last one of its stride.
RESNET = {"c1": "relu", "c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
LAYERS = {f"resnet{depth}": RESNET for depth in (18, 34, 50, 101, 152)} | {
    name: {level if isinstance(level, str) else f"c{level}": f"features.{i}" for level, i in indices.items()}
    for name, indices in {
        "vgg16": {0: 3, 1: 8, 2: 15, "c3_first": 16, 3: 22, "c4_first": 23, 4: 29, 5: 30},
        "vgg16_bn": {0: 5, 1: 12, 2: 22, "c3_first": 23, 3: 32, "c4_first": 33, 4: 42, 5: 43},
        "alexnet": {2: 1, 3: 4, 4: 11, 5: 12},
        "mobilenet_v2": {1: 1, 2: 3, 3: 6, 4: 13, "c4_expanded": "14.conv.0", "c5_first": 14, 5: 18},
        "mobilenet_v3_small": {1: 0, 2: 1, 3: 3, 4: 8, "c4_expanded": "9.block.0", "c5_first": 9, 5: 12},
        "mobilenet_v3_large": {1: 1, 2: 3, 3: 6, 4: 12, "c4_expanded": "13.block.0", "c5_first": 13, 5: 16},
    }.items()
}

FINE = ("unet_encoder", "full_resolution", "patch_cnn", "lenet", *(f"cifar_{n}" for n in ("resnet", "plain")))
"""No detector's networks: they keep the image's resolution, or nearly."""
NAMED = ("torchvision", "timm")
"""Whose name is the network's"""


def build(name: str, **changes: Any) -> Backbone:
    """The backbone of a YAML file, built as the configuration would; random weights and norm statistics."""
    (path,) = (p for p in FILES if p.stem == name)
    node = yaml.safe_load(path.read_text()) | changes
    module, _, function = node.pop("_target_").rpartition(".")
    if name not in NAMED:
        assert node.pop("name") == name
    torch.manual_seed(0)
    return getattr(importlib.import_module(module), function)(**node)


def published(name: str) -> nn.Module:
    """torchvision's network, without memory for its parameters."""
    with torch.device("meta"):
        return getattr(models, name)()


@pytest.mark.parametrize("name", LAYERS)
def test_maps_and_parameters_are_those_of_torchvisions_network(name: str) -> None:
    has_norm = name not in ("vgg16", "alexnet")
    ours = build(name, **({"norm": "batch"} if has_norm else {})).eval()
    for key, values in ours.state_dict().items():
        if "running" in key:
            values.uniform_(0.5, 1.5)
    network = published(name)
    body = [p for k, p in network.named_parameters() if not k.startswith(("fc.", "classifier."))]
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in body)

    assert not network.load_state_dict(ours.state_dict(), strict=False, assign=True).unexpected_keys
    layers = LAYERS[name]
    oracle = create_feature_extractor(network.eval(), {layer: level for level, layer in layers.items()})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = ours(images), oracle(images)
    assert list(maps) == list(layers)
    for level in layers:
        torch.testing.assert_close(maps[level], expected[level])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_channels_and_strides_are_as_promised(path: Path) -> None:
    # 128 x 96 is not square, so a swapped side shows; AlexNet's maps may lack two steps, as it does not pad.
    if path.stem == "timm":
        pytest.importorskip("timm")
    backbone = build(path.stem)
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 96))
    assert list(maps) == list(backbone.specs)
    slack = 2 if path.stem == "alexnet" else 0
    for level, spec in backbone.specs.items():
        assert spec.stride == 2 ** int(level[1])
        assert maps[level].shape[:2] == (1, spec.channels)
        for size, pixels in zip(maps[level].shape[2:], (128, 96), strict=True):
            assert 0 <= math.ceil(pixels / spec.stride) - size <= slack
    assert {"c2", "c3", "c4", "c5"} <= set(backbone.specs) or path.stem.startswith(FINE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_yaml_lists_every_argument_with_its_default(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    node = yaml.safe_load(text)
    module, _, function = node.pop("_target_").rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), function))
    if path.stem not in NAMED:
        assert node.pop("name") == path.stem
    assert list(node) == [k for k in node if k in signature.parameters]
    assert set(node) >= set(signature.parameters)
    chosen_by_name = {"depth", "size", "norm", "residual"}
    for key, parameter in signature.parameters.items():
        if key not in chosen_by_name:
            assert node[key] == parameter.default or tuple(node[key]) == parameter.default


@pytest.mark.parametrize(
    ("name", "until", "frozen"),
    [
        ("resnet18", "c2", ("conv1.", "bn1.", "layer1.")),
        ("resnet18", "c5", ("",)),
        ("vgg16", "c1", ("features.0.", "features.2.", "features.5.", "features.7.")),
        ("mobilenet_v3_small", "c3", tuple(f"features.{i}." for i in range(4))),
        ("alexnet", "c2", ("features.0.",)),
        ("tiny", "c3", ("stem1.", "stem2.", "layer1.", "layer2.")),
        ("tiny", None, ()),
    ],
)
def test_freezing_leaves_exactly_the_later_stages_with_gradients(
    name: str, until: str | None, frozen: tuple[str, ...]
) -> None:
    backbone = build(name, freeze_until=until)
    maps = backbone(torch.randn(2, 3, 64, 64))
    levels = list(backbone.specs)
    first = levels.index(until) + 1 if until else 0
    assert [m.requires_grad for m in maps.values()] == [i >= first for i in range(len(levels))]
    if first < len(levels):
        sum(m.mean() for m in maps.values()).backward()
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == key.startswith(frozen), key


def test_batch_norm_of_a_frozen_stage_keeps_its_statistics_in_training() -> None:
    backbone = resnet18(norm="batch", freeze_until="c3").eval().train()
    backbone(torch.randn(2, 3, 64, 64))
    for key, count in backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert count == (1 if key.startswith(("layer3", "layer4")) else 0), key


@pytest.mark.parametrize(
    ("make", "frozen"),
    [(resnet18, ("c1", "c2")), (mobilenet, ("c1", "c2")), (vgg16, ("c0", "c1")), (alexnet, ("c2",))],
)
def test_auto_freezes_the_first_stages_only_with_weights(make: Any, frozen: tuple, tmp_path: Path) -> None:
    backbone = resnet18(norm="batch") if make is resnet18 else make()
    assert backbone.frozen == ()
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    loaded = make(weights=str(tmp_path / "w.pth"))
    assert loaded.frozen == frozen
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in loaded.modules())
    assert make(weights=str(tmp_path / "w.pth"), freeze_until=None).frozen == ()


def test_freezing_at_a_level_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"freeze_until=c1.*c2, c3, c4, c5"):
        alexnet(freeze_until="c1")


def test_random_networks_get_the_norm_that_suits_them() -> None:
    group, batch = {nn.GroupNorm}, {nn.BatchNorm2d}
    expected = {"resnet18": group, "tiny": group, "mobilenet_v3_small": batch, "vgg16_bn": batch}
    for name, kinds in (expected | {"vgg16": set(), "alexnet": set()}).items():
        assert {type(m) for m in build(name).modules() if hasattr(m, "eps")} == kinds, name


def test_normalising_is_worked_out_by_hand_and_leaves_the_padding_zero() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    before = images.clone()
    sizes = torch.tensor([[5, 4], [2, 6]])  # heights and widths
    expected = torch.zeros(2, 3, 5, 6)
    for b, (height, width) in enumerate(sizes.tolist()):
        for c in range(3):
            part = images[b, c, :height, :width] / 255
            expected[b, c, :height, :width] = (part - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
    for layout in (torch.contiguous_format, torch.channels_last):
        result = tiny().normalize(images.contiguous(memory_format=layout), sizes)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result, expected)
        assert torch.equal(images, before)
    inside = expected != 0
    assert torch.equal(result != 0, inside)  # exactly zero outside


def test_statistics_move_with_the_network_and_stay_out_of_its_state() -> None:
    backbone = Backbone({}, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert not backbone.state_dict()
    assert backbone.to("meta").mean.device.type == "meta"
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    result = Backbone({}, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)).normalize(white, torch.tensor([[1, 1]]))
    torch.testing.assert_close(result.flatten(), torch.tensor([2.0, 1.0, 0.5]))


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet_v3_small", "tiny"])
def test_truncating_drops_the_later_stages_and_nothing_else(name: str) -> None:
    whole, short = build(name), build(name).truncate("c4")
    images = torch.randn(1, 3, 64, 64)
    whole.eval(), short.eval()
    with torch.no_grad():
        expected, maps = whole(images), short(images)
    levels = list(whole.specs)
    assert list(maps) == list(short.specs) == levels[: levels.index("c4") + 1]
    torch.testing.assert_close(maps["c4"], expected["c4"])
    loss = sum(m.float().mean() for m in short.train()(images.expand(2, -1, -1, -1)).values())
    loss.backward()
    assert all(p.grad is not None for p in short.parameters())
    assert build(name, freeze_until="c5").truncate("c4").train().frozen == tuple(short.specs)


@pytest.mark.parametrize(
    ("make", "name", "inputs"), [(vgg16, "vgg16", 512 * 7 * 7), (alexnet, "alexnet", 256 * 6 * 6)]
)
def test_fc6_and_fc7_are_torchvisions_and_change_owner(make: Any, name: str, inputs: int) -> None:
    with torch.device("meta"):
        backbone = make(with_classifier=True)
    shapes = {k: v.shape for k, v in published(name).state_dict().items() if not k.startswith("classifier.6")}
    assert {k: v.shape for k, v in backbone.state_dict().items()} == shapes
    classifier = backbone.take_classifier()
    assert [(m.in_features, m.out_features) for m in classifier if isinstance(m, nn.Linear)] == [
        (inputs, 4096),
        (4096, 4096),
    ]
    assert all(k.startswith("features.") for k in backbone.state_dict())
    with pytest.raises(ConfigError, match="with_classifier=true"):
        backbone.take_classifier()


def test_a_copy_shares_nothing_with_the_original() -> None:
    # An averaged model (EMA) is a deep copy; stages that pointed at modules could point at the original's.
    original = tiny().eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = original(images)["c5"]
        twin = copy.deepcopy(original)
        for parameter in twin.parameters():
            parameter.zero_()
        torch.testing.assert_close(original(images)["c5"], before)
        assert twin(images)["c5"].abs().sum() == 0


def test_a_replaced_norm_layer_takes_effect() -> None:
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(resnet18(norm="batch"))
    assert not any(type(m) is nn.BatchNorm2d for s in backbone.stages for m in backbone._modules_of(s))


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_maps_stay_bf16_and_channels_last_under_autocast(name: str) -> None:
    # Either being lost costs a copy at every layer.
    backbone = build(name).to(memory_format=torch.channels_last)
    images = backbone.normalize(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.full((2, 2), 64))
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(images)
    for values in maps.values():
        assert values.dtype == torch.bfloat16
        assert values.is_contiguous(memory_format=torch.channels_last)


def test_tiny_has_the_size_it_says_and_refuses_what_it_cannot_be() -> None:
    assert sum(p.numel() for p in tiny().parameters()) == pytest.approx(0.9e6, rel=0.05)
    assert tiny(width=48, blocks=[1, 2, 2, 1]).specs["c5"] == FeatureSpec(288, 32)
    assert len(tiny(blocks=(1, 3, 1, 1)).layer2) == 3
    with pytest.raises(ConfigError, match="even"):
        tiny(width=33)
    with pytest.raises(ConfigError, match="four numbers"):
        tiny(blocks=(1, 1, 1))


DILATED: dict[str, Any] = {
    "resnet18": partial(resnet, depth=18, norm="batch"),
    "resnet50": partial(resnet, depth=50, norm="batch"),
    "tiny": partial(tiny, norm="batch", blocks=(1, 1, 1, 2)),
}


@pytest.mark.parametrize("name", DILATED)
def test_of_a_dilated_last_stage_every_second_position_is_what_it_was(name: str) -> None:
    """The hole algorithm: weights load unchanged, and the map of stride 32 lies inside the one of stride 16."""
    plain = DILATED[name]().double().eval()
    dilated = copy.deepcopy(plain).dilate()
    assert dilated.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        before, after = plain(images), dilated(images)
    assert dilated.specs["c5"] == FeatureSpec(plain.specs["c5"].channels, 16)
    assert after["c5"].shape[2:] == after["c4"].shape[2:] == (6, 10)
    assert torch.equal(after["c4"], before["c4"])
    torch.testing.assert_close(after["c5"][..., ::2, ::2], before["c5"])


def test_torchvisions_dilated_resnet_is_the_same() -> None:
    theirs = models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    ours = resnet(depth=50, norm="batch").dilate().eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, {"layer4": "c5"})(images)["c5"]
        torch.testing.assert_close(ours(images)["c5"], expected)


@pytest.mark.parametrize("make", [vgg16, alexnet])
def test_a_last_stage_that_a_pool_strides_cannot_be_dilated(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.dilate=true.*\(c5\).*task\.dilate=false"):
        make().dilate()
