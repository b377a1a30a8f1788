"""Geometry of one sample: what moves together, what is dropped, and what v2 does wrongly for us."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cvtasks.data import colors, transforms
from cvtasks.errors import ConfigError

from .samples import FLIP_INDEX, INSTANCE_FIELDS, assert_same, extent, make_sample, plain

FEW = settings(max_examples=25)
seeds = st.integers(0, 10_000)
objects = st.integers(0, 4)

RIGID = {
    "horizontal_flip": partial(transforms.horizontal_flip, flip_index=FLIP_INDEX),
    "vertical_flip": partial(transforms.vertical_flip, flip_index=FLIP_INDEX),
    "rotate90": transforms.rotate90,
}


@pytest.mark.parametrize(("name", "times"), [("horizontal_flip", 2), ("vertical_flip", 2), ("rotate90", 4)])
@FEW
@given(seed=seeds, n=objects)
def test_a_flip_done_twice_or_a_quarter_turn_four_times_changes_nothing(name, times, seed, n):
    sample = make_sample(seed, objects=n)
    result = sample
    for _ in range(times):
        result = RIGID[name](result)
    assert_same(result, sample, within=1e-4)


def test_a_flip_mirrors_joints_as_w_minus_x_and_swaps_left_and_right():
    # By hand: 10 wide; left joint in the first pixel's centre, right one in the eighth's, none in the middle.
    sample = make_sample(0, objects=1, width=10)
    sample["keypoints"] = torch.tensor([[[0.5, 4.0], [7.5, 5.0], [0.0, 0.0]]])
    sample["visible"] = torch.tensor([[2, 1, 0]])
    flipped = transforms.horizontal_flip(sample, flip_index=FLIP_INDEX)
    assert flipped["keypoints"][0, :2].tolist() == [[2.5, 5.0], [9.5, 4.0]]
    assert flipped["visible"].tolist() == [[1, 2, 0]]
    assert transforms.horizontal_flip(sample)["visible"].tolist() == [[2, 1, 0]]


@FEW
@given(seed=seeds)
def test_flips_of_pixels_and_boxes_are_those_of_v2(seed):
    sample = make_sample(seed)
    for name in ("horizontal_flip", "vertical_flip"):
        ours = RIGID[name](sample)
        for field in ("image", "boxes", "masks", "segmentation"):
            oracle = getattr(F, name)(sample[field])
            assert type(ours[field]) is type(oracle)
            torch.testing.assert_close(plain(ours[field]), plain(oracle), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", RIGID)
@FEW
@given(x=st.integers(0, 63), y=st.integers(0, 47))
def test_a_pixel_painted_at_a_joint_moves_with_it(name, x, y):
    sample = make_sample(1, objects=1)
    sample["image"] = tv_tensors.Image(torch.zeros(3, 48, 64, dtype=torch.uint8))
    sample["image"][:, y, x] = 255
    sample["keypoints"] = torch.tensor([x + 0.5, y + 0.5]).expand(1, 3, 2)
    moved = RIGID[name](sample)
    new_x, new_y = moved["keypoints"][0, 0].floor().int().tolist()
    assert moved["image"][0, new_y, new_x] == 255
    assert plain(moved["image"]).sum() == 3 * 255


@FEW
@given(x=st.integers(12, 50), y=st.integers(12, 36), height=st.integers(20, 120), width=st.integers(20, 120))
def test_a_spot_painted_at_a_joint_stays_there_through_crop_and_resize(x, y, height, width):
    # The centre of mass of the resized spot is the oracle; it catches any shift by half a pixel.
    sample = make_sample(1, objects=1)
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    image[:, y - 1 : y + 2, x - 1 : x + 2] = 255
    sample |= {
        "image": tv_tensors.Image(image),
        "keypoints": torch.tensor([x + 0.5, y + 0.5]).expand(1, 3, 2),
    }
    moved = transforms.crop_resize(sample, window=(4, 3, 60, 45), size=(height, width))
    light = plain(moved["image"])[0].double()
    centre_x = (light.sum(0) * (torch.arange(width) + 0.5)).sum() / light.sum()
    centre_y = (light.sum(1) * (torch.arange(height) + 0.5)).sum() / light.sum()
    new_x, new_y = moved["keypoints"][0, 0].tolist()
    assert abs(new_x - centre_x) < 0.15
    assert abs(new_y - centre_y) < 0.15


@FEW
@given(seed=seeds, data=st.data())
def test_boxes_agree_with_masks_within_a_pixel_after_any_crop_resize_and_turn(seed, data):
    x1, y1 = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 20))
    window = (x1, y1, data.draw(st.integers(x1 + 8, 64)), data.draw(st.integers(y1 + 8, 48)))
    size = (data.draw(st.integers(16, 100)), data.draw(st.integers(16, 100)))
    grows = (
        size[0] >= window[3] - y1 and size[1] >= window[2] - x1
    )  # the tip of an ellipse may vanish when it shrinks
    sample = transforms.crop_resize(make_sample(seed, ellipses=grows), window=window, size=size)
    sample = transforms.drop_small(sample, min_box=1.5)
    for name in data.draw(st.lists(st.sampled_from(list(RIGID)), max_size=2)):
        sample = RIGID[name](sample)
    for box, mask in zip(sample["boxes"], sample["masks"], strict=True):
        assert mask.any()
        assert (plain(box) - torch.tensor(extent(plain(mask)))).abs().max() < 1.01


def test_the_box_of_a_cut_object_shrinks_to_what_is_left_of_its_mask():
    # By hand: an L, 4 x 20 on the left and 20 x 4 below; the crop leaves the right half of the lower bar.
    sample = make_sample(0, objects=2, height=20, width=20)
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, :, :4] = masks[0, 16:, :] = True
    masks[1, 5:8, 12:15] = True
    boxes = torch.tensor([[0.0, 0, 20, 20], [12.2, 5, 15, 8]])
    sample["masks"] = tv_tensors.Mask(masks)
    sample["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(20, 20))
    cropped = transforms.crop_resize(sample, window=(10, 0, 20, 20), size=(20, 10))
    expected = torch.tensor([[0.0, 16, 10, 20], [2.2, 5, 5, 8]])  # the second is whole and keeps its fraction
    torch.testing.assert_close(plain(cropped["boxes"]), expected)
    assert cropped["boxes"].canvas_size == (20, 10)


def test_a_crop_drops_what_it_leaves_out_from_every_field_at_once():
    sample = make_sample(5, objects=3, height=20, width=40)
    boxes = torch.tensor([[0.0, 0, 9, 9], [12, 2, 30, 18], [0, 0, 10.5, 20]])
    masks = torch.zeros(3, 20, 40, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    sample["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(20, 40))
    sample["masks"] = tv_tensors.Mask(masks)
    result = transforms.crop_resize(sample, window=(10, 0, 40, 20), size=(20, 30))
    result = transforms.drop_small(result, min_box=1.0)  # half a pixel of the third is left
    assert result["labels"].tolist() == [1]
    assert {name: len(result[name]) for name in INSTANCE_FIELDS} == dict.fromkeys(INSTANCE_FIELDS, 1)
    assert torch.equal(plain(result["masks"])[0], masks[1, :, 10:])


def test_objects_without_boxes_are_dropped_by_their_masks():
    sample = make_sample(5, objects=2)
    del sample["boxes"]
    sample["masks"][0] = False
    assert transforms.drop_small(sample, min_box=1.0)["labels"].tolist() == [1]


def test_joints_outside_a_crop_become_unlabelled():
    sample = make_sample(0, objects=1, height=20, width=20)
    sample["keypoints"] = torch.tensor([[[4.0, 10.0], [10.0, 10.0], [15.0, 19.5]]])
    sample["visible"] = torch.tensor([[2, 1, 2]])
    cropped = transforms.crop_resize(sample, window=(5, 0, 20, 18), size=(36, 30))
    assert cropped["visible"].tolist() == [[0, 1, 0]]
    assert cropped["keypoints"][0, 1].tolist() == [10.0, 20.0]


@FEW
@given(seed=seeds, height=st.integers(10, 100), width=st.integers(10, 100))
def test_resizing_is_v2s_for_images_and_exact_nearest_for_labels(seed, height, width):
    sample = make_sample(seed)
    resized = transforms.resize(sample, size=(height, width))
    oracle = F.resize(plain(sample["image"]).contiguous(), [height, width], antialias=True)
    # torch's kernels for the two memory layouts round differently
    assert (plain(resized["image"]).int() - oracle.int()).abs().max() <= 1
    nearest = F.resize(
        plain(sample["segmentation"])[None], [height, width], interpolation=InterpolationMode.NEAREST_EXACT
    )
    # exact ties between two pixels may fall to either side
    assert (plain(resized["segmentation"]) != nearest[0]).float().mean() < 0.05
    assert resized["masks"].dtype == torch.bool
    scale = torch.tensor([width / 64, height / 48]).repeat(2)
    torch.testing.assert_close(plain(resized["boxes"]), plain(sample["boxes"]) * scale, rtol=0, atol=1e-4)


def test_proposals_move_and_are_clipped_and_dropped_as_boxes_are():
    sample = make_sample(0, objects=0, height=20, width=20)
    sample["proposals"] = torch.tensor([[2.0, 2, 12, 12], [0, 0, 4, 4]])
    cropped = transforms.crop_resize(sample, window=(5, 5, 20, 20), size=(30, 30))
    assert transforms.drop_small(cropped, min_box=1.0)["proposals"].tolist() == [[0, 0, 14, 14]]


def test_a_shift_by_whole_pixels_moves_everything_and_leaves_void_behind():
    # By hand: each pixel comes from 3 to the right and 2 below, so all move 3 to the left and 2 up.
    sample = make_sample(3, ellipses=False)
    for name in ("keypoints", "proposals"):
        del sample[name]
    moved = transforms.elastic(sample, displacement=torch.tensor([3.0, 2.0])[:, None, None].repeat(1, 3, 3))
    assert torch.equal(plain(moved["image"])[:, :46, :61], plain(sample["image"])[:, 2:, 3:])
    assert torch.equal(plain(moved["segmentation"])[:46, :61], plain(sample["segmentation"])[2:, 3:])
    assert (moved["segmentation"][46:] == 255).all()
    assert (moved["segmentation"][:, 61:] == 255).all()
    assert torch.equal(plain(moved["masks"])[:, :46, :61], plain(sample["masks"])[:, 2:, 3:])
    assert not moved["masks"][:, 46:].any()
    for box, mask in zip(moved["boxes"], moved["masks"], strict=True):
        assert box.tolist() == (extent(plain(mask)) if mask.any() else [0, 0, 0, 0])


@FEW
@given(seed=seeds)
def test_pixels_labels_and_masks_are_deformed_alike(seed):
    # An image that shows its own label map, in large patches, still shows it.
    patches = torch.randint(0, 3, (6, 8), generator=torch.Generator().manual_seed(seed))
    labels = patches.repeat_interleave(16, 0).repeat_interleave(16, 1).to(torch.uint8)
    sample = {
        "image": tv_tensors.Image((labels * 100).expand(3, -1, -1)),
        "segmentation": tv_tensors.Mask(labels),
        "masks": tv_tensors.Mask(labels == torch.arange(3)[:, None, None]),
    }
    torch.manual_seed(seed)
    moved = transforms.elastic(sample, displacement=4 * torch.randn(2, 3, 3))
    shown, labels = plain(moved["image"])[0], plain(moved["segmentation"])
    inside = labels != 255
    agree = (shown.float() / 100).round()[inside] == labels[inside]
    assert agree.float().mean() > 0.93  # but for the seams of patches
    assert torch.equal(plain(moved["masks"])[:, inside], labels[inside] == torch.arange(3)[:, None])
    assert not plain(moved["masks"])[:, ~inside].any()


def test_between_the_points_of_the_grid_a_deformation_is_bicubic():
    # Oracle: torch's own interpolation of the displacements, read off an image that holds its x coordinate.
    displacement = torch.zeros(2, 3, 3)
    displacement[0] = torch.tensor([[0.0, 4, 1], [2, -5, 3], [1, 0, -2]])
    sample = {"image": tv_tensors.Image((torch.arange(200) + 20).to(torch.uint8).expand(3, 60, 200))}
    moved = plain(transforms.elastic(sample, displacement=displacement)["image"])[0].float()
    shift = torch.nn.functional.interpolate(
        displacement[None], (60, 200), mode="bicubic", align_corners=True
    )[0, 0]
    inside = slice(8, 192)
    assert (moved - (torch.arange(200) + 20 + shift))[:, inside].abs().max() < 0.51


@pytest.mark.parametrize(
    ("without", "what"), [("masks", "boxes without masks"), ("segmentation", "keypoints or proposals")]
)
def test_a_deformation_refuses_what_it_cannot_move(without, what):
    sample = make_sample(0)
    del sample[without]
    if without == "masks":
        del sample["keypoints"], sample["proposals"]
    with pytest.raises(ConfigError, match=rf"pipeline\.elastic cannot move {what}"):
        transforms.elastic(sample, displacement=torch.zeros(2, 3, 3))


def test_the_share_of_the_largest_class_does_not_count_void():
    label_map = tv_tensors.Mask(torch.tensor([[0, 0, 1, 255], [0, 255, 255, 255]], dtype=torch.uint8))
    assert transforms.class_share(label_map) == 0.75
    assert transforms.class_share(label_map[:, 3:]) == transforms.class_share(label_map[:, :1]) == 1.0


def test_no_step_changes_the_sample_it_was_given():
    sample = make_sample(7)
    before = copy.deepcopy(sample)
    for step in RIGID.values():
        step(sample)
    transforms.crop_resize(sample, window=(10, 10, 40, 40), size=(20, 20))
    transforms.drop_small(sample, min_box=20)
    colors.adjust_color(sample, brightness=2.0)
    transforms.elastic(
        {k: v for k, v in sample.items() if k not in ("keypoints", "proposals")},
        displacement=torch.ones(2, 3, 3),
    )
    assert_same(sample, before)
