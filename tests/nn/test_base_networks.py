"""The base networks: numbers of parameters against those published, true strides, oracles with the same weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from cvtasks.config.build import build as build_node
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones import googlenet as googlenet_module
from cvtasks.nn.backbones import inception_v3 as inception_v3_module
from cvtasks.nn.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from cvtasks.nn.backbones.cifar_resnet import Block, cifar_resnet
from cvtasks.nn.backbones.googlenet import googlenet
from cvtasks.nn.backbones.inception_resnet_v2 import inception_resnet_v2
from cvtasks.nn.backbones.inception_v2 import inception_v2
from cvtasks.nn.backbones.inception_v3 import inception_v3
from cvtasks.nn.backbones.lenet import SEEN, Subsampling, lenet
from cvtasks.nn.backbones.mobilenet_v1 import mobilenet_v1
from cvtasks.nn.norm import FrozenBatchNorm2d

CONF = Path(__file__).parents[2] / "conf" / "backbone"
NEW = {
    "lenet": lenet,
    "cifar_resnet20": cifar_resnet,
    "googlenet": googlenet,
    "inception_v2": inception_v2,
    "inception_v3": inception_v3,
    "inception_resnet_v2": inception_resnet_v2,
    "mobilenet_v1": mobilenet_v1,
}

# Figure 5 of the batch normalization paper, row by row: the map below, then convolutions (inputs, outputs, kernel's area).
FIGURE_5 = [
    [(3, 64, 49)],
    [(64, 64, 1), (64, 192, 9)],
    [(192, 64, 1), (192, 64, 1), (64, 64, 9), (192, 64, 1), (64, 96, 9), (96, 96, 9), (192, 32, 1)],
    [(256, 64, 1), (256, 64, 1), (64, 96, 9), (256, 64, 1), (64, 96, 9), (96, 96, 9), (256, 64, 1)],
    [(320, 128, 1), (128, 160, 9), (320, 64, 1), (64, 96, 9), (96, 96, 9)],
    [(576, 224, 1), (576, 64, 1), (64, 96, 9), (576, 96, 1), (96, 128, 9), (128, 128, 9), (576, 128, 1)],
    [(576, 192, 1), (576, 96, 1), (96, 128, 9), (576, 96, 1), (96, 128, 9), (128, 128, 9), (576, 128, 1)],
    [(576, 160, 1), (576, 128, 1), (128, 160, 9), (576, 128, 1), (128, 160, 9), (160, 160, 9), (576, 96, 1)],
    [(576, 96, 1), (576, 128, 1), (128, 192, 9), (576, 160, 1), (160, 192, 9), (192, 192, 9), (576, 96, 1)],
    [(576, 128, 1), (128, 192, 9), (576, 192, 1), (192, 256, 9), (256, 256, 9)],
    [
        (1024, 352, 1),
        (1024, 192, 1),
        (192, 320, 9),
        (1024, 160, 1),
        (160, 224, 9),
        (224, 224, 9),
        (1024, 128, 1),
    ],
    [
        (1024, 352, 1),
        (1024, 192, 1),
        (192, 320, 9),
        (1024, 192, 1),
        (192, 224, 9),
        (224, 224, 9),
        (1024, 128, 1),
    ],
]


def norm_channels(backbone: nn.Module) -> int:
    return sum(m.num_features for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def torchvisions(name: str, *classifier: tuple[int, int]) -> int:
    """torchvision's number without its fully connected layers."""
    total = models.get_model_weights(name).DEFAULT.meta["num_params"]
    return total - sum(linear(*layer) for layer in classifier)


