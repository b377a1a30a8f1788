"""Properties of the draws, and the numbers that the paper and its code promise."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.ops import box_iou

from cvtasks.data import colors, transforms
from cvtasks.data.collate import collate
from cvtasks.data.patches import Patch, larger_ground, sought_boxes
from cvtasks.data.pipelines import ssd
from cvtasks.errors import ConfigError
from cvtasks.types import Sample

from .samples import INSTANCE_FIELDS, assert_same, make_sample, plain

BOXES = torch.tensor([[10.0, 10, 60, 50], [70, 5, 78, 30]])
PATCH = {"scale": (0.3, 1.0), "aspect": (0.5, 2.0)}
STILL = {"distort": 0.0, "flip": 0.0}


@given(st.integers(0, 9999), st.floats(1, 5))
@settings(max_examples=50)
def test_a_larger_ground_has_all_of_the_image_and_is_at_most_so_much_larger(seed: int, most: float) -> None:
    torch.manual_seed(seed)
    x1, y1, x2, y2 = larger_ground(40, 70, most=most)
    assert x1 <= 0 <= 70 <= x2
    assert y1 <= 0 <= 40 <= y2
    assert x2 - x1 <= 70 * most
    assert y2 - y1 <= 40 * most
    assert abs((x2 - x1) / 70 - (y2 - y1) / 40) < 1 / 40 + 1 / 70


def test_grounds_are_of_all_sizes_and_the_image_lies_anywhere_on_them() -> None:
    torch.manual_seed(0)
    grounds = torch.tensor([larger_ground(100, 100, most=4) for _ in range(400)])
    sides, left = grounds[:, 2] - grounds[:, 0], -grounds[:, 0]
    assert sides.min() < 110
    assert sides.max() > 390
    assert sides.float().mean() == pytest.approx(250, abs=15)
    part = left / (sides - 100).clamp(min=1)
    assert part.mean() == pytest.approx(0.5, abs=0.05)
    assert part.std() == pytest.approx(1 / math.sqrt(12), abs=0.05)


@given(st.integers(0, 9999), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@settings(max_examples=50)
def test_a_patch_keeps_to_its_overlap_its_form_and_its_frame(seed: int, min_iou: float) -> None:
    torch.manual_seed(seed)
    frame = (-20, -10, 100, 80)
    patch = Patch((min_iou,), **PATCH)(frame, BOXES)
    if patch == frame:
        return  # no trial succeeded
    x1, y1, x2, y2 = patch
    assert frame[0] <= x1 < x2 <= frame[2]
    assert frame[1] <= y1 < y2 <= frame[3]
    assert box_iou(BOXES, torch.tensor([patch]).float()).max() >= min_iou
    middle = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    assert ((middle > torch.tensor([x1, y1])) & (middle < torch.tensor([x2, y2]))).all(1).any()
    across, down = (x2 - x1) / 120, (y2 - y1) / 90
    assert 0.48 < across / down < 2.08
    assert 0.29 < math.sqrt(across * down) <= 1


def test_each_kind_of_patch_is_drawn_as_often_and_another_one_where_none_is_found() -> None:
    torch.manual_seed(0)
    frame, whole = (0, 0, 100, 80), torch.tensor([[0.0, 0, 100, 80]])
    kinds = Patch((None, 0.0), **PATCH)
    assert 70 < sum(kinds(frame, whole) == frame for _ in range(200)) < 130
    # No patch overlaps a small object by 0.9; the other kind is all that is left.
    small = torch.tensor([[50.0, 40, 53, 43]])
    assert all(Patch((0.9, None), **PATCH)(frame, small) == frame for _ in range(20))
    assert all(Patch((0.9, 0.0), **PATCH)(frame, small) != frame for _ in range(20))
    assert Patch((0.0,), **PATCH)(frame, torch.zeros(0, 4)) == frame


def test_ignored_objects_draw_no_patch() -> None:
    sample = make_sample(0, objects=2)
    sample["ignore"] = torch.tensor([True, False])
    assert torch.equal(sought_boxes(sample), plain(sample["boxes"])[1:])
    assert len(sought_boxes({"image": sample["image"]})) == 0


# --- the pixels ------------------------------------------------------------------------------------------------------


def ramp() -> Sample:
    """An image whose red is x and green is y, and a box."""
    x, y = torch.arange(120).expand(80, 120), torch.arange(80)[:, None].expand(80, 120)
    box = torch.tensor([[30.0, 20, 90, 60]])
    return {
        "image": tv_tensors.Image(torch.stack([x, y, torch.full_like(x, 200)]).to(torch.uint8)),
        "image_id": 1,
        "orig_size": (80, 120),
        "boxes": tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(80, 120)),
        "labels": torch.zeros(1, dtype=torch.int64),
        "ignore": torch.zeros(1, dtype=torch.bool),
    }


@given(st.integers(0, 9999))
@settings(max_examples=50)
def test_boxes_stay_on_what_they_show_on_a_larger_ground_and_in_a_patch(seed: int) -> None:
    torch.manual_seed(seed)
    sample = ssd(train=True, size=300, zoom_out=0.7, **STILL)(ramp())
    image, boxes = plain(sample["image"]).float(), plain(sample["boxes"])
    assert image.shape == (3, 300, 300)
    assert len(boxes) == 1
    x1, y1, x2, y2 = boxes[0].tolist()
    # Of an edge that the patch did not cut, the colour tells where it was: 30 and 90 across, 20 and 60 down.
    middle_y, middle_x = int((y1 + y2) / 2), int((x1 + x2) / 2)
    for edge, at, channel, was in ((x1, x1, 0, 30), (x2, x2, 0, 90), (y1, y1, 1, 20), (y2, y2, 1, 60)):
        if 2 < edge < 298:
            place = (middle_y, int(at)) if channel == 0 else (int(at), middle_x)
            step = max(1.0, abs(image[channel].diff(dim=1 - channel)).median().item())
            assert abs(image[channel][place].item() - was) <= 4 + step


def test_around_the_image_is_the_fill_whatever_becomes_of_the_colours() -> None:
    torch.manual_seed(1)
    transform = ssd(
        train=True, size=100, zoom_out=1.0, min_ious=(None,), fill=(1, 2, 3), distort=1.0, brightness=0.5
    )
    sample = transform(ramp())
    is_fill = (plain(sample["image"]) == torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]).all(0)
    x1, y1, x2, y2 = plain(sample["boxes"])[0].tolist()
    assert not is_fill[int(y1) : int(y2), int(x1) : int(x2)].any()
    # The box is a quarter of the image.
    assert (~is_fill).sum() == pytest.approx(4 * (x2 - x1) * (y2 - y1), rel=0.1)
    assert is_fill.any()


def test_objects_whose_middle_is_outside_of_the_patch_go_in_all_fields() -> None:
    sample = make_sample(3, objects=3, height=60, width=60)
    boxes = torch.tensor([[0.0, 0, 20, 20], [5, 0, 36, 10], [30, 30, 60, 60]])
    sample["boxes"] = tv_tensors.wrap(boxes, like=sample["boxes"])
    kept = transforms.drop_outside(sample, window=(0, 0, 22, 60))
    assert {len(kept[field]) for field in INSTANCE_FIELDS} == {2}
    assert kept["labels"].tolist() == [0, 1]
    assert transforms.drop_outside(sample, window=(-5, -5, 60, 60)) is sample


def test_a_batch_has_exactly_the_size_that_was_asked_for_in_training_and_evaluation() -> None:
    for train in (True, False):
        transform = ssd(train=train, size=50)
        batch = collate([transform(ramp()), transform(ramp())])
        assert batch.images.shape == (2, 3, 50, 50)
        assert transform.largest == (50, 50)


def test_the_whole_is_decided_by_the_seed_and_can_be_sent_to_another_process() -> None:
    def run(transform: object, seed: int) -> Sample:
        torch.manual_seed(seed)
        return transform(make_sample(2, height=90, width=70))  # type: ignore[operator]

    transform = ssd(train=True, size=60)
    assert_same(run(transform, 5), run(pickle.loads(pickle.dumps(transform)), 5))
    assert len({run(transform, seed)["image"].sum().item() for seed in range(10)}) == 10
    assert_same(run(ssd(train=False, size=60), 1), run(ssd(train=False, size=60), 2))


def test_an_offset_is_added_behind_all_factors() -> None:
    sample = ramp()
    changed = colors.adjust_color(sample, brightness=0.5, offset=20.0)
    expected = plain(sample["image"]).float() * 0.5 + 20
    assert (plain(changed["image"]) - expected).abs().max() <= 0.5


def test_colours_change_as_often_and_as_much_as_asked() -> None:
    grey = ramp()
    grey["image"] = tv_tensors.Image(torch.full((3, 80, 120), 100, dtype=torch.uint8))
    torch.manual_seed(0)
    only = {"contrast": 0.0, "saturation": 0.0, "hue": 0.0, "zoom_out": 0.0, "min_ious": (None,), "flip": 0.0}
    transform = ssd(train=True, size=20, distort=0.5, brightness=0.2, **only)
    levels = torch.tensor([float(transform(grey)["image"][0, 0, 0]) for _ in range(300)])
    changed = levels[levels != 100]
    assert 110 < len(changed) < 190
    assert 48 <= changed.min() < 60
    assert 140 < changed.max() <= 152
    # A grey stays grey, and contrast multiplies it.
    transform = ssd(train=True, size=20, distort=1.0, **only | {"contrast": 0.5}, brightness=0.0)
    levels = torch.tensor([float(transform(grey)["image"][0, 0, 0]) for _ in range(300)])
    assert 49 <= levels.min() < 60
    assert 140 < levels.max() <= 151


def test_lists_that_cannot_be_drawn_from_are_refused_by_their_key() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.min_ious.*\[null\]"):
        ssd(train=True, min_ious=())
    with pytest.raises(ConfigError, match=r"pipeline\.patch_scale: \[1\.0,0\.3\]"):
        ssd(train=True, patch_scale=(1.0, 0.3))
