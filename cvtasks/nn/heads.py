"""The box head of the region-based detectors: what is in a region, and where exactly (Girshick, ICCV 2015).

Letters: B images, R regions, K classes, C channels, S bins a side. The background is class K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_input
from torchvision.ops import batched_nms

from cvtasks.errors import ConfigError
from cvtasks.nn.fpn import convolution
from cvtasks.nn.norm import NormKind
from cvtasks.nn.regions import Maps, Proposals, RegionFeatures, Samples
from cvtasks.ops import coders
from cvtasks.ops.boxes import clip
from cvtasks.ops.host import on_host
from cvtasks.ops.losses import DETECTION_BETA, count, masked_sum, smooth_l1
from cvtasks.ops.matching import take
from cvtasks.types import Batch, Prediction

SMALLEST_SIDE = 1e-2
"""A detection thinner than this many pixels is none."""
AS_CONVOLUTION = 256
"""Regions from which on a CPU's float32 takes a fully connected layer as a convolution; fewer are no faster."""


def flat(regions: Tensor) -> Tensor:
    """[R, C, S, S] -> [R, S * S * C]: in the order in which they lie in memory, so nothing is copied."""
    return regions.permute(0, 2, 3, 1).flatten(1)


def weight_for_flat(weight: Tensor, bins: int) -> Tensor:
    """A linear layer's weight [D, C * S * S], as others flatten regions, for `flat` ones: [D, S * S * C]."""
    return flat(weight.view(len(weight), -1, bins, bins))


def fully_connected(layer: nn.Linear, regions: Tensor) -> Tensor:
    """`layer` of `flat` regions [R, C, S, S] -> [R, D]."""
    exact = regions.dtype == torch.float32 and not torch.is_autocast_enabled(regions.device.type)
    if on_host(regions) and exact and len(regions) >= AS_CONVOLUTION:
        return _AsConvolution.apply(regions, layer.weight, layer.bias)
    return layer(flat(regions))


class _AsConvolution(torch.autograd.Function):
    """The same sums, as a convolution whose kernel covers the region.

    oneDNN's convolution is twice as fast as MKL's matrix product on an AMD processor: 1,024 regions of 256 x 7 x 7 to
    1,024 outputs, forward and backward, take one thread 530 ms instead of 780. The weight's gradient gains nothing and
    would take twice its memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, regions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(regions, weight)
        return F.conv2d(regions, _kernel(weight, regions), bias).flatten(1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        regions, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        kernel = _kernel(weight, regions)
        to_regions = conv2d_input(regions.shape, kernel, gradient[:, :, None, None])
        return to_regions, gradient.t() @ flat(regions), gradient.sum(0)


def _kernel(weight: Tensor, regions: Tensor) -> Tensor:
    """Weights [D, S * S * C] of `flat` regions as those of a convolution, [D, C, S, S]."""
    return weight.view(len(weight), *regions.shape[2:], regions.shape[1]).permute(0, 3, 1, 2)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


class TwoFC(nn.Module):
    """fc6 and fc7 with ReLUs: [R, C, S, S] -> [R, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.fc6, self.fc7 = _linear(inputs, outputs), _linear(outputs, outputs)

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(fully_connected(self.fc6, regions))))


