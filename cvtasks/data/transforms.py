"""Geometry and colour of one `Sample`: image, boxes, masks, joints and label map move together.

Pixels stay uint8 and are resized and flipped by `torchvision.transforms.v2`. Coordinates are ours: every step
scales, shifts and perhaps exchanges x and y, and boxes (as two corners), joints and proposals all go through
the same numbers. That avoids three traps of v2: its flips do not swap left and right joints, they mirror
keypoints with W - 1 - x but boxes with W - x, and `SanitizeBoundingBoxes` leaves keypoints and other
per-instance fields behind. Masks and label maps take the pixel whose centre is nearest (v2's mode takes the one
before it).

Every function returns a new Sample and leaves its argument as it was. Nothing here is random: the pipelines
draw. Letters: N objects, J joints, P proposals, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from cvtasks.types import Sample

INSTANCE_FIELDS = ("boxes", "labels", "ignore", "masks", "keypoints", "visible")
"""The fields of a Sample whose first dimension is N."""

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value, as torchvision has them."""

Points: TypeAlias = Callable[[Tensor], Tensor]
"""New coordinates [..., 2] of points (x, y) [..., 2]."""
Pixels: TypeAlias = Callable[[Tensor], Tensor]
"""A new image [..., H', W'] from one [..., H, W]."""


def image_size(sample: Sample) -> tuple[int, int]:
    """Height and width of the sample's image as it is now."""
    height, width = sample["image"].shape[-2:]
    return int(height), int(width)


def horizontal_flip(sample: Sample, *, flip_index: Sequence[int] = ()) -> Sample:
    """Mirror left and right, x -> W - x. Joint j of the result was `flip_index[j]` (none swap if empty)."""
    _, width = image_size(sample)
    flipped = _move(sample, _linear((-1, 1), (width, 0)), F.horizontal_flip)
    return _swap_joints(flipped, flip_index)


def vertical_flip(sample: Sample, *, flip_index: Sequence[int] = ()) -> Sample:
    """Mirror top and bottom, y -> H - y. Any mirror image makes left limbs right ones, so joints swap too."""
    height, _ = image_size(sample)
    flipped = _move(sample, _linear((1, -1), (0, height)), F.vertical_flip)
    return _swap_joints(flipped, flip_index)


def rotate90(sample: Sample, *, turns: int = 1) -> Sample:
    """Quarter turns anticlockwise; left and right stay what they are."""
    for _ in range(turns % 4):
        sample = _quarter_turn(sample)
    return sample


def resize(sample: Sample, *, size: tuple[int, int]) -> Sample:
    """The whole image at `size` (height, width), bilinear and antialiased."""
    height, width = image_size(sample)
    return crop_resize(sample, window=(0, 0, width, height), size=size)


def crop_resize(sample: Sample, *, window: tuple[int, int, int, int], size: tuple[int, int]) -> Sample:
    """The part `window` (x1, y1, x2, y2; whole pixels inside the image) at `size` (height, width).

    Cropping comes first, so only the pixels that remain cost time, and whole pixels keep the map exact.
    Boxes and proposals are clipped; the box of an object that is cut shrinks to what is left of its mask, where
    there is one. Joints that the crop leaves out become `visible` 0. Objects of which nothing is left stay,
    with an empty box: `drop_small` removes them.
    """
    x1, y1, x2, y2 = window
    height, width = size
    full_height, full_width = image_size(sample)
    assert 0 <= x1 < x2 <= full_width, f"window {window} of an image {full_width} wide"
    assert 0 <= y1 < y2 <= full_height, f"window {window} of an image {full_height} high"
    scale_x, scale_y = width / (x2 - x1), height / (y2 - y1)

    def image(pixels: Tensor) -> Tensor:
        part = pixels[:, y1:y2, x1:x2]
        if part.stride(0) == 1:  # as decoded: kept densely channels-last, resizing takes 0.4 of the time
            part = part.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        return F.resize(part, [height, width], antialias=True)

    def labels(pixels: Tensor) -> Tensor:
        part = pixels.index_select(-2, _nearest(y1, y2, height))
        return part.index_select(-1, _nearest(x1, x2, width))

    points = _linear((scale_x, scale_y), (-x1 * scale_x, -y1 * scale_y))
    resized = _clip(_move(sample, points, image, labels))
    return resized if window == (0, 0, full_width, full_height) else _hide_outside(resized)


def drop_small(sample: Sample, *, min_box: float) -> Sample:
    """Without the objects whose box has a side below `min_box` pixels, in all per-instance fields at once.

    Where there are no boxes, objects without a pixel in their mask go. Proposals are measured likewise.
    """
    sample = dict(sample)
    if "proposals" in sample:
        sample["proposals"] = sample["proposals"][_large(sample["proposals"], min_box)]
    if "boxes" in sample:
        keep = _large(_plain(sample["boxes"]), min_box)
    elif "masks" in sample:
        keep = _plain(sample["masks"]).flatten(1).any(1)
    else:
        return sample
    if not keep.all():
        for name in INSTANCE_FIELDS:
            if name in sample:
                sample[name] = _like(_plain(sample[name])[keep], sample[name])
    return sample


