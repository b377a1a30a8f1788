"""Networks by their name, of torchvision and timm. Oracles: our own ResNet, and whole networks with the same weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from cvtasks.config.compose import compose
from cvtasks.errors import ConfigError, WeightsError
from cvtasks.nn.backbones.extracted import Map, map_of
from cvtasks.nn.backbones.of_timm import timm
from cvtasks.nn.backbones.of_torchvision import torchvision
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.norm import FrozenBatchNorm2d, replace_norms, synchronized
from cvtasks.studies.trainings import as_overrides

IMAGES = torch.randn(2, 3, 64, 96)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file of torchvision's whole ResNet-18."""
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_a_network_by_its_name_is_the_one_that_was_written_by_hand(published: Path) -> None:
    ours = resnet(depth=18, weights=str(published), norm="batch")
    found = torchvision(name="resnet18", weights=str(published), norm="batch")
    assert found.specs == ours.specs
    assert found.frozen == ours.frozen == ("c1", "c2")
    for training in (True, False):
        with torch.no_grad():
            maps, expected = found.train(training)(IMAGES), ours.train(training)(IMAGES)
        assert all(torch.equal(maps[level], expected[level]) for level in ours.specs)
    trained = {k for k, p in ours.named_parameters() if p.requires_grad}
    assert {k.removeprefix("network.") for k, p in found.named_parameters() if p.requires_grad} == trained


def test_the_statistics_are_those_of_the_networks_own_weights() -> None:
    assert torch.equal(torchvision(name="resnet18").mean, resnet(depth=18).mean)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("mobilenet_v3_small", [2, 4, 8, 16, 32]),
        ("shufflenet_v2_x0_5", [2, 4, 8, 16, 32]),
        ("squeezenet1_1", [2, 4, 8, 16]),  # its classifier is a convolution, and no level
        ("alexnet", [4, 8, 16, 32]),  # does not pad: no map is exactly H / stride
    ],
)
def test_levels_are_found_by_their_strides(name: str, strides: list[int]) -> None:
    backbone = torchvision(name=name)
    assert [spec.stride for spec in backbone.specs.values()] == strides
    assert [int(level[1:]) for level in backbone.specs] == [stride.bit_length() - 1 for stride in strides]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 128, 192))
    for level, spec in backbone.specs.items():
        assert maps[level].shape[1] == spec.channels
        assert all(
            -2 <= size - side // spec.stride <= 0
            for size, side in zip(maps[level].shape[2:], (128, 192), strict=True)
        )


def test_a_map_is_told_from_what_only_looks_like_one() -> None:
    assert map_of(torch.empty(1, 7, 128, 192)) == Map(7, 8, channels_last=False)
    assert map_of(torch.empty(1, 128, 192, 7)) == Map(7, 8, channels_last=True)
    assert map_of(torch.empty(1, 7, 30, 46)) == Map(7, 32, channels_last=False)  # borders that are not padded
    for shape in ((1, 7, 7, 7), (1, 7, 1, 1), (1, 7, 128, 128), (1, 128, 192)):
        assert map_of(torch.empty(shape)) is None


@pytest.mark.slow
def test_a_transformers_maps_are_channels_first() -> None:
    backbone = torchvision(name="swin_t")
    with torch.no_grad():
        maps = backbone(IMAGES)
    assert {level: tuple(each.shape[1:]) for level, each in maps.items()} == {
        "c2": (96, 16, 24),
        "c3": (192, 8, 12),
        "c4": (384, 4, 6),
        "c5": (768, 2, 3),
    }


def test_truncating_keeps_the_weights_and_drops_what_comes_after() -> None:
    whole = torchvision(name="resnet18", freeze_until="c2").eval()
    short = copy.deepcopy(whole).truncate("c4").eval()
    assert list(short.specs) == list(short.stages) == ["c1", "c2", "c3", "c4"]
    assert short.frozen == ("c1", "c2")
    with torch.no_grad():
        assert torch.equal(short(IMAGES)["c4"], whole(IMAGES)["c4"])
    short.train()(IMAGES)["c4"].mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in short.parameters())
    assert not any(p.requires_grad for p in short.get_submodule("network.layer1").parameters())


def test_a_copy_keeps_each_parts_mode_and_shares_nothing() -> None:
    original = torchvision(name="resnet18", freeze_until="c3").train()
    twin = copy.deepcopy(original)
    assert [m.training for m in twin.modules()] == [m.training for m in original.modules()]
    assert not twin.get_submodule("network.layer2").training
    with torch.no_grad():
        before = original.eval()(IMAGES)["c5"]
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(original(IMAGES)["c5"], before)


@pytest.mark.parametrize("kind", ["frozen", "group"])
def test_norms_are_replaced_and_their_state_keeps_its_names(kind: Any, published: Path) -> None:
    backbone = torchvision(name="resnet18", norm=kind)
    kinds = {type(m) for m in backbone.modules() if hasattr(m, "eps")}
    assert kinds == {{"frozen": FrozenBatchNorm2d, "group": nn.GroupNorm}[kind]}
    assert {
        type(m) for m in torchvision(name="resnet18", weights=str(published)).modules() if hasattr(m, "eps")
    } == {FrozenBatchNorm2d}