class ConvFC(nn.Module):
    """Four convolutions and one fully connected layer (Wu and He, ECCV 2018): [R, C, S, S] -> [R, outputs]."""

    def __init__(self, channels: int, bins: int, outputs: int, norm: NormKind | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.convs = nn.ModuleList(convolution(channels, channels, 3, norm) for _ in range(4))
        self.fc = _linear(channels * bins**2, outputs)

    def forward(self, regions: Tensor) -> Tensor:
        for conv in self.convs:
            regions = F.relu(conv(regions), inplace=True)
        return F.relu(fully_connected(self.fc, regions))


class PretrainedFC(nn.Module):
    """A classification network's fc6 and fc7, taken over with weights and dropout: [R, C, S, S] -> [R, outputs]."""

    def __init__(self, layers: nn.Sequential, channels: int, bins: int) -> None:
        super().__init__()
        fc6, *_, fc7 = (layer for layer in layers if isinstance(layer, nn.Linear))
        if fc6.in_features != channels * bins**2:
            raise ConfigError(
                f"task.head=vgg_fc: the backbone's first fully connected layer takes {fc6.in_features} numbers, and "
                f"regions have {channels} x {bins} x {bins}; set task.levels or task.region_bins as the network needs"
            )
        with torch.no_grad():
            fc6.weight.copy_(weight_for_flat(fc6.weight, bins))
        self.layers, self.outputs = layers, fc7.out_features

    def forward(self, regions: Tensor) -> Tensor:
        fc6, *others = self.layers
        x = fully_connected(fc6, regions)  # type: ignore[arg-type]
        for layer in others:
            x = layer(x)
        return x


class BoxHead(nn.Module):
    """Class scores over K + 1 and a box for each class, from the features of a region: a `DetectingHead`."""

    coder_weights: Tensor

    class_layers = ("scores", "offsets")

    def __init__(
        self,
        features: RegionFeatures,
        trunk: nn.Module,
        num_classes: int,
        *,
        coder_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = DETECTION_BETA,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.features, self.trunk, self.num_classes = features, trunk, num_classes
        self.beta = beta
        self.score_threshold, self.nms_threshold, self.detections = score_threshold, nms_threshold, detections
        self.register_buffer("coder_weights", torch.tensor(coder_weights), persistent=False)
        self.scores = nn.Linear(trunk.outputs, num_classes + 1)  # type: ignore[arg-type]
        self.offsets = nn.Linear(trunk.outputs, 4 * num_classes)  # type: ignore[arg-type]
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [B, R, 4] -> scores [B, R, K + 1] (logits) and offsets [B, R, K, 4], float32."""
        x = self.trunk(self.features(maps, boxes))
        scores = self.scores(x).float().view(*boxes.shape[:2], -1)
        return scores, self.offsets(x).float().view(*boxes.shape[:2], -1, 4)

    def losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """`classification`: cross-entropy; `box_regression`: smooth L1 of the true class's box; for each sample."""
        assert batch.boxes is not None
        assert batch.labels is not None
        scores, offsets = self(maps, samples.boxes)
        labels = take(batch.labels, samples.index)
        targets = coders.encode(take(batch.boxes, samples.index), samples.boxes, self.coder_weights)
        classes = torch.where(samples.positive, labels, self.num_classes)
        classification = F.cross_entropy(scores.transpose(1, 2), classes, reduction="none")
        predicted = offsets.gather(2, labels[:, :, None, None].expand(-1, -1, 1, 4)).squeeze(2)
        box = smooth_l1(predicted, targets, beta=self.beta)
        number = count(samples.drawn)
        return {
            "classification": masked_sum(classification, samples.drawn) / number,
            "box_regression": masked_sum(box, samples.positive) / number,
        }

    def detect(self, maps: Maps, proposals: Proposals, batch: Batch) -> list[Prediction]:
        """Scores above the threshold, suppressed within each class, the best `detections` of each image."""
        logits, offsets = self(maps, proposals.boxes)
        scores = logits.softmax(-1)[..., :-1].masked_fill(~proposals.valid[..., None], 0)
        boxes = coders.decode(offsets, proposals.boxes[:, :, None], self.coder_weights)
        boxes = clip(boxes.flatten(1, 2), batch.sizes).view_as(boxes)
        wide = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(-1)
        candidates = (scores > self.score_threshold) & wide
        predictions = []
        for image in range(len(batch)):
            region, label = candidates[image].nonzero().unbind(1)
            image_boxes, image_scores = boxes[image, region, label], scores[image, region, label]
            kept = batched_nms(image_boxes, image_scores, label, self.nms_threshold)[: self.detections]
            predictions.append(
                {"boxes": image_boxes[kept], "scores": image_scores[kept], "labels": label[kept]}
            )
        return predictions
