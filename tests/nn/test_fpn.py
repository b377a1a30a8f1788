"""Oracle: torchvision's FeaturePyramidNetwork with the same weights."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.fpn import FeaturePyramid, SingleMap, StridedLevels, SubsampledLevel

SPECS = {"c3": FeatureSpec(4, 8), "c4": FeatureSpec(6, 16), "c5": FeatureSpec(8, 32)}
MAPS = {
    level: torch.randn(2, spec.channels, 96 // spec.stride, 160 // spec.stride)
    for level, spec in SPECS.items()
}


def test_the_pyramid_is_torchvisions_with_an_extra_level_above() -> None:
    pyramid = FeaturePyramid(SPECS, ["c3", "c4", "c5"], channels=16, norm=None, extra=SubsampledLevel())
    theirs = FeaturePyramidNetwork([4, 6, 8], 16, LastLevelMaxPool())
    weights = list(pyramid.lateral.parameters()) + list(pyramid.output.parameters())
    for ours, other in zip(weights, theirs.parameters(), strict=True):
        other.data.copy_(ours)
    expected = theirs(MAPS).values()
    for got, want in zip(pyramid(MAPS).values(), expected, strict=True):
        assert_close(got, want)


def test_levels_are_named_by_their_stride_and_announced_in_specs() -> None:
    pyramid = FeaturePyramid(SPECS, ["c4", "c5"], channels=16, norm="group", extra=SubsampledLevel())
    assert pyramid.specs == {"p4": FeatureSpec(16, 16), "p5": FeatureSpec(16, 32), "p6": FeatureSpec(16, 64)}
    assert {level: tuple(m.shape) for level, m in pyramid(MAPS).items()} == {
        "p4": (2, 16, 6, 10),
        "p5": (2, 16, 3, 5),
        "p6": (2, 16, 2, 3),
    }


def test_two_levels_of_one_stride_are_torchvisions() -> None:
    specs = {"c5_first": FeatureSpec(4, 32), "c5": FeatureSpec(6, 32)}
    maps = {level: torch.randn(2, spec.channels, 3, 5) for level, spec in specs.items()}
    pyramid = FeaturePyramid(specs, list(specs), channels=16, norm=None, extra=SubsampledLevel())
    assert {level: spec.stride for level, spec in pyramid.specs.items()} == {
        "p5_first": 32,
        "p5": 32,
        "p6": 64,
    }
    theirs = FeaturePyramidNetwork([4, 6], 16, LastLevelMaxPool())
    weights = list(pyramid.lateral.parameters()) + list(pyramid.output.parameters())
    for ours, other in zip(weights, theirs.parameters(), strict=True):
        other.data.copy_(ours)
    for got, want in zip(pyramid(maps).values(), theirs(maps).values(), strict=True):
        assert_close(got, want)


def test_a_single_map_passes_as_it_is() -> None:
    neck = SingleMap(SPECS, "c4")
    assert neck.specs == {"c4": SPECS["c4"]}
    maps = neck(MAPS)
    assert list(maps) == ["c4"]
    assert maps["c4"] is MAPS["c4"]


@pytest.mark.parametrize("from_pyramid", [False, True])
def test_strided_levels_are_torchvisions_p6_and_p7(from_pyramid: bool) -> None:
    inputs = 16 if from_pyramid else 8
    extra = StridedLevels(inputs, 16, from_pyramid=from_pyramid)
    pyramid = FeaturePyramid(SPECS, ["c3", "c4", "c5"], channels=16, norm=None, extra=extra)
    theirs = FeaturePyramidNetwork([4, 6, 8], 16, LastLevelP6P7(inputs, 16))
    modules = (pyramid.lateral, pyramid.output, extra)
    weights = [p for module in modules for p in module.parameters()]
    for ours, other in zip(weights, theirs.parameters(), strict=True):
        other.data.copy_(ours)
    found = pyramid(MAPS)
    assert list(found) == list(pyramid.specs) == ["p3", "p4", "p5", "p6", "p7"]
    assert pyramid.specs["p7"] == FeatureSpec(16, 128)
    for got, want in zip(found.values(), theirs(MAPS).values(), strict=True):
        assert_close(got, want)
