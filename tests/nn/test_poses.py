"""Oracles: places worked out by hand, and round trips through any window."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.nn.poses import (
    as_predictions,
    from_original,
    joints_of,
    mirrored,
    person_boxes,
    places,
    to_original,
)
from cvtasks.types import Batch, ClassInfo

number = st.floats(-500, 500)


def make_batch() -> Batch:
    """An image 40 wide and 20 high in a batch of 64 x 64, of a file twice as wide and four times as high."""
    return Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        sizes=torch.tensor([[20, 40]]),
        orig_sizes=torch.tensor([[80, 80]]),
        image_ids=["a"],
        valid=torch.tensor([[True]]),
        boxes=torch.tensor([[[10.0, 5, 30, 15]]]),
        keypoints=torch.tensor([[[[20.0, 10], [0, 0], [40, 20], [50, -10]]]]),
        visible=torch.tensor([[[2, 1, 2, 1]]]),
    )


def test_places_are_parts_of_the_image_from_its_middle_padding_apart() -> None:
    found, labelled = places(make_batch())
    assert found[0].tolist() == [[0, 0], [-0.5, -0.5], [0.5, 0.5], [0.75, -1.0]]
    assert labelled.all()


def test_joints_without_a_label_are_not_even_looked_at() -> None:
    batch = make_batch()
    assert batch.visible is not None
    assert batch.keypoints is not None
    assert batch.valid is not None
    batch.visible[0, 0, 1] = 0
    batch.keypoints[0, 0, 1] = math.nan
    found, labelled = places(batch)
    assert labelled[0].tolist() == [True, False, True, True]
    assert found.isfinite().all()
    batch.valid[:] = False
    assert not places(batch)[1].any()


def test_without_a_window_the_image_is_the_whole_of_its_file() -> None:
    middle_and_corner = torch.tensor([[[0.0, 0.0], [0.5, -0.5]]])
    assert to_original(middle_and_corner, make_batch())[0].tolist() == [[40, 40], [80, 0]]


def test_a_window_is_the_part_of_the_file_that_the_image_shows() -> None:
    batch = make_batch()
    batch.window = torch.tensor([[-10.0, 20, 30, 100]])
    points = torch.tensor([[[0.0, 0.0], [0.5, -0.5]]])
    assert to_original(points, batch)[0].tolist() == [[10, 60], [30, 20]]


@given(number, number, number, number, st.floats(1, 500), st.floats(1, 500))
def test_to_the_file_and_back_is_the_same_place(
    x: float, y: float, left: float, top: float, width: float, height: float
) -> None:
    batch = make_batch()
    batch.window = torch.tensor([[left, top, left + width, top + height]])
    points = torch.tensor([[[x, y]], [[y, x]]]).view(1, 2, 1, 2)
    assert_close(to_original(from_original(points, batch), batch), points, rtol=1e-3, atol=1e-2)


def test_the_person_is_the_box_or_the_whole_image() -> None:
    batch = make_batch()
    assert_close(person_boxes(batch), torch.tensor([[[-0.25, -0.25], [0.25, 0.25]]]))
    batch.valid = torch.tensor([[False]])
    assert_close(person_boxes(batch), torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]]))
    batch.boxes = batch.valid = None
    assert_close(person_boxes(batch), torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]]))


def test_a_prediction_has_one_person_in_the_files_pixels() -> None:
    batch = make_batch()
    stages = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[0.25, 0.0], [0.0, -0.5]]]])
    (found,) = as_predictions(stages[:, -1], torch.tensor([[0.5, 1.0]]), batch, stages=stages)
    assert found["keypoints"].tolist() == [[[60, 40], [40, 0]]]
    assert found["keypoint_scores"].tolist() == [[0.5, 1.0]]
    assert found["scores"].tolist() == [0.75]
    assert found["boxes"].tolist() == [[20, 20, 60, 60]]
    assert found["stages"].tolist() == [[[40, 40], [40, 40]], [[60, 40], [40, 0]]]


def test_an_image_is_mirrored_within_its_own_width() -> None:
    batch = make_batch()
    batch.images = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64).clone()
    found = mirrored(batch).images[0, 2, 7].tolist()
    assert found == [*range(39, -1, -1), *range(40, 64)]
    assert torch.equal(mirrored(mirrored(batch)).images, batch.images)


def test_data_without_joints_are_refused() -> None:
    assert joints_of(ClassInfo(("person",), keypoint_names=("nose", "chin"))) == 2
    with pytest.raises(ConfigError, match="this data set has no joints"):
        joints_of(ClassInfo(("circle",)))
