"""The crops that classifiers are trained with. Oracle: torchvision's RandomResizedCrop with the same random numbers."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cvtasks.data.pipelines import pad_crop, random_resized_crop
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

from .samples import FLIP_INDEX, assert_same, extent, make_sample, plain


def whole(height: int, width: int) -> Sample:
    """One label of all of it; a pixel tells where it was."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, 200)]).to(torch.uint8)
    return {
        "image": tv_tensors.Image(image),
        "image_id": 0,
        "orig_size": (height, width),
        "label": torch.tensor(1),
    }


def test_a_padded_crop_is_torchvisions_at_every_offset_and_each_is_drawn() -> None:
    transform = pad_crop(train=True, size=20, padding=2, flip=0.0, fill=(7, 8, 9))
    sample = whole(20, 20)
    padded = torch.tensor([7, 8, 9], dtype=torch.uint8)[:, None, None].expand(3, 24, 24).clone()
    padded[:, 2:22, 2:22] = sample["image"]
    crops = {padded[:, y : y + 20, x : x + 20].numpy().tobytes(): (x, y) for x in range(5) for y in range(5)}
    torch.manual_seed(0)
    drawn = [crops[plain(transform(sample)["image"]).contiguous().numpy().tobytes()] for _ in range(400)]
    assert set(drawn) == set(crops.values())


def test_in_evaluation_a_padded_crop_is_the_whole_image() -> None:
    assert_same(pad_crop(train=False, size=20)(whole(20, 20)), whole(20, 20))
    stretched = pad_crop(train=False, size=20)(whole(30, 50))["image"]
    assert torch.equal(stretched, F.resize(whole(30, 50)["image"], [20, 20], antialias=True))


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), n=st.integers(0, 4))
def test_everything_of_a_sample_moves_with_a_padded_crop(seed: int, n: int) -> None:
    torch.manual_seed(seed)
    transform = pad_crop(train=True, flip_index=FLIP_INDEX, size=40, padding=9, min_box=1.5)
    result = transform(make_sample(seed, objects=n, height=40, width=40, ellipses=False))
    assert result["image"].shape == (3, 40, 40)
    assert result["masks"].shape[1:] == result["segmentation"].shape == (40, 40)
    for box, mask in zip(result["boxes"], result["masks"], strict=True):
        assert (plain(box) - torch.tensor(extent(plain(mask)))).abs().max() < 1.01
    joints = result["keypoints"][result["visible"] > 0]
    assert ((joints >= 0) & (joints <= 40)).all()


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (30, 200), (200, 8)])
def test_a_random_part_is_torchvisions_for_the_same_random_numbers(height: int, width: int) -> None:
    """Long and narrow images fall back on the middle."""
    sample = whole(height, width)
    oracle = v2.RandomResizedCrop(24, antialias=True)
    transform = random_resized_crop(train=True, size=24, flip=0.0)
    for seed in range(50):
        torch.manual_seed(seed)
        expected = oracle(sample["image"])
        torch.manual_seed(seed)
        assert torch.equal(transform(sample)["image"], expected), seed


def test_evaluation_takes_the_middle_as_torchvisions_recipe_does() -> None:
    sample = whole(64, 96)
    found = random_resized_crop(train=False, size=28, flip=1.0, color=1.0)(sample)["image"]
    # Of 28 / 0.875 = 32: the image at half its size is cut at whole pixels.
    recipe = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    assert found.shape == (3, 28, 28)
    # Only at the edge the resize before the crop sees pixels that the crop before the resize does not.
    difference = (found.int() - recipe(sample["image"]).int()).abs()
    assert difference[:, 1:-1, 1:-1].max() <= 1
    assert difference.max() <= 2


def test_the_shares_of_random_parts_are_within_scale_and_their_forms_within_ratio() -> None:
    sample = whole(100, 100)
    for scale, ratio in (((0.1, 0.2), (1.0, 1.0)), ((0.25, 0.25), (0.5, 2.0))):
        transform = random_resized_crop(train=True, size=8, scale=scale, ratio=ratio, flip=0.0)
        torch.manual_seed(0)
        windows = [transform.place.window(100, 100) for _ in range(200)]  # type: ignore[attr-defined]
        sides = [(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows]
        areas = [width * height / 10_000 for width, height in sides]
        assert scale[0] * 0.95 < min(areas) <= max(areas) < scale[1] * 1.05
        forms = [math.log(width / height) for width, height in sides]
        assert abs(sum(forms) / len(forms)) < 0.06  # as often high as wide
        if ratio[1] > 1:
            assert max(forms) > math.log(1.8)
            assert min(forms) < math.log(1 / 1.8)
        assert transform(sample)["image"].shape == (3, 8, 8)


def test_labels_that_lie_in_the_image_cannot_be_judged_in_its_middle() -> None:
    transform = random_resized_crop(train=False)
    with pytest.raises(ConfigError, match="judges the middle of an image, and boxes are of all of it"):
        transform(make_sample(0))
    assert random_resized_crop(train=True)(make_sample(0))["image"].shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pad_crop(train=True, size=8, padding=8), r"pipeline\.padding=8: expected less than pipeline\.size"),
        (lambda: random_resized_crop(train=True, scale=(1.0, 0.5)), r"pipeline\.scale: \[1.0,0.5\]; expected"),
        (lambda: random_resized_crop(train=True, ratio=(2.0, 0.5)), r"pipeline\.ratio: \[2.0,0.5\]; expected"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_their_key(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_they_can_be_sent_to_another_process_and_tell_their_shape(tmp_path: Path) -> None:
    for transform in (pad_crop(train=True, size=20), random_resized_crop(train=True, size=20)):
        torch.manual_seed(0)
        one = transform(whole(40, 30))
        torch.manual_seed(0)
        assert_same(pickle.loads(pickle.dumps(transform))(whole(40, 30)), one)
        assert transform.largest == (20, 20)  # type: ignore[attr-defined]
