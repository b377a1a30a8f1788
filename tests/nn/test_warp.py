"""R-CNN's crops against the authors' code (rcnn_im_crop.m), and against pixels that say where they are."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.warp import WarpedCrops, context_frames, warp


def authors_frame(x1: int, y1: int, x2: int, y2: int, size: int, padding: int) -> list[int]:
    """The frame of their code; pixels are counted from 1, and the last one is included."""
    scale = size / (size - padding * 2)
    half_height, half_width = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
    center = (x1 + half_width, y1 + half_height)
    return [
        round(center[0] - half_width * scale), round(center[1] - half_height * scale),
        round(center[0] + half_width * scale), round(center[1] + half_height * scale),
    ]  # fmt: skip


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 200), st.integers(0, 200))
def test_a_frame_is_the_authors_but_for_their_rounding(left: int, top: int, width: int, height: int) -> None:
    theirs = authors_frame(left, top, left + width, top + height, 227, 16)
    # Continuous coordinates begin one lower; a last pixel ends where the next begins.
    box = torch.tensor([left - 1.0, top - 1.0, left + width, top + height])
    ours = context_frames(box, size=227, context=16)
    # Their rounding moves a corner by half a pixel, and their last pixel is one more than the formula's width.
    assert (ours[:2] - (torch.tensor(theirs[:2]) - 1.0)).abs().max() <= 0.5 + 1e-3
    assert (ours[2:] - (torch.tensor(theirs[2:]) - 1.0)).abs().max() <= 0.5 + 1e-3


def test_the_box_fills_the_crop_but_for_16_pixels_on_each_side() -> None:
    # A box of 195 x 390 pixels: its 227 - 2 * 16 = 195 pixels are 1 and 2 of the image's each.
    frame = context_frames(torch.tensor([100.0, 200.0, 295.0, 590.0]), size=227, context=16)
    torch.testing.assert_close(frame, torch.tensor([84.0, 168.0, 311.0, 622.0]))


def map_of_places(height: int, width: int) -> Tensor:
    """An image [1, 3, H, W] that says of each pixel where its middle is."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    return torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)]
    )[None]


def test_a_crop_shows_what_the_frame_holds_whatever_its_shape_and_the_mean_outside() -> None:
    images = map_of_places(60, 80)
    boxes = torch.tensor([[0.0, 20, 10, 60, 30], [0.0, -0.0, 0, 16, 32]])
    crops = warp(images, boxes, size=24, context=4)
    steps = (torch.arange(24) + 0.5) / 24
    torch.testing.assert_close(crops[0, 0, 12], 40 + (steps - 0.5) * 40 * 24 / 16, atol=1e-3, rtol=0)
    torch.testing.assert_close(crops[0, 1, :, 12], 20 + (steps - 0.5) * 20 * 24 / 16, atol=1e-3, rtol=0)
    outside = crops[1, 2]  # its frame begins 4 pixels left of the image, and 8 above: four pixels of the crop
    assert (outside[:3] == 0).all()
    assert (outside[:, :3] == 0).all()
    assert (outside[5:, 5:] == 1).all()


def test_crops_of_two_images_are_their_own_and_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    backbone = tiny(width=16)
    whole = WarpedCrops(backbone, "c4", size=32, context=4, chunk=100).eval()
    parts = WarpedCrops(backbone, "c4", size=32, context=4, chunk=3).eval()
    images, boxes = torch.randn(2, 3, 64, 64), torch.rand(2, 5, 2) * 30
    boxes = torch.cat([boxes, boxes + 5 + torch.rand(2, 5, 2) * 20], 2)
    with torch.no_grad():
        seen = whole({"image": images}, boxes)
        torch.testing.assert_close(parts({"image": images}, boxes), seen)
        second = whole({"image": images[1:]}, boxes[1:])
    assert seen.shape == (10, 64, 2, 2)
    torch.testing.assert_close(seen[5:], second)
    assert (whole.bins, whole.channels) == (2, 64)
