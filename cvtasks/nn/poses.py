"""What the systems of human pose share: joints as parts of the image, and predictions in the original image's pixels.

An image shows one person, the first of the batch's `keypoints`. A joint is learnt as a place, (x, y) over width and
height from the middle of the image, so (-0.5, -0.5) is its top left corner: DeepPose's normalisation by the person's
box, which the image is a crop to. Letters: B images, J joints.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cvtasks.errors import ConfigError
from cvtasks.types import Batch, ClassInfo, Prediction


def joints_of(classes: ClassInfo) -> int:
    """How many joints a person has. Raises ConfigError for a data set without."""
    if not classes.keypoint_names:
        raise ConfigError(
            "this data set has no joints, which a task of pose learns; choose another dataset= (cvtasks list datasets)"
        )
    return len(classes.keypoint_names)


def places(batch: Batch) -> tuple[Tensor, Tensor]:
    """The joints [B, J, 2] as places, and which are labelled, bool [B, J]: hidden ones are, too. The others are at 0."""
    assert batch.keypoints is not None
    assert batch.visible is not None
    assert batch.valid is not None
    labelled = (batch.visible[:, 0] > 0) & batch.valid[:, :1]
    joints = batch.keypoints[:, 0] / extents(batch.sizes) - 0.5
    return joints.masked_fill(~labelled[..., None], 0), labelled


def extents(sizes: Tensor) -> Tensor:
    """Sizes [B, 2] (height, width) -> [B, 1, 2] (width, height), float32"""
    return sizes.flip(1)[:, None].float()


def mirrored(batch: Batch) -> Batch:
    """The batch with its images mirrored, each within its own width; labels stay as they are."""
    columns = torch.arange(batch.images.shape[3], device=batch.images.device)
    last = batch.sizes[:, 1:] - 1
    columns = torch.where(columns <= last, last - columns, columns)
    images = batch.images.gather(3, columns[:, None, None].expand(batch.images.shape))
    return dataclasses.replace(batch, images=images)


def to_original(points: Tensor, batch: Batch) -> Tensor:
    """Places [B, ..., 2] -> the original images' pixels, through the part of them that the batch shows."""
    low, size = _window(batch, points.ndim)
    return low + (points + 0.5) * size


def from_original(points: Tensor, batch: Batch) -> Tensor:
    """The inverse of `to_original`."""
    low, size = _window(batch, points.ndim)
    return (points - low) / size - 0.5


def person_boxes(batch: Batch) -> Tensor:
    """Two corners of each image's person as places [B, 2, 2]; the whole image, where there is none in the batch."""
    whole = torch.tensor([[-0.5, -0.5], [0.5, 0.5]], device=batch.sizes.device).expand(len(batch), 2, 2)
    if batch.boxes is None or batch.valid is None:
        return whole
    corners = batch.boxes[:, 0].unflatten(1, (2, 2)) / extents(batch.sizes) - 0.5
    return torch.where(batch.valid[:, :1, None], corners, whole)


def as_predictions(
    joints: Tensor, scores: Tensor, batch: Batch, *, stages: Tensor | None = None
) -> list[Prediction]:
    """Places [B, J, 2] with scores [B, J] as predictions; `stages` [B, S, J, 2] are the places after each stage."""
    keypoints = to_original(joints, batch).float()
    boxes = to_original(person_boxes(batch), batch).flatten(1)
    predictions = [
        {
            "keypoints": keypoints[n, None],
            "keypoint_scores": scores[n, None].float(),
            "boxes": boxes[n, None].float(),
            "scores": scores[n].float().mean()[None],
        }
        for n in range(len(batch))
    ]
    if stages is not None:
        for prediction, each in zip(predictions, to_original(stages, batch).float(), strict=True):
            prediction["stages"] = each
    return predictions


def _window(batch: Batch, dimensions: int) -> tuple[Tensor, Tensor]:
    """The corner and the extent [B, 1, ..., 2] of what the batch shows, in the original images' pixels."""
    if batch.window is None:
        size = batch.orig_sizes.flip(1).float()
        low = torch.zeros_like(size)
    else:
        low, size = batch.window[:, :2], batch.window[:, 2:] - batch.window[:, :2]
    shape = (len(batch), *[1] * (dimensions - 2), 2)
    return low.view(shape), size.view(shape)
