"""Oracle: torchvision.ops and boxes worked out by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import box_iou, generalized_box_iou_loss

from cvtasks.ops.boxes import area, clip, generalized_iou, intersection, iou, rescale


def random_boxes(seed: int, *shape: int) -> torch.Tensor:
    corner, size = torch.rand(2, *shape, 2, generator=torch.Generator().manual_seed(seed)) * 50
    return torch.cat([corner, corner + size], -1)


def test_overlaps_of_two_squares_are_those_worked_out_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 2, 6, 6], [4, 0, 8, 4], [0, 0, 4, 4]])
    assert_close(intersection(a, b), torch.tensor([[4.0, 0, 16]]))
    assert_close(iou(a, b), torch.tensor([[4 / 28, 0, 1]]))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 7))
def test_iou_is_torchvisions_for_every_image_of_a_batch(seed: int, n: int, p: int) -> None:
    first, second = random_boxes(seed, 3, n), random_boxes(seed + 1, 3, p)
    expected = torch.stack([box_iou(a, b) for a, b in zip(first, second, strict=True)])
    assert_close(iou(first, second), expected)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_generalized_iou_and_its_gradient_are_torchvisions_box_by_box(seed: int) -> None:
    first, second = random_boxes(seed, 2, 20).requires_grad_(), random_boxes(seed + 1, 2, 20)
    second[0, 0], second[0, 1] = 0, first.detach()[0, 1]
    found, expected = generalized_iou(first, second), 1 - generalized_box_iou_loss(first, second)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(values.sum(), first)[0] for values in (found, expected)))


def test_iou_takes_one_list_of_boxes_for_the_whole_batch() -> None:
    first, second = random_boxes(0, 3, 4), random_boxes(1, 6)
    assert_close(iou(first, second), iou(first, second.expand(3, -1, -1)))


def test_an_empty_or_inverted_box_has_no_area_and_overlaps_nothing() -> None:
    boxes = torch.tensor([[3.0, 3, 3, 9], [9, 9, 3, 3], [0, 0, 0, 0]])
    assert area(boxes).tolist() == [0, 0, 0]
    assert iou(boxes, boxes).tolist() == [[0.0] * 3] * 3


def test_clip_uses_each_images_own_height_and_width() -> None:
    boxes = torch.tensor([[-5.0, -5, 100, 100]]).expand(2, 1, 4)
    clipped = clip(boxes, torch.tensor([[10, 20], [30, 40]]))
    assert clipped.tolist() == [[[0, 0, 20, 10]], [[0, 0, 40, 30]]]


def test_rescale_scales_the_two_axes_apart_and_back_again() -> None:
    boxes, small, large = random_boxes(3, 2, 5), torch.tensor([[10, 20]] * 2), torch.tensor([[30, 20]] * 2)
    scaled = rescale(boxes, small, large)
    assert_close(scaled, boxes * torch.tensor([1.0, 3, 1, 3]))
    assert_close(rescale(scaled, large, small), boxes)