FC = (4096, 4096), (4096, 1000)
INCEPTION_AUX = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + linear(768, 1000)
# What the backbone has, by a number that is published with or without classifiers.
PARAMETERS = {
    # Table of LeCun et al.: 60,000 to learn up to F6; two colours more, and weights of C3 that are masked.
    "lenet": 60_000 - linear(120, 84) + 2 * 25 * 6 + (16 * 6 - 60) * 25,
    "alexnet": torchvisions("alexnet", (256 * 36, 4096), *FC),
    "vgg16": 14_714_688,  # Huang et al., table 2
    "vgg16_bn": torchvisions("vgg16_bn", (512 * 49, 4096), *FC),
    "googlenet": torchvisions("googlenet", (1024, 1000)),
    "inception_v2": sum(i * o * area + 2 * o for row in FIGURE_5 for i, o, area in row),
    "inception_v3": torchvisions("inception_v3", (2048, 1000)) - INCEPTION_AUX,
    "inception_resnet_v2": 55_843_464 - linear(1536, 1000),  # timm, which has the authors' weights
    "resnet18": torchvisions("resnet18", (512, 1000)),
    "resnet34": torchvisions("resnet34", (512, 1000)),
    "resnet50": torchvisions("resnet50", (2048, 1000)),
    "resnet101": torchvisions("resnet101", (2048, 1000)),
    "resnet152": torchvisions("resnet152", (2048, 1000)),
    # He et al., table 6, with a classifier of 10 classes: 0.27, 0.85 and 1.7 million; the plain ones the same.
    **{f"cifar_{kind}20": 269_722 - linear(64, 10) for kind in ("resnet", "plain")},
    **{f"cifar_{kind}56": 853_018 - linear(64, 10) for kind in ("resnet", "plain")},
    **{f"cifar_{kind}110": 1_727_962 - linear(64, 10) for kind in ("resnet", "plain")},
    "mobilenet_v1": 4_231_976 - linear(1024, 1000),  # Howard et al., table 8: 4.2 million
    "mobilenet_v2": torchvisions("mobilenet_v2", (1280, 1000)),
    "mobilenet_v3_large": torchvisions("mobilenet_v3_large", (960, 1280), (1280, 1000)),
    "mobilenet_v3_small": torchvisions("mobilenet_v3_small", (576, 1024), (1024, 1000)),
}


def of_yaml(name: str, **changes: Any) -> Backbone:
    return build_node(yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        backbone = of_yaml(name, **({} if name in ("lenet", "alexnet", "vgg16") else {"norm": "batch"}))
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "published", "slack"),
    # Of V2 the authors' first convolution is a separable one, which has 6,696 weights less.
    [
        ("inception_v2", 10_173_112, 7_000),
        ("inception_v3", 21_802_784, 0),
        ("inception_resnet_v2", 54_336_736, 0),
    ],
)
def test_the_inception_family_has_the_sizes_of_the_speed_accuracy_study(
    name: str, published: int, slack: int
) -> None:
    """Huang et al. (CVPR 2017), table 2: of each norm, mean, variance and shift are counted, and it has no scale."""
    with torch.device("meta"):
        backbone = of_yaml(name)
    assert abs(sum(p.numel() for p in backbone.parameters()) + norm_channels(backbone) - published) <= slack


@pytest.mark.parametrize("name", NEW)
def test_maps_have_true_strides_and_finite_values_for_images_of_any_size(name: str) -> None:
    backbone = NEW[name]()
    for height, width in ((32, 64), (75, 97)):
        for training in (True, False):
            with torch.no_grad():
                maps = backbone.train(training)(torch.randn(2, 3, height, width))
            assert list(maps) == list(backbone.specs)
            for level, spec in backbone.specs.items():
                assert maps[level].shape[:2] == (2, spec.channels)
                for size, pixels in zip(maps[level].shape[2:], (height, width), strict=True):
                    assert pixels // spec.stride <= size <= -(-pixels // spec.stride)
                assert maps[level].isfinite().all()


@pytest.mark.parametrize("name", [name for name in NEW if name != "lenet"])
def test_norm_and_freezing_are_obeyed(name: str) -> None:
    group = NEW[name](norm="group")
    assert any(isinstance(m, nn.GroupNorm) for m in group.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in group.modules())
    first = next(iter(group.specs))
    frozen = NEW[name](norm="frozen", freeze_until=first)
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    maps = frozen(torch.randn(1, 3, 64, 64))
    assert [m.requires_grad for m in maps.values()] == [level != first for level in frozen.specs]
    sum(m.mean() for m in maps.values()).backward()
    inside = tuple(f"{part}." for part in frozen.stages[first])
    for key, parameter in frozen.named_parameters():
        assert (parameter.grad is None) == key.startswith(inside), key


def as_theirs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 255, normalised as torchvision's networks expect, and as ours do by their own statistics."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std, images


