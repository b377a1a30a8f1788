"""The first YOLO's augmentation: where edges move, what comes from beyond the image, and HSV against Python's own."""

from __future__ import annotations

import colorsys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvtasks.config.compose import compose
from cvtasks.data import transforms
from cvtasks.data.colors import adjust_hsv
from cvtasks.data.pipelines import edge_jitter, fixed

from .samples import INSTANCE_FIELDS, assert_same, make_sample, plain

FEW = settings(max_examples=25)
PLAIN: dict[str, Any] = {"exposure": 1.0, "saturation": 1.0, "flip": 0.0}


def spot(x: int, y: int) -> Any:
    """White from (x, y) to (x + 8, y + 6) on black, with its box and a joint in its middle; 64 x 48 pixels."""
    sample = make_sample(0, objects=1)
    image, mask = torch.zeros(3, 48, 64, dtype=torch.uint8), torch.zeros(1, 48, 64, dtype=torch.bool)
    image[:, y : y + 6, x : x + 8], mask[:, y : y + 6, x : x + 8] = 255, True
    canvas: Any = {"format": "XYXY", "canvas_size": (48, 64)}
    return sample | {
        "image": tv_tensors.Image(image),
        "masks": tv_tensors.Mask(mask),
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[x, y, x + 8.0, y + 6.0]]), **canvas),
        "keypoints": torch.tensor([[[x + 4.0, y + 3.0]] * 3]),
        "visible": torch.tensor([[2, 2, 2]]),
    }


@FEW
@given(
    spot_at=st.tuples(st.integers(14, 42), st.integers(11, 31)),
    left_top=st.tuples(st.integers(-13, 13), st.integers(-10, 10)),
    right_bottom=st.tuples(st.integers(51, 77), st.integers(38, 58)),
    size=st.tuples(st.integers(60, 140), st.integers(60, 140)),
)
def test_pixels_boxes_joints_and_masks_go_to_the_same_place_through_any_window(
    spot_at: tuple[int, int],
    left_top: tuple[int, int],
    right_bottom: tuple[int, int],
    size: tuple[int, int],
) -> None:
    window = (*left_top, *right_bottom)
    moved = transforms.reframe(spot(*spot_at), window=window, size=size)
    assert moved["image"].shape == (3, *size)
    assert moved["masks"].shape[1:] == moved["segmentation"].shape == moved["boxes"].canvas_size == size
    # The oracle: where the window's linear map takes the spot's corners, up to a pixel of the source.
    scale = torch.tensor([size[1] / (window[2] - window[0]), size[0] / (window[3] - window[1])])
    corner, start = torch.tensor(spot_at, dtype=torch.float32), torch.tensor(window[:2])
    low, high = (corner - start) * scale, (corner + torch.tensor([8, 6]) - start) * scale
    x1, y1, x2, y2 = plain(moved["boxes"])[0]
    assert (torch.stack([x1, y1]) - low).abs().max() < 1.1
    assert (torch.stack([x2, y2]) - high).abs().max() < 1.1
    assert (moved["keypoints"][0, 0] - (low + high) / 2).abs().max() < 1.1
    light = plain(moved["image"])[0] > 127
    rows, columns = light.nonzero(as_tuple=True)
    found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (found - plain(moved["boxes"])[0]).abs().max() < 1.6
    assert (light ^ plain(moved["masks"])[0]).sum() < 2 * (light.sum() ** 0.5) * 4


def test_beyond_the_image_its_edge_is_repeated_and_labels_are_void() -> None:
    sample = make_sample(0, height=10, width=20, objects=1)
    moved = transforms.reframe(sample, window=(-4, -2, 24, 13), size=(15, 28))  # at its own scale
    whole, image = plain(sample["image"]), plain(moved["image"])
    assert torch.equal(image[:, 2:12, 4:24], whole)
    assert torch.equal(image[:, 2:12, :4], whole[:, :, :1].expand(-1, -1, 4))
    assert torch.equal(image[:, 12:, 4:24], whole[:, -1:].expand(-1, 3, -1))
    assert torch.equal(image[:, 0, 27], whole[:, 0, 19])
    outside = torch.ones(15, 28, dtype=torch.bool)
    outside[2:12, 4:24] = False
    assert (plain(moved["segmentation"])[outside] == 255).all()
    assert not plain(moved["masks"])[:, outside].any()
    assert torch.equal(plain(moved["boxes"]), plain(sample["boxes"]) + torch.tensor([4.0, 2, 4, 2]))


def test_within_the_image_it_is_a_crop_and_joints_that_are_cut_off_are_not_seen() -> None:
    sample = make_sample(3, height=48, width=64)
    window, size = (5, 7, 50, 40), (33, 45)
    moved = transforms.reframe(sample, window=window, size=size)
    assert_same(moved, transforms.crop_resize(sample, window=window, size=size))
    # A joint beyond the cut stays hidden also where the picture goes on: what is there is a repeated edge.
    sample["keypoints"][:, 0], sample["visible"][:, 0] = torch.tensor([2.0, 20.0]), 2
    assert (transforms.reframe(sample, window=(5, -10, 64, 60), size=size)["visible"][:, 0] == 0).all()


