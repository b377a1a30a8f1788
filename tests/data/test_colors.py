"""Colours of one sample, beside those of v2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from cvtasks.data import colors

from .samples import assert_same, make_sample, plain

FEW = settings(max_examples=25)
seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("factors", [(1.2, 1.0, 1.0), (1.0, 0.7, 1.0), (1.0, 1.0, 1.3), (0.9, 1.2, 0.6)])
def test_colours_change_as_v2_changes_them_where_nothing_is_clipped(factors):
    brightness, contrast, saturation = factors
    sample = make_sample(3)
    sample["image"] = tv_tensors.Image(plain(sample["image"]) // 3 + 60)
    oracle = F.adjust_saturation(plain(sample["image"]), saturation)
    oracle = F.adjust_brightness(F.adjust_contrast(oracle, contrast), brightness)
    ours = colors.adjust_color(sample, brightness=brightness, contrast=contrast, saturation=saturation)
    assert ours["image"].dtype == torch.uint8
    assert (plain(ours["image"]).int() - oracle.int()).abs().max() <= 3  # v2 rounds down three times
    assert_same(colors.adjust_color(sample), sample)


@FEW
@given(seed=seeds, hue=st.floats(-0.5, 0.5))
def test_turning_colours_leaves_grey_as_it_is_and_can_be_undone(seed, hue):
    sample = make_sample(seed)
    calm = plain(sample["image"]) // 4 + 96  # nothing is clipped
    sample["image"] = tv_tensors.Image(calm)
    turned = colors.adjust_color(sample, hue=hue)
    weights = torch.tensor(colors.GREY)[:, None, None]
    assert ((plain(turned["image"]) * weights).sum(0) - (calm * weights).sum(0)).abs().max() < 1.1
    back = colors.adjust_color(turned, hue=-hue)
    assert (plain(back["image"]).int() - calm.int()).abs().max() <= 2
    grey = sample | {"image": tv_tensors.Image(calm[:1].repeat(3, 1, 1))}
    assert (plain(colors.adjust_color(grey, hue=hue)["image"]).int() - calm[0].int()).abs().max() <= 1


@pytest.mark.parametrize("hue", [-0.08, 0.08])
@pytest.mark.parametrize("colour", [(180, 90, 90), (90, 180, 90), (90, 90, 180), (180, 180, 90)])
def test_colours_turn_the_way_that_v2_turns_them(colour, hue):
    # Two circles: v2's keeps the largest channel, ours the grey value. Apart from that they go the same way.
    pixel = torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, 2, 2)
    ours = plain(colors.adjust_color({"image": tv_tensors.Image(pixel)}, hue=hue)["image"])
    one, two = ((turned.float() - pixel)[:, 0, 0] for turned in (ours, F.adjust_hue(pixel, hue)))
    two -= (two * torch.tensor(colors.GREY)).sum()
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.7
