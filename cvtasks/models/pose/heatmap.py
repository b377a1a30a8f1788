"""Joints by heat maps: a backbone, three transposed convolutions, a map for each joint (Xiao et al., ECCV 2018).

A joint's map is learnt to be a Gaussian of its place, by the mean squared error; its maximum is the prediction, shifted
a quarter of a pixel towards the higher neighbour in x and in y. It is what replaced regression.

    cvtasks train task=pose_heatmap
    cvtasks train task=pose_heatmap dataset=coco dataset.root=/data/coco backbone=resnet50 backbone.weights=imagenet

Deviations: a Gaussian's middle is the joint's place, not the nearest pixel, and a map's pixel stands for the middle of
the pixels that it covers; nothing is shifted by a half (Huang et al., CVPR 2020). Up-sampling begins as bilinear.
Letters: B images, J joints, h x w pixels of a heat map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.nn.poses import as_predictions, extents, joints_of, places
from cvtasks.nn.segmenter import images_like
from cvtasks.nn.upsample import UpsampleKind, make_upsample
from cvtasks.ops.heatmaps import gaussians, peaks
from cvtasks.ops.losses import count, masked_sum
from cvtasks.types import Batch, ClassInfo, Prediction

Count = Annotated[int, Range(min=1)]


class HeatMaps(nn.Module):
    """The coarsest map, up-sampled in steps of two, and a 1x1 convolution: -> [B, J, h, w] with `stride`."""

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        num_joints: int,
        *,
        channels: Sequence[int],
        upsample: UpsampleKind,
        kernel: int,
        norm: NormKind | None,
    ) -> None:
        super().__init__()
        self.top = list(specs)[-1]
        width, stride = specs[self.top].channels, specs[self.top].stride
        if stride < 2 ** len(channels):
            raise ConfigError(
                f"task.channels={list(channels)}: this backbone's coarsest map has stride {stride}, and {len(channels)} "
                "steps of two up are more than to the image; give a shorter list"
            )
        self.stride = stride // 2 ** len(channels)
        levels = {spec.stride: name for name, spec in specs.items()}
        self.beside = [levels.get(stride // 2**n) for n in range(1, len(channels) + 1)]
        self.upsample, self.norms = nn.ModuleList(), nn.ModuleList()
        for outputs in channels:
            self.upsample.append(make_upsample(upsample, width, outputs, kernel=kernel))
            self.norms.append(nn.Identity() if norm is None else make_norm(norm, outputs))
            width = outputs
        self.joints = nn.Conv2d(width, num_joints, 1)
        nn.init.normal_(self.joints.weight, std=0.001)
        nn.init.zeros_(self.joints.bias)  # type: ignore[arg-type]

    def forward(self, maps: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = maps[self.top]
        for level, upsample, norm in zip(self.beside, self.upsample, self.norms, strict=True):
            like = images_like(x, images, 2) if level is None else maps[level]
            x = F.relu(norm(upsample(x, like)))
        heat: Tensor = self.joints(x).float()
        return heat


class PoseHeatmap(nn.Module):
    """A `VisionModel` for images of one person.

    channels: of each step up. upsample, upsample_kernel: see `nn.upsample`. norm: behind each step.
    sigma: of a joint's Gaussian, in pixels of the heat map.
    eval_flip: the mean of the image's heat maps and of its mirror image's.
    Raises ConfigError for a data set without joints, and where there are more steps up than down.
    """

    class_layers = ("decoder.joints.",)

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        channels: Sequence[Count] = (256, 256, 256),
        upsample: UpsampleKind = "transpose_conv",
        upsample_kernel: Annotated[int, Range(min=2)] = 4,
        norm: NormKind | None = "batch",
        sigma: Annotated[float, Range(above=0)] = 2.0,
        eval_flip: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.sigma = backbone, sigma
        self.decoder = HeatMaps(
            backbone.specs,
            joints_of(classes),
            channels=channels,
            upsample=upsample,
            kernel=upsample_kernel,
            norm=norm,
        )
        self.flip_index: Sequence[int] | None = classes.flip_index if eval_flip else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`keypoints`: squared error, the mean over pixels and over labelled joints inside the image."""
        joints, labelled = places(batch)
        heat = self.heat(self.backbone.normalize(batch.images, batch.sizes))
        inside = (joints.abs() <= 0.5).all(-1) & labelled
        pixels = (joints + 0.5) * extents(batch.sizes) / self.decoder.stride
        errors = (heat - gaussians(pixels, heat.shape[2:], sigma=self.sigma)).square().mean((2, 3))
        return {"keypoints": masked_sum(errors, inside) / count(inside)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One person for each image; a joint's score is the height of its maximum."""
        images = self.backbone.normalize(batch.images, batch.sizes)
        heat = self.heat(images)
        if self.flip_index is not None:
            # With its padding, which is then on the left: what was pixel 0 is the last one, and back again.
            heat = (heat + self.heat(images.flip(3)).flip(3)[:, list(self.flip_index)]) / 2
        pixels, heights = peaks(heat)
        joints = pixels * self.decoder.stride / extents(batch.sizes) - 0.5
        return as_predictions(joints, heights.clamp(0, 1), batch)

    def heat(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> [B, J, h, w], float32"""
        heat: Tensor = self.decoder(self.backbone(images), images)
        return heat