def adjust_color(
    sample: Sample, *, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0
) -> Sample:
    """Saturation, contrast (around the mean grey), brightness, by factors of which 1 changes nothing.

    The same as v2's three functions in that order, but as one affine map of the colours with one clipping at
    the end, which is what makes it cheap. No hue. Gives the same bits with any number of threads: the mean is
    over integers, and no matrix product is split.
    """
    pixels = _plain(sample["image"])
    red, green, blue = GREY
    r, g, b = colors = pixels.float()
    grey = red * r + green * g + blue * b
    means = (pixels.flatten(1).sum(1, dtype=torch.int64) / grey.numel()).tolist()
    mean = red * means[0] + green * means[1] + blue * means[2]
    scale = brightness * contrast
    grey = grey * (scale * (1 - saturation)) + brightness * (1 - contrast) * mean
    colors = (colors * (scale * saturation)).add_(grey).round_().clamp_(0, 255)
    return sample | {"image": tv_tensors.Image(colors.to(torch.uint8))}


def _quarter_turn(sample: Sample) -> Sample:
    _, width = image_size(sample)
    mirror = _linear((1, -1), (0, width))
    return _move(sample, lambda points: mirror(points.flip(-1)), lambda pixels: pixels.rot90(1, (-2, -1)))


def _linear(scale: tuple[float, float], shift: tuple[float, float]) -> Points:
    scale_xy, shift_xy = torch.tensor(scale), torch.tensor(shift)
    return lambda points: points * scale_xy + shift_xy


def _move(sample: Sample, points: Points, image: Pixels, labels: Pixels | None = None) -> Sample:
    """Coordinates through `points`, pixels through `image`, masks and label maps through `labels` if given."""
    moved = dict(sample)
    pixels = image(_plain(sample["image"]))
    moved["image"] = tv_tensors.Image(pixels)
    for name in ("masks", "segmentation"):
        if name in sample:
            moved[name] = tv_tensors.Mask((labels or image)(_plain(sample[name])))

    for name in ("boxes", "proposals"):
        if name in sample:
            boxes = _plain(sample[name])
            corners = points(boxes.reshape(len(boxes), 2, 2))
            boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
            moved[name] = _like(boxes, sample[name], canvas_size=(pixels.shape[-2], pixels.shape[-1]))
    if "keypoints" in sample:
        moved["keypoints"] = points(sample["keypoints"])
    return moved


def _swap_joints(sample: Sample, flip_index: Sequence[int]) -> Sample:
    if not flip_index or "keypoints" not in sample:
        return sample
    assert len(flip_index) == sample["keypoints"].shape[1], "flip_index names each joint once"
    order = list(flip_index)
    return sample | {name: sample[name][:, order] for name in ("keypoints", "visible") if name in sample}


def _clip(sample: Sample) -> Sample:
    """Boxes and proposals within the image; masks tell what is left of an object that this cuts."""
    sample = dict(sample)
    height, width = image_size(sample)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    if "proposals" in sample:
        sample["proposals"] = sample["proposals"].clamp(min=0).minimum(limit)
    if "boxes" in sample:
        boxes = _plain(sample["boxes"])
        clipped = boxes.clamp(min=0).minimum(limit)
        cut = ((clipped - boxes).abs() > 0.01).any(1)  # more than rounding
        if "masks" in sample and cut.any():
            left = _mask_boxes(_plain(sample["masks"])[cut])
            low, high = clipped[cut, :2].maximum(left[:, :2]), clipped[cut, 2:].minimum(left[:, 2:])
            clipped[cut] = torch.cat((low, high.maximum(low)), 1)
        sample["boxes"] = _like(clipped, sample["boxes"])
    return sample


def _hide_outside(sample: Sample) -> Sample:
    if "visible" not in sample:
        return sample
    height, width = image_size(sample)
    joints = sample["keypoints"]
    inside = ((joints >= 0) & (joints < torch.tensor([width, height]))).all(2)
    return sample | {"visible": sample["visible"] * inside}


def _nearest(start: int, end: int, length: int) -> Tensor:
    """For each of `length` pixels spread over `start`..`end`: the source pixel below its centre [length]."""
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * ((end - start) / length)
    return centres.long().clamp_(max=end - start - 1) + start


def _mask_boxes(masks: Tensor) -> Tensor:
    """The box around the pixels of each mask [N, H, W], as pixel edges [N, 4]; zeros where there are none."""

    def span(hit: Tensor) -> tuple[Tensor, Tensor]:
        hit = hit.to(torch.uint8)
        return hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)

    (x1, x2), (y1, y2) = span(masks.any(1)), span(masks.any(2))
    return torch.stack((x1, y1, x2, y2), 1).float() * masks.flatten(1).any(1, keepdim=True)


def _large(boxes: Tensor, min_box: float) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= min_box).all(1)


def _plain(tensor: Tensor) -> Tensor:
    """Without the tv_tensor around it, whose dispatch costs more than a small operation."""
    return tensor.as_subclass(Tensor)


def _like(tensor: Tensor, old: Tensor, **metadata: tuple[int, int]) -> Tensor:
    """`tensor` as the same kind of tv_tensor as `old`, if that is one."""
    if not isinstance(old, tv_tensors.TVTensor):
        return tensor
    keep = metadata if isinstance(old, tv_tensors.BoundingBoxes) else {}
    return tv_tensors.wrap(tensor, like=old, **keep)