class NormAndRelu(nn.BatchNorm2d):
    """As timm's, a batch norm with more in it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=0.5)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(x))


def test_what_a_batch_norm_does_beside_normalising_stays() -> None:
    network = nn.Sequential(nn.Sequential(NormAndRelu(3))).eval()
    nn.init.uniform_(network[0][0].running_mean)
    frozen = copy.deepcopy(network)
    replace_norms(frozen, "frozen")
    frozen.load_state_dict(network.state_dict(), strict=False)
    assert isinstance(frozen[0][0], FrozenBatchNorm2d)
    torch.testing.assert_close(frozen(IMAGES), network(IMAGES))
    with pytest.raises(ConfigError, match=r"engine\.sync_batchnorm=true: 0\.0 is a NormAndRelu"):
        synchronized(network, torch.device("cpu"))


def test_old_names_in_densenets_files_are_understood(tmp_path: Path) -> None:
    state = models.densenet121().state_dict()
    for number in (1, 2):
        for part in ("norm", "conv"):
            state = {k.replace(f".{part}{number}.", f".{part}.{number}."): v for k, v in state.items()}
    torch.save(state, tmp_path / "w.pth")
    backbone = torchvision(name="densenet121", weights=str(tmp_path / "w.pth"))
    key = "features.denseblock1.denselayer1.conv"
    assert torch.equal(backbone.network.state_dict()[f"{key}1.weight"], state[f"{key}.1.weight"])


def test_a_file_of_ours_loads_too_and_another_networks_does_not(tmp_path: Path, published: Path) -> None:
    trained = torchvision(name="resnet18")
    torch.save({"model": {f"backbone.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "ours.pt")
    again = torchvision(name="resnet18", weights=str(tmp_path / "ours.pt"))
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(WeightsError, match="do not fit"):
        torchvision(name="mobilenet_v3_small", weights=str(published))


def test_what_is_no_network_of_maps_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.name=convnext_tinny.*did you mean convnext_tiny\?"):
        torchvision(name="convnext_tinny")
    with pytest.raises(ConfigError, match=r"backbone\.name=vit_b_32: .*images of one size"):
        torchvision(name="vit_b_32")


def test_the_name_is_typed_as_any_setting() -> None:
    node = compose("train", ["task=faster_rcnn", "backbone=torchvision", "backbone.name=resnet34"])[
        "backbone"
    ]
    assert node["name"] == "resnet34"
    typed = as_overrides("backbone", node)
    assert typed[0] == "backbone=torchvision"
    assert compose("train", ["task=faster_rcnn", *typed])["backbone"] == node


def test_a_stage_with_a_pool_inside_cannot_be_dilated_and_a_resnets_can() -> None:
    assert torchvision(name="resnet18").dilate()(IMAGES)["c5"].shape[2:] == (4, 6)
    with pytest.raises(ConfigError, match=r"task\.dilate=true"):
        torchvision(name="inception_v3").dilate()


def test_timms_levels_are_its_own_and_its_files_load(tmp_path: Path) -> None:
    library = pytest.importorskip("timm")
    theirs = library.create_model("resnet10t").eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    backbone = timm(name="resnet10t", weights=str(tmp_path / "w.pth")).eval()
    assert backbone.frozen == ("c1", "c2")
    assert [spec.stride for spec in backbone.specs.values()] == [2, 4, 8, 16, 32]
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(IMAGES)["c5"], theirs.forward_features(IMAGES), rtol=1e-4, atol=1e-4
        )
    torch.save(backbone.state_dict(), tmp_path / "ours.pt")
    again = timm(name="resnet10t", weights=str(tmp_path / "ours.pt")).truncate("c3")
    assert list(again.specs) == ["c1", "c2", "c3"]
    with torch.no_grad():
        assert torch.equal(again.eval()(IMAGES)["c3"], backbone(IMAGES)["c3"])
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in backbone.parameters()) / 2


def test_timms_norms_are_replaced_with_their_activations(tmp_path: Path) -> None:
    library = pytest.importorskip("timm")
    theirs = library.create_model("mobilenetv1_100").eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    frozen = timm(name="mobilenetv1_100", weights=str(tmp_path / "w.pth"), freeze_until=None).eval()
    plain = timm(name="mobilenetv1_100", weights=str(tmp_path / "w.pth"), norm="batch").eval()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    with torch.no_grad():
        for level, expected in plain(IMAGES).items():
            torch.testing.assert_close(frozen(IMAGES)[level], expected, rtol=1e-4, atol=1e-4)


def test_what_timm_does_not_have_is_one_line() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"backbone\.name=resnet10.*timm has no such network; did you mean"):
        timm(name="resnet10")
    with pytest.raises(ConfigError, match="no such network"):
        timm(name="hf-hub:someone/something")
    with pytest.raises(WeightsError, match="give a file"):
        timm(name="resnet10t", weights="imagenet21k")


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'cvtasks\[timm\]'"):
        timm(name="resnet10t")
