"""The sliding window: every window of a grid of positions, sizes and aspect ratios is cropped, warped and classified.

The lecture's first detector. No box is regressed: a detection is the window itself. The network learns from windows that
overlap an object by half on, as its class, and from those that overlap none by 0.3, as background.

    cvtasks train task=sliding_window_det
    cvtasks eval run=RUN task.run=crops

The same weights run in two ways. `run=crops` sends every window through the network alone. `run=dense` resizes the image
once for each size and aspect ratio, so that windows become crops, and runs the network over all of it: what neighbouring
windows share is computed once (Sermanet et al., ICLR 2014). Windows lie `stride` pixels of a crop apart, and both ways
sample the image at the same points; so with a network without padding (`backbone=patch_cnn`) the scores are the same.
Others see zeros around a crop, and in a dense run what lies around the window: their scores differ.

Letters: B images, P windows of an image, R regions, S pixels of a crop's side, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import (
    Count,
    DetectionOptions,
    PositiveNumber,
    SamplingOptions,
    check_levels,
    make_sampler,
    make_suppression,
)
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.backbones.patch_cnn import PatchCNN, patches_at_once
from cvtasks.nn.heads import classification, mean_over_samples
from cvtasks.nn.pixels import Pixels
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import Maps, Proposals, Samples
from cvtasks.nn.suppression import Suppression
from cvtasks.ops.boxes import clip
from cvtasks.ops.roi import with_image
from cvtasks.types import Batch, ClassInfo, Prediction

SAMPLING_RATIO = 2
"""Points a side whose mean is a pixel of a crop"""
TOLERANCE = 1e-3
"""Pixels by which a window may miss the image's end"""


@dataclass(frozen=True)
class Shape:
    """The windows of one size and aspect ratio, in pixels of the image."""

    height: float
    width: float
    step_y: float
    step_x: float

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of windows over an image: the first begins with it, and the last reaches its end."""
        rows = math.ceil((height - self.height - TOLERANCE) / self.step_y)
        columns = math.ceil((width - self.width - TOLERANCE) / self.step_x)
        return max(0, rows) + 1, max(0, columns) + 1


class WindowGrid(nn.Module):
    """A `Proposer` of every window, whatever it shows.

    sizes: square roots of the windows' areas in pixels; ratios: height / width. A window is a crop of `crop` x `crop`
    pixels to the network, and the next one lies `stride` such pixels further.
    """

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float], *, crop: int, stride: int) -> None:
        super().__init__()
        self.crop, self.stride = crop, stride
        sides = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size, ratio in product(sizes, ratios)]
        self.shapes = [Shape(h, w, stride * h / crop, stride * w / crop) for h, w in sides]

    def learn(self, maps: Maps, batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        return self.propose(maps, batch), {}

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        """Windows shape by shape, row by row; they may reach over the end of the image."""
        height, width = batch.images.shape[-2:]
        image_height, image_width = batch.sizes[:, None].unbind(-1)
        boxes, valid = [], []
        for shape in self.shapes:
            rows, columns = shape.grid(height, width)
            y = shape.step_y * torch.arange(rows, device=batch.images.device)
            x = shape.step_x * torch.arange(columns, device=batch.images.device)
            top, left = torch.cartesian_prod(y, x).view(-1, 2).unbind(1)
            boxes.append(torch.stack([left, top, left + shape.width, top + shape.height], dim=1))
            # Of a smaller image of the batch: a window is one too many if the one before reached the end.
            needed = [
                (start == 0) | (start - step + side < length - TOLERANCE)
                for start, step, side, length in (
                    (top, shape.step_y, shape.height, image_height),
                    (left, shape.step_x, shape.width, image_width),
                )
            ]
            valid.append(needed[0] & needed[1])
        return Proposals(torch.cat(boxes).expand(len(batch), -1, -1), torch.cat(valid, dim=1))


class WindowClassifier(nn.Module):
    """A `MinedHead` that runs the backbone on crops: a fully connected layer over its map, and classes.

    Both layers are convolutions, the first one's kernel as large as a crop's map; so they run over larger maps, too.
    """

    class_layers = ("scores",)

    def __init__(
        self,
        backbone: Backbone,
        level: str,
        grid: WindowGrid,
        num_classes: int,
        *,
        hidden: int,
        run: Literal["crops", "dense"],
        suppression: Suppression,
    ) -> None:
        super().__init__()
        self.backbone, self.level, self.num_classes, self.run = backbone, level, num_classes, run
        self.crop, self.stride, self.shapes = grid.crop, grid.stride, grid.shapes
        self.suppression = suppression
        side = map_side(backbone, level, grid.crop)
        self.hidden = nn.Conv2d(backbone.specs[level].channels, hidden, side)
        self.scores = nn.Conv2d(hidden, num_classes + 1, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.scores.weight, std=0.01)
        for layer in (self.hidden, self.scores):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Each of the windows [B, R, 4] by itself -> logits [B, R, K + 1]."""
        regions = with_image(boxes)
        # Learning, all at once: batch norm's statistics are theirs.
        at_once = len(regions) if torch.is_grad_enabled() else patches_at_once(boxes.device)
        logits = [
            self.logits(sample(maps["image"], part, (self.crop, self.crop)))
            for part in regions.split(max(1, at_once))
        ]
        return torch.cat(logits).view(*boxes.shape[:2], -1)

    def dense(self, maps: Maps) -> Tensor:
        """All windows of the grid [B, P, K + 1], an image resized to crops' size at a time."""
        return torch.cat(
            [logits.flatten(2).transpose(1, 2) for logits in self._dense_maps(maps["image"])], dim=1
        )

    def logits(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, K + 1, 1, 1], float32; larger images give a map."""
        features = network_map(self.backbone, self.level, images)
        logits: Tensor = self.scores(F.relu(self.hidden(features)))
        return logits.float()

    def region_losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """[B, R] `classification`: cross-entropy over the classes and the background."""
        return {"classification": classification(self(maps, samples.boxes), samples, batch)}

    def losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        return mean_over_samples(self.region_losses(maps, samples, batch), samples)

    def detect(self, maps: Maps, proposals: Proposals, batch: Batch) -> list[Prediction]:
        """Windows as they are; `proposals` are the grid's."""
        logits = self.dense(maps) if self.run == "dense" else self(maps, proposals.boxes)
        boxes = clip(proposals.boxes, batch.sizes)[:, :, None]
        found: list[Prediction] = self.suppression(boxes, logits.softmax(-1)[..., :-1], proposals.valid)
        return found

    def _dense_maps(self, images: Tensor) -> Iterator[Tensor]:
        """Logits [B, K + 1, rows, columns] of each shape."""
        every = self.stride // network_stride(self.backbone, self.level)
        for shape in self.shapes:
            rows, columns = shape.grid(images.shape[2], images.shape[3])
            size = (self.crop + (rows - 1) * self.stride, self.crop + (columns - 1) * self.stride)
            box = [0.0, 0.0, size[1] * shape.width / self.crop, size[0] * shape.height / self.crop]
            regions = images.new_tensor([[i, *box] for i in range(len(images))])
            yield self.logits(sample(images, regions, size))[..., ::every, ::every][..., :rows, :columns]