def test_each_edge_moves_by_itself_by_up_to_a_fifth_of_the_side() -> None:
    # A ramp tells which columns and rows of the image are at the picture's ends.
    sample = make_sample(0, objects=0, height=200, width=200)
    ramp = torch.arange(200, dtype=torch.uint8)
    image = torch.stack([ramp.expand(200, 200), ramp[:, None].expand(200, 200), ramp.expand(200, 200)])
    sample["image"] = tv_tensors.Image(image)
    torch.manual_seed(0)
    transform = edge_jitter(train=True, size=200, jitter=0.2, **PLAIN)
    edges = []
    for _ in range(300):
        x, y = plain(transform(sample)["image"])[:2].float()
        edges.append([x[0, 0], x[0, -1], y[0, 0], y[-1, 0]])
    low_x, high_x, low_y, high_y = torch.tensor(edges).unbind(1)
    for low, high in ((low_x, 199 - high_x), (low_y, 199 - high_y)):
        for edge in (low, high):
            assert 36 <= edge.max() <= 40  # cut by up to a fifth
            assert (
                0.35 < (edge == 0).float().mean() < 0.65
            )  # or moved outwards: the first column is still there
        assert torch.corrcoef(torch.stack([low, high]))[0, 1].abs() < 0.2
    assert torch.corrcoef(torch.stack([low_x, low_y]))[0, 1].abs() < 0.2


def test_without_jitter_and_in_evaluation_it_is_a_plain_stretch() -> None:
    sample = make_sample(1)
    stretched = fixed(train=False, size=40)(sample)
    assert_same(edge_jitter(train=False, size=40)(sample), stretched)
    kept = edge_jitter(train=True, size=40, jitter=0.0, min_box=0.01, **PLAIN)(sample)
    assert_same({k: v for k, v in kept.items() if k != "pad_to"}, stretched)


def test_objects_of_which_too_little_is_left_go_with_all_their_fields() -> None:
    sample = spot(0, 20)
    transform = edge_jitter(train=True, size=64, jitter=0.2, min_box=8.0, **PLAIN)
    torch.manual_seed(0)
    counts = set()
    for _ in range(40):
        result = transform(sample)
        assert len({len(result[field]) for field in INSTANCE_FIELDS}) == 1
        assert all((box[2:] - box[:2] >= 8).all() for box in plain(result["boxes"]))
        counts.add(len(result["boxes"]))
    assert counts == {0, 1}


@FEW
@given(
    colors=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20),
    saturation=st.floats(1 / 1.5, 1.5),
    exposure=st.floats(1 / 1.5, 1.5),
)
def test_saturation_and_exposure_are_factors_of_hsv_and_colours_are_clipped_at_last(
    colors: list[tuple[int, int, int]], saturation: float, exposure: float
) -> None:
    image = torch.tensor(colors, dtype=torch.uint8).T[:, None]
    found = adjust_hsv({"image": tv_tensors.Image(image)}, saturation=saturation, exposure=exposure)
    for color, ours in zip(colors, plain(found["image"])[:, 0].T.tolist(), strict=True):
        hue, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in color))
        theirs = colorsys.hsv_to_rgb(hue, s * saturation, v * exposure)
        assert ours == pytest.approx([255 * min(1.0, max(0.0, c)) for c in theirs], abs=0.51)


def test_factors_are_as_often_below_one_as_above() -> None:
    sample = make_sample(0, objects=0)
    sample["image"] = tv_tensors.Image(torch.full((3, 8, 8), 100, dtype=torch.uint8))
    torch.manual_seed(0)
    transform = edge_jitter(train=True, size=8, jitter=0.0, exposure=1.5, saturation=1.5, flip=0.0)
    values = torch.tensor([float(transform(sample)["image"][0, 0, 0]) for _ in range(300)])
    assert 66 < values.min() < 70
    assert 146 < values.max() < 151
    assert 0.4 < (values > 100).float().mean() < 0.6
    assert abs((values[values > 100]).mean() - 125) < 4  # uniform from 1 to 1.5


def test_the_recipe_has_the_papers_numbers() -> None:
    cfg = compose("train", ["task=yolo", "dataset=voc", "dataset.root=/nowhere"])
    pipeline = {key: cfg["pipeline"][key] for key in ("name", "size", "jitter", "exposure", "saturation")}
    assert pipeline == {
        "name": "edge_jitter",
        "size": 448,
        "jitter": 0.2,
        "exposure": 1.5,
        "saturation": 1.5,
    }
    assert (cfg["loader"]["batch_size"], cfg["engine"]["max_epochs"]) == (64, 75 + 30 + 30)
    assert cfg["optimizer"]["lr"] * cfg["scheduler"]["warmup_factor"] == pytest.approx(1e-3)
    assert cfg["optimizer"]["lr"] == pytest.approx(1e-2)
    assert (cfg["optimizer"]["momentum"], cfg["optimizer"]["weight_decay"]) == (0.9, 5e-4)
    assert cfg["scheduler"]["milestones"] == pytest.approx([75 / 135, 105 / 135], abs=1e-4)
    assert cfg["scheduler"]["gamma"] == 0.1