@pytest.mark.parametrize(
    ("name", "make", "module"),
    [
        ("googlenet", googlenet, googlenet_module),
        ("inception_v3", lambda **more: inception_v3(aligned=False, **more), inception_v3_module),
    ],
)
def test_published_weights_load_with_auxiliary_classifiers_and_give_torchvisions_maps(
    name: str, make: Any, module: Any, tmp_path: Path
) -> None:
    theirs = getattr(models, name)(init_weights=False, aux_logits=True, transform_input=True).eval()
    for key, values in theirs.state_dict().items():
        if "running" in key:
            values.uniform_(0.5, 1.5)
        elif values.ndim == 4:
            nn.init.kaiming_normal_(values)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = make(weights=str(tmp_path / "w.pth"))
    assert ours.frozen == ("c1", "c2")
    oracle = create_feature_extractor(theirs, {names[-1]: level for level, names in module.STAGES.items()})
    pixels = torch.randint(0, 256, (1, 3, 96, 107), dtype=torch.uint8)
    with torch.no_grad():
        expected = oracle(as_theirs(pixels)[0])
        maps = ours.eval()(ours.normalize(pixels, torch.tensor([[96, 107]])))
    for level in ours.specs:
        torch.testing.assert_close(maps[level], expected[level], rtol=1e-3, atol=1e-4)


def test_inception_resnet_v2_is_timms_with_the_same_weights(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("inception_resnet_v2").eval()
    for key, values in theirs.state_dict().items():
        if "running" in key:
            values.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = inception_resnet_v2(weights=str(tmp_path / "w.pth"), aligned=False).eval()
    images = torch.randn(1, 3, 80, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)["c5"], theirs.forward_features(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [inception_v3, inception_resnet_v2, lenet])
def test_alignment_changes_no_weight_and_the_unaligned_need_larger_images(make: Any) -> None:
    with torch.device("meta"):
        aligned, published = make(), make(aligned=False)
    assert {k: v.shape for k, v in aligned.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }
    side = published.smallest
    with pytest.raises(ConfigError, match=rf"{side} x {side} pixels or more.* 30 x 40"):
        published(torch.zeros(1, 3, 30, 40))
    with torch.no_grad(), torch.device("meta"):
        last = published.eval()(torch.zeros(1, 3, side, side))
    assert list(last.values())[-1].shape[2:] == (1, 1)


def test_an_option_a_shortcut_takes_every_second_position_and_adds_zeros() -> None:
    block = Block(2, 4, stride=2, norm="batch", residual=True).eval()
    for layer in (block.conv1, block.conv2):
        nn.init.zeros_(layer.weight)
    x = torch.rand(1, 2, 5, 4)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, :2], x[..., ::2, ::2])
    assert torch.equal(y[:, 2:], torch.zeros(1, 2, 3, 2))
    plain = copy.deepcopy(block)
    plain.residual = False
    with torch.no_grad():
        assert not plain(x).any()


def test_a_plain_network_is_the_residual_one_without_shortcuts() -> None:
    residual, plain = cifar_resnet(depth=20), cifar_resnet(depth=20, residual=False)
    assert residual.state_dict().keys() == plain.state_dict().keys()
    assert [len(layer) for layer in (plain.layer1, plain.layer2, plain.layer3)] == [3, 3, 3]
    plain.load_state_dict(residual.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(residual.eval()(images)["c2"], plain.eval()(images)["c2"])
    with pytest.raises(ConfigError, match=r"backbone\.depth=21.*20 or 26"):
        cifar_resnet(depth=21)


def test_a_map_of_lenets_c3_sees_the_maps_of_table_1() -> None:
    convolution = lenet().conv3[0]
    below = torch.randn(1, 6, 8, 8, requires_grad=True)
    maps = convolution(below)
    for number, seen in enumerate(SEEN):
        (gradient,) = torch.autograd.grad(maps[0, number].sum(), below, retain_graph=True)
        assert tuple(gradient.abs().sum((0, 2, 3)).nonzero().flatten().tolist()) == tuple(sorted(seen))
    assert sum(map(len, SEEN)) == 60


def test_lenets_subsampling_learns_a_factor_and_a_bias_for_each_map() -> None:
    layer = Subsampling(2)
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    with torch.no_grad():
        layer.coefficient[1], layer.bias[1] = 0.5, 3.0
        y = layer(x)
    torch.testing.assert_close(y[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))  # 0.25 times the sum
    torch.testing.assert_close(y[0, 1], torch.tensor([[8.0, 12.0], [24.0, 28.0]]))


def test_a_width_of_one_half_halves_mobilenets_channels() -> None:
    whole, half = mobilenet_v1(), mobilenet_v1(width=0.5)
    assert {level: spec.channels // 2 for level, spec in whole.specs.items()} == {
        level: spec.channels for level, spec in half.specs.items()
    }


@pytest.mark.parametrize("make", [inception_v2, inception_v3, googlenet])
def test_a_last_stage_with_a_pool_among_its_branches_cannot_be_dilated(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.dilate=true.*\(c5\)"):
        make().dilate()
