"""Geometry of one `Sample`: image, boxes, masks, joints and label map move together.

Pixels stay uint8 and are resized and flipped by `torchvision.transforms.v2`. Coordinates are ours: every step
scales, shifts and perhaps exchanges x and y, and boxes (as two corners), joints and proposals all go through
the same numbers. That avoids three traps of v2: its flips do not swap left and right joints, they mirror
keypoints with W - 1 - x but boxes with W - x, and `SanitizeBoundingBoxes` leaves keypoints and other
per-instance fields behind. Masks and label maps take the pixel whose centre is nearest (v2's mode takes the one
before it).

Every function returns a new Sample and leaves its argument as it was. Nothing here is random: the pipelines
draw. Where pixels come from outside of the image, label maps say void. Letters: N objects, J joints, P proposals,
H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from cvtasks.errors import ConfigError
from cvtasks.types import Sample

VOID = 255
"""In a label map: a pixel that is neither learnt nor judged."""

INSTANCE_FIELDS = ("boxes", "labels", "ignore", "masks", "keypoints", "visible")
"""The fields of a Sample whose first dimension is N."""

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


def place(
    sample: Sample, *, size: tuple[int, int], corner: tuple[int, int], fill: tuple[int, int, int] | None
) -> Sample:
    """The image as part of a larger one of `size` (height, width), its upper left pixel at `corner` (x, y).

    fill: the colour around it; None repeats the pixels of its edge.
    """
    (height, width), (x, y), (own_height, own_width) = size, corner, image_size(sample)
    assert 0 <= x <= width - own_width, f"{own_width} pixels at {x} of {width}"
    assert 0 <= y <= height - own_height, f"{own_height} pixels at {y} of {height}"
    rows, columns = torch.arange(height) - y, torch.arange(width) - x

    def image(pixels: Tensor) -> Tensor:
        if fill is None:
            pixels = pixels.index_select(1, rows.clamp(0, own_height - 1))
            return pixels.index_select(2, columns.clamp(0, own_width - 1))
        # Channels last, as decoded.
        canvas = torch.tensor(fill, dtype=torch.uint8).expand(height, width, 3).contiguous().permute(2, 0, 1)
        canvas[:, y : y + own_height, x : x + own_width] = pixels
        return canvas

    def labels(pixels: Tensor) -> Tensor:
        canvas = pixels.new_full(
            (*pixels.shape[:-2], height, width), False if pixels.dtype == torch.bool else VOID
        )
        canvas[..., y : y + own_height, x : x + own_width] = pixels
        return canvas

    return _move(sample, _linear((1, 1), (x, y)), image, labels)


def reframe(
    sample: Sample,
    *,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    fill: tuple[int, int, int] | None = None,
    change: Callable[[Sample], Sample] | None = None,
) -> Sample:
    """The part `window` (x1, y1, x2, y2; whole pixels) at `size` (height, width), as `crop_resize`, but it may reach over
    the image's ends, where there is `fill`, or (None) the pixels of its edge are repeated.

    What is inside has whole pixels in the result, too, so its scale may differ by up to a pixel over its length.

    change: what becomes of that, resized, before anything is put around it.
    """
    (x1, y1, x2, y2), (height, width), (full_height, full_width) = window, size, image_size(sample)
    left, right, new_left, new_right = _inside(x1, x2, full_width, width)
    top, bottom, new_top, new_bottom = _inside(y1, y2, full_height, height)
    part = crop_resize(
        sample, window=(left, top, right, bottom), size=(new_bottom - new_top, new_right - new_left)
    )
    part = change(part) if change else part
    inside = (new_bottom - new_top, new_right - new_left) == size
    return part if inside else place(part, size=size, corner=(new_left, new_top), fill=fill)


def turned_crop(
    sample: Sample,
    *,
    centre: tuple[float, float],
    extent: tuple[float, float],
    angle: float,
    size: tuple[int, int],
    fill: tuple[int, int, int],
) -> Sample:
    """A rectangle of the image, turned about its centre, at `size` (height, width); outside the image it is `fill`.

    Pixels are bilinear in one pass, from the image reduced by a whole number where it shrinks to a half or less: by
    Pillow on bytes, 0.8 ms for 256 x 192 pixels, and the same bits with any number of threads. A box becomes the one
    around its turned corners. Joints that are outside become `visible` 0.

    centre, extent: x and y, and width and height, of the rectangle in the image's pixels. angle: by which the picture
        turns clockwise, in radians.
    """
    height, width = size
    full_height, full_width = image_size(sample)
    across, down = extent[0] / width, extent[1] / height  # source pixels to a new one
    cos, sin = math.cos(angle), math.sin(angle)
    # From the new picture to the image: x = (a, b, c) (u, v, 1), y = (d, e, f) (u, v, 1).
    a, b, d, e = cos * across, sin * down, -sin * across, cos * down
    c, f = centre[0] - a * width / 2 - b * height / 2, centre[1] - d * width / 2 - e * height / 2

    half_x, half_y = (abs(a) * width + abs(b) * height) / 2 + 2, (abs(d) * width + abs(e) * height) / 2 + 2
    (x1, x2), (y1, y2) = _span(centre[0], half_x, full_width), _span(centre[1], half_y, full_height)
    part = plain(sample["image"])[:, y1:y2, x1:x2]
    picture = Image.fromarray(np.ascontiguousarray(part.permute(1, 2, 0).numpy()))
    shrink = max(1, int(min(across, down)))
    if shrink > 1:
        picture = picture.reduce(shrink)
    matrix = tuple(value / shrink for value in (a, b, c - x1, d, e, f - y1))
    picture = picture.transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=tuple(fill)
    )
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    back = torch.linalg.inv(torch.tensor([[a, b, c], [d, e, f], [0, 0, 1]], dtype=torch.float64)).float()
    points: Points = lambda places: places @ back[:2, :2].T + back[:2, 2]  # noqa: E731
    moved = _move(sample, points, lambda _: pixels)
    if "boxes" in sample:
        corners = points(plain(sample["boxes"])[:, [[0, 1], [2, 1], [2, 3], [0, 3]]])
        boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
        moved["boxes"] = _like(boxes, sample["boxes"], canvas_size=(height, width))
    return _hide_outside(_clip(moved))


def elastic(sample: Sample, *, displacement: Tensor) -> Sample:
    """A smooth deformation (Ronneberger et al., MICCAI 2015): each pixel comes from a point some way off.

    Images are bilinear there and repeat their edge outside; label maps and masks take the nearest pixel. Boxes become
    those of their masks.

    displacement: how far off, x and y in pixels at the points of a coarse grid over the image, [2, rows, columns];
        bicubic between them.

    Raises ConfigError where there are boxes without masks, keypoints or proposals: where they went is not known.
    """
    lost: list[str] = [name for name in ("keypoints", "proposals") if name in sample]
    if "boxes" in sample and "masks" not in sample:
        lost.append("boxes without masks")
    if lost:
        raise ConfigError(f"pipeline.elastic cannot move {' or '.join(lost)}; type pipeline.elastic=0")
    height, width = image_size(sample)
    down, across = _bicubic(displacement.shape[1], height), _bicubic(displacement.shape[2], width)
    x, y = down @ displacement @ across.T
    x, y = x + torch.arange(width) + 0.5, y + torch.arange(height)[:, None] + 0.5
    grid = torch.stack((x * (2 / width) - 1, y * (2 / height) - 1), -1)[None]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    nearest = (y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)).flatten()

    def labels(pixels: Tensor, outside: int) -> Tensor:
        moved = pixels.flatten(-2).index_select(-1, nearest).unflatten(-1, (height, width))
        return moved.masked_fill(~inside, outside)

    pixels = plain(sample["image"])[None].float()
    pixels = grid_sample(pixels, grid, padding_mode="border", align_corners=False).round_().to(torch.uint8)
    moved = sample | {"image": tv_tensors.Image(pixels.contiguous(memory_format=torch.channels_last)[0])}
    if "segmentation" in sample:
        moved["segmentation"] = tv_tensors.Mask(labels(plain(sample["segmentation"]), VOID))
    if "masks" in sample:
        moved["masks"] = tv_tensors.Mask(labels(plain(sample["masks"]), False))
    if "boxes" in sample:
        moved["boxes"] = _like(
            _mask_boxes(plain(moved["masks"])), sample["boxes"], canvas_size=(height, width)
        )
    return moved


def class_share(label_map: Tensor) -> float:
    """The part that the largest class has of the pixels that are not void; 1 if all are void."""
    counts = torch.bincount(label_map.as_subclass(Tensor).flatten(), minlength=256)[:VOID]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def drop_small(sample: Sample, *, min_box: float) -> Sample:
    """Without the objects whose box has a side below `min_box` pixels, in all per-instance fields at once.

    Where there are no boxes, objects without a pixel in their mask go. Proposals are measured likewise.
    """
    sample = dict(sample)
    if "proposals" in sample:
        sample["proposals"] = sample["proposals"][_large(sample["proposals"], min_box)]
    if "boxes" in sample:
        keep = _large(plain(sample["boxes"]), min_box)
    elif "masks" in sample:
        keep = plain(sample["masks"]).flatten(1).any(1)
    else:
        return sample
    return _objects(sample, keep)


def drop_outside(sample: Sample, *, window: tuple[int, int, int, int]) -> Sample:
    """Without the objects whose box has its middle outside of `window` (x1, y1, x2, y2), in all per-instance fields."""
    if "boxes" not in sample:
        return sample
    boxes, (x1, y1, x2, y2) = plain(sample["boxes"]), window
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(1)
    return _objects(sample, (x > x1) & (x < x2) & (y > y1) & (y < y2))


def _objects(sample: Sample, keep: Tensor) -> Sample:
    """The sample with those of its objects for which `keep` [N] is True."""
    if keep.all():
        return sample
    names = [name for name in INSTANCE_FIELDS if name in sample]
    return sample | {name: _like(plain(sample[name])[keep], sample[name]) for name in names}


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
    pixels = image(plain(sample["image"]))
    moved["image"] = tv_tensors.Image(pixels)
    for name in ("masks", "segmentation"):
        if name in sample:
            moved[name] = tv_tensors.Mask((labels or image)(plain(sample[name])))

    for name in ("boxes", "proposals"):
        if name in sample:
            boxes = plain(sample[name])
            corners = points(boxes.reshape(len(boxes), 2, 2))
            boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
            moved[name] = _like(boxes, sample[name], canvas_size=(pixels.shape[-2], pixels.shape[-1]))
    if "keypoints" in sample:
        moved["keypoints"] = points(sample["keypoints"])
    return moved


def _inside(start: int, end: int, length: int, new: int) -> tuple[int, int, int, int]:
    """Of start..end, which becomes 0..new, what lies in 0..length: from where to where, before and after."""
    low, high = min(max(start, 0), length - 1), max(min(end, length), 1)
    assert low < high, f"nothing of {start}..{end} lies in 0..{length}"
    new_low = min(round((low - start) * new / (end - start)), new - 1)
    return low, high, new_low, max(round((high - start) * new / (end - start)), new_low + 1)


def _span(centre: float, half: float, length: int) -> tuple[int, int]:
    """The pixels of 0..length about a centre; one of them where all is beyond the edge."""
    start = min(max(0, math.floor(centre - half)), length - 1)
    return start, max(min(length, math.ceil(centre + half)), start + 1)


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
        boxes = plain(sample["boxes"])
        clipped = boxes.clamp(min=0).minimum(limit)
        cut = ((clipped - boxes).abs() > 0.01).any(1)  # more than rounding
        if "masks" in sample and cut.any():
            left = _mask_boxes(plain(sample["masks"])[cut])
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


def _bicubic(points: int, length: int) -> Tensor:
    """Weights [length, points] that interpolate between points, the first and the last at the ends."""
    return interpolate(torch.eye(points)[None, None], (length, points), mode="bicubic", align_corners=True)[
        0, 0
    ]


def _mask_boxes(masks: Tensor) -> Tensor:
    """The box around the pixels of each mask [N, H, W], as pixel edges [N, 4]; zeros where there are none."""

    def span(hit: Tensor) -> tuple[Tensor, Tensor]:
        hit = hit.to(torch.uint8)
        return hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)

    (x1, x2), (y1, y2) = span(masks.any(1)), span(masks.any(2))
    return torch.stack((x1, y1, x2, y2), 1).float() * masks.flatten(1).any(1, keepdim=True)


def _large(boxes: Tensor, min_box: float) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= min_box).all(1)


def plain(tensor: Tensor) -> Tensor:
    """Without the tv_tensor around it, whose dispatch costs more than a small operation."""
    return tensor.as_subclass(Tensor)


def _like(tensor: Tensor, old: Tensor, **metadata: tuple[int, int]) -> Tensor:
    """`tensor` as the same kind of tv_tensor as `old`, if that is one."""
    if not isinstance(old, tv_tensors.TVTensor):
        return tensor
    keep = metadata if isinstance(old, tv_tensors.BoundingBoxes) else {}
    return tv_tensors.wrap(tensor, like=old, **keep)
