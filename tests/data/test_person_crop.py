"""The crop about a person: where pixels and joints go, and what evaluation may rely on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvtasks.data import transforms
from cvtasks.data.collate import collate
from cvtasks.data.pipelines import fixed, person_crop
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

from .samples import FLIP_INDEX, make_sample, plain

FEW = settings(max_examples=25)


def person(
    box: tuple[float, ...], joints: Any, *, width: int = 64, height: int = 48, seed: int = 0
) -> Sample:
    whole = make_sample(seed, objects=1, width=width, height=height)
    sample = {name: whole[name] for name in ("image", "image_id", "orig_size")}
    canvas: Any = {"format": "XYXY", "canvas_size": (height, width)}
    return sample | {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([box], dtype=torch.float32), **canvas),
        "keypoints": torch.tensor([joints], dtype=torch.float32),
        "visible": torch.tensor([[2, 1, 2]]),
    }


def spot(x: float, y: float, **options: Any) -> Sample:
    """A white square of three pixels on black at a person's first joint."""
    sample = person((10, 8, 50, 40), [(x + 0.5, y + 0.5)] * 3, **options)
    image = torch.zeros(plain(sample["image"]).shape, dtype=torch.uint8)
    image[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
    return sample | {"image": tv_tensors.Image(image)}


def centre_of_light(image: torch.Tensor) -> tuple[float, float]:
    light = plain(image)[0].double()
    height, width = light.shape
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    return float((light.sum(0) * across).sum() / light.sum()), float(
        (light.sum(1) * down).sum() / light.sum()
    )


@FEW
@given(
    x=st.integers(20, 44), y=st.integers(16, 32), angle=st.floats(-math.pi, math.pi), zoom=st.floats(0.25, 3)
)
def test_a_spot_painted_at_a_joint_stays_there_through_any_turn_and_scale(
    x: int, y: int, angle: float, zoom: float
) -> None:
    # The centre of mass of the moved spot is the oracle; it catches any shift by half a pixel, and a wrong direction.
    size = (round(64 * zoom), round(96 * zoom))
    moved = transforms.turned_crop(
        spot(x, y), centre=(31, 23), extent=(96, 64), angle=angle, size=size, fill=(0, 0, 0)
    )
    assert moved["image"].shape == (3, *size)
    found = centre_of_light(moved["image"])
    for one, other in zip(moved["keypoints"][0, 0].tolist(), found, strict=True):
        assert abs(one - other) < 0.3 * max(1, zoom)


def test_by_a_quarter_the_picture_turns_clockwise() -> None:
    # By hand: 10 right of the centre comes to lie 10 below it.
    sample = person((0, 0, 20, 20), [(20, 10), (10, 20), (0, 10)])
    moved = transforms.turned_crop(
        sample, centre=(10, 10), extent=(32, 32), angle=math.pi / 2, size=(32, 32), fill=(0, 0, 0)
    )
    assert torch.allclose(moved["keypoints"][0], torch.tensor([[16.0, 26], [6, 16], [16, 6]]), atol=1e-4)
    assert torch.allclose(plain(moved["boxes"]), torch.tensor([[6.0, 6, 26, 26]]), atol=1e-4)


def test_outside_of_the_image_it_is_the_mean_and_joints_beyond_the_crop_are_not_visible() -> None:
    sample = person((0, 0, 64, 48), [(5, 5), (63, 47), (1, 47)])
    moved = transforms.turned_crop(
        sample, centre=(0, 0), extent=(40, 40), angle=0, size=(40, 40), fill=(1, 2, 3)
    )
    assert (
        plain(moved["image"])[:, :19, :19] == torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    ).all()
    assert moved["visible"].tolist() == [[2, 0, 0]]
    assert plain(moved["boxes"]).tolist() == [[20, 20, 40, 40]]


@pytest.mark.parametrize("size", [40, 8])
@pytest.mark.parametrize("angle", [0, math.pi / 2, 1.0])
@pytest.mark.parametrize("x", [-30, -500, 94, 1000])
def test_a_crop_beyond_the_edge_is_all_fill(x: float, angle: float, size: int) -> None:
    sample = person((0, 0, 64, 48), [(5, 5), (63, 47), (1, 47)])
    moved = transforms.turned_crop(
        sample, centre=(x, 20), extent=(40, 40), angle=angle, size=(size, size), fill=(9, 8, 7)
    )
    assert (plain(moved["image"]) == torch.tensor([9, 8, 7], dtype=torch.uint8)[:, None, None]).all()
    assert moved["visible"].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("shrink", [1, 2, 5])
def test_the_edge_is_where_the_image_ends_also_in_a_reduced_picture(shrink: int) -> None:
    # By hand: a white image 60 wide whose left half is shown behind as much outside; up to one pixel is of both.
    sample = person((0, 0, 60, 60), [(0, 0)] * 3, width=60, height=60)
    white = torch.full((3, 60, 60), 255, dtype=torch.uint8)
    moved = transforms.turned_crop(
        sample | {"image": tv_tensors.Image(white)},
        centre=(0, 30), extent=(60, 60), angle=0, size=(60 // shrink, 60 // shrink), fill=(0, 50, 100),
    )  # fmt: skip
    pixels, edge = plain(moved["image"]), 30 // shrink
    assert (pixels[:, :, : edge - 1] == torch.tensor([0, 50, 100], dtype=torch.uint8)[:, None, None]).all()
    assert (pixels[:, :, edge + 1 :] == 255).all()
    assert moved["keypoints"][0, 0].tolist() == pytest.approx([edge, 0])


def test_a_window_far_wider_than_high_may_leave_the_image_in_training() -> None:
    # Half of its length away and turned upright, nothing of the image is left in it.
    transform = person_crop(train=True, size=(16, 160), shift=0.5, rotate=90.0)
    for seed in range(60):
        torch.manual_seed(seed)
        moved = transform(person((0, 0, 8, 4), [(1, 1)] * 3))
        assert moved["image"].shape == (3, 16, 160)
        assert moved["keypoints"].isfinite().all()


def test_a_large_image_is_reduced_and_not_sampled_here_and_there() -> None:
    # Stripes of one pixel, black and white: a fifth as large they are grey all over; picking pixels would keep stripes.
    sample = person((0, 0, 320, 240), [(1, 1)] * 3, width=320, height=240)
    stripes = (torch.arange(320) % 2 * 255).to(torch.uint8).expand(3, 240, 320)
    moved = person_crop(train=False, size=(48, 64), padding=1.0)(
        sample | {"image": tv_tensors.Image(stripes)}
    )
    inner = plain(moved["image"])[:, 2:-2, 2:-2].float()
    assert 100 < inner.mean() < 155
    assert inner.std() < 32


@FEW
@given(
    x=st.floats(0, 50), y=st.floats(0, 40), w=st.floats(2, 60), h=st.floats(2, 60), seed=st.integers(0, 99)
)
def test_evaluation_takes_the_same_window_each_time_and_says_which(
    x: float, y: float, w: float, h: float, seed: int
) -> None:
    joints = [(x + w / 2, y + h / 2), (x, y), (x + w, y + h)]
    sample = person((x, y, x + w, y + h), joints)
    torch.manual_seed(seed)
    moved = person_crop(train=False, size=(64, 48))(sample)
    x1, y1, x2, y2 = moved["window"].tolist()
    # The box in the middle, a fourth as much around it, in the form of the picture.
    assert (x1 + x2) / 2 == pytest.approx(x + w / 2, abs=1e-3)
    assert (y1 + y2) / 2 == pytest.approx(y + h / 2, abs=1e-3)
    assert (x2 - x1) / (y2 - y1) == pytest.approx(48 / 64, rel=1e-3)
    assert max((x2 - x1) / w, (y2 - y1) / h) >= 1.25 - 1e-3
    assert min((x2 - x1) / w, (y2 - y1) / h) == pytest.approx(1.25, rel=1e-3)
    # The window takes the picture's joints back to the file's.
    back = moved["keypoints"][0] / torch.tensor([48, 64]) * torch.tensor([x2 - x1, y2 - y1])
    assert torch.allclose(back + moved["window"][:2], torch.tensor(joints, dtype=torch.float32), atol=1e-2)
    assert moved["visible"].tolist() == [[2, 1, 2]]


def test_training_scales_turns_and_moves_within_its_limits_and_flips_swap_sides() -> None:
    joints = [(20, 20), (44, 20), (32, 36)]
    lengths, angles, middles = [], [], []
    transform = person_crop(
        train=True, flip_index=FLIP_INDEX, size=(96, 96), scale=(0.5, 2.0), rotate=30.0, shift=0.1, flip=0.0
    )
    for seed in range(300):
        torch.manual_seed(seed)
        moved = transform(person((16, 16, 48, 48), joints))
        left, right, _ = moved["keypoints"][0]
        lengths.append(float((right - left).norm()) / (24 / 40 * 96))
        angles.append(math.degrees(math.atan2(*(right - left).flip(0).tolist())))
        middles.append(moved["window"][:2] + moved["window"][2:])
    # Zooming out by 2 halves the length, and by 0.5 doubles it.
    assert 0.5 <= min(lengths) < 0.52
    assert 1.9 < max(lengths) <= 2.0001
    assert -30 <= min(angles) < -28
    assert 28 < max(angles) <= 30
    spread = (torch.stack(middles) / 2 - 32).abs().max()
    assert 5 < spread <= 0.1 * 80
    torch.manual_seed(0)
    plainly = person_crop(train=True, scale=(1, 1), rotate=0, shift=0, flip=0.0, size=(96, 96))
    mirrored = person_crop(
        train=True, flip_index=FLIP_INDEX, scale=(1, 1), rotate=0, shift=0, flip=1.0, size=(96, 96)
    )
    one, two = (f(person((16, 16, 48, 48), joints))["keypoints"][0] for f in (plainly, mirrored))
    assert torch.allclose(
        two[list(FLIP_INDEX)], torch.tensor([96.0, 0]) + one * torch.tensor([-1.0, 1]), atol=1e-3
    )


def test_a_batch_of_crops_has_one_person_each_and_its_windows() -> None:
    transform = person_crop(train=True, flip_index=FLIP_INDEX, shift=0.5, scale=(0.05, 0.06))
    batch = collate([transform(person((16, 16, 17, 17), [(1, 1)] * 3, seed=n)) for n in range(4)])
    assert batch.images.shape == (4, 3, 256, 192)
    assert batch.window is not None
    assert batch.window.shape == (4, 4)
    assert batch.valid is not None
    assert batch.valid.tolist() == [[True]] * 4  # also where nothing of the box is left
    assert batch.keypoints is not None
    assert batch.keypoints.shape == (4, 1, 3, 2)
    assert collate([fixed(train=False)(person((1, 1, 9, 9), [(1, 1)] * 3))]).window is None


def test_an_image_without_a_box_is_shown_whole() -> None:
    sample = {
        k: v for k, v in person((0, 0, 1, 1), [(1, 1)] * 3).items() if k in ("image", "image_id", "orig_size")
    }
    assert person_crop(train=False, size=(48, 48))(sample)["window"].tolist() == [0, -8, 64, 56]


def test_what_is_not_one_person_is_refused() -> None:
    transform = person_crop(train=False)
    two = {
        k: v for k, v in make_sample(3, objects=2).items() if k not in ("masks", "segmentation", "proposals")
    }
    with pytest.raises(ConfigError, match="takes one person a sample, and image 3 has 2 objects"):
        transform(two)
    with pytest.raises(ConfigError, match="cannot move masks"):
        transform(make_sample(3, objects=1))
    with pytest.raises(ConfigError, match=r"pipeline\.scale: \[2, 1\]"):
        person_crop(train=True, scale=(2, 1))