def sample(images: Tensor, regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Regions [R, 5] (the image's number, and a box) of images [B, 3, H, W], resized to [R, 3, *size].

    RoI align of the pixels: a pixel is the mean of what the image is at fixed points inside of it, and zero outside.
    """
    with torch.autocast(images.device.type, enabled=False):
        return roi_align(images.float(), regions.float(), size, sampling_ratio=SAMPLING_RATIO, aligned=True)


def network_map(backbone: Backbone, level: str, images: Tensor) -> Tensor:
    """The map that is classified; a network for patches makes it with its strides."""
    return backbone.on_patches(images) if isinstance(backbone, PatchCNN) else backbone(images)[level]


def network_stride(backbone: Backbone, level: str) -> int:
    return backbone.stride if isinstance(backbone, PatchCNN) else backbone.specs[level].stride


@torch.no_grad()
def map_side(backbone: Backbone, level: str, crop: int) -> int:
    """Positions a side of the map of a crop. Raises ConfigError for one that is too small for the network."""
    smallest = backbone.patch if isinstance(backbone, PatchCNN) else network_stride(backbone, level)
    if crop < smallest:
        raise ConfigError(f"task.crop={crop}: this network needs crops of {smallest} pixels at least")
    training = backbone.training
    side = network_map(backbone.eval(), level, torch.zeros(1, 3, crop, crop)).shape[-1]
    backbone.train(training)
    return side


class Options(SamplingOptions, DetectionOptions, total=False):
    """What the shared parts take."""


def sliding_window_det(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    level: str | None = None,
    window_sizes: Sequence[PositiveNumber] = (64, 96, 128, 192, 256, 384),
    window_ratios: Sequence[PositiveNumber] = (0.5, 1.0, 2.0),
    crop: Count | None = None,
    stride: Count = 8,
    hidden: Count = 256,
    run: Literal["crops", "dense"] = "dense",
    **options: Unpack[Options],
) -> RegionDetector:
    """Put the parts together; `conf/task/sliding_window_det.yaml` explains each setting.

    level: the backbone's map that is classified; None: the last. crop: None: the patch of a network for patches, else 64.
    Raises ConfigError where they do not fit.
    """
    level = level or list(backbone.specs)[-1]
    check_levels(backbone, level=level)
    backbone.truncate(level)
    if crop is None:
        crop = backbone.patch if isinstance(backbone, PatchCNN) else 64
    step = network_stride(backbone, level)
    if run == "dense" and stride % step:
        raise ConfigError(
            f"task.stride={stride}: a dense run of this network sees every {step} pixels of a crop; type a multiple of "
            f"{step}, or task.run=crops"
        )
    grid = WindowGrid(window_sizes, window_ratios, crop=crop, stride=stride)
    head = WindowClassifier(
        backbone, level, grid, len(classes), hidden=hidden, run=run, suppression=make_suppression(options)
    )
    return RegionDetector(
        Pixels(backbone), nn.Identity(), grid, {"windows": head}, sampler=make_sampler(options)
    )
