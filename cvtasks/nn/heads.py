"""The box head of the region-based detectors: what is in a region, and where exactly (Girshick, ICCV 2015).

Letters: B images, R regions, K classes, C channels, S bins a side. The background is class K.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.grad import conv2d_input

from cvtasks.errors import ConfigError
from cvtasks.nn.fpn import convolution
from cvtasks.nn.norm import NormKind
from cvtasks.nn.regions import Maps, Proposals, Samples
from cvtasks.nn.suppression import Suppression
from cvtasks.ops import coders
from cvtasks.ops.boxes import clip
from cvtasks.ops.host import on_host
from cvtasks.ops.losses import DETECTION_BETA, count, masked_sum, smooth_l1
from cvtasks.ops.matching import take
from cvtasks.types import Batch, Prediction

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


def run_layers(layers: Iterable[nn.Module], regions: Tensor) -> Tensor:
    """Fully connected layers, and what is between and before them, of regions [R, C, S, S] -> [R, D]."""
    x = regions
    for layer in layers:
        x = fully_connected(layer, x) if x.ndim == 4 and isinstance(layer, nn.Linear) else layer(x)
    return x


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
        return run_layers(self.layers, regions)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """In their order"""
        return self.fc6, nn.ReLU(), self.fc7, nn.ReLU()


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
        return run_layers(self.layers, regions)


class RegionHead(nn.Module):
    """What the heads of all systems share: losses of scores and boxes, and detections. A `MinedHead`.

    `forward` is a system's own: regions [B, R, 4] -> scores [B, R, K + 1] (logits) and offsets [B, R, K, 4], or
    [B, R, 1, 4] where one box is for all classes; float32.
    """

    coder_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        coder_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = DETECTION_BETA,
        suppression: Suppression | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.beta = num_classes, beta
        self.suppression = suppression or Suppression()
        self.register_buffer("coder_weights", torch.tensor(coder_weights), persistent=False)

    def detecting(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for detection, where a system answers faster than it learns."""
        answers: tuple[Tensor, Tensor] = self(maps, boxes)
        return answers

    def region_losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """[B, R] `classification`: cross-entropy; `box_regression`: smooth L1 of the true class's box, of positives."""
        assert batch.boxes is not None
        assert batch.labels is not None
        scores, offsets = self(maps, samples.boxes)
        labels = take(batch.labels, samples.index)
        targets = coders.encode(take(batch.boxes, samples.index), samples.boxes, self.coder_weights)
        of_class = labels if offsets.shape[2] > 1 else torch.zeros_like(labels)
        predicted = offsets.gather(2, of_class[:, :, None, None].expand(-1, -1, 1, 4)).squeeze(2)
        box = smooth_l1(predicted, targets, beta=self.beta)
        return {
            "classification": classification(scores, samples, batch),
            "box_regression": box.masked_fill(~samples.positive, 0),
        }

    def losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """Means over the samples, also of `box_regression`: a positive's box counts no more where there are few."""
        return mean_over_samples(self.region_losses(maps, samples, batch), samples)

    def detect(self, maps: Maps, proposals: Proposals, batch: Batch) -> list[Prediction]:
        """Scores above the threshold, suppressed within each class, the best of each image."""
        logits, offsets = self.detecting(maps, proposals.boxes)
        boxes = coders.decode(offsets, proposals.boxes[:, :, None], self.coder_weights)
        boxes = clip(boxes.flatten(1, 2), batch.sizes).view_as(boxes)
        found: list[Prediction] = self.suppression(boxes, logits.softmax(-1)[..., :-1], proposals.valid)
        return found


def classification(scores: Tensor, samples: Samples, batch: Batch) -> Tensor:
    """The cross-entropy [B, R] of logits [B, R, K + 1]: of a positive region's class, or the background."""
    assert batch.labels is not None
    background = scores.shape[2] - 1
    classes = torch.where(samples.positive, take(batch.labels, samples.index), background)
    return F.cross_entropy(scores.transpose(1, 2), classes, reduction="none")


def mean_over_samples(losses: Mapping[str, Tensor], samples: Samples) -> dict[str, Tensor]:
    """Losses [B, R] of each region -> their means over the drawn ones of the batch."""
    number = count(samples.drawn)
    return {name: masked_sum(each, samples.drawn) / number for name, each in losses.items()}


class BoxHead(RegionHead):
    """Class scores over K + 1 and a box for each class, from the features of a region.

    features: maps and boxes [B, R, 4] -> [B * R, C, S, S], such as `RegionFeatures`; trunk: that -> [B * R, outputs].
    """

    class_layers = ("scores", "offsets")

    def __init__(
        self,
        features: nn.Module,
        trunk: nn.Module,
        num_classes: int,
        *,
        coder_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = DETECTION_BETA,
        suppression: Suppression | None = None,
    ) -> None:
        super().__init__(num_classes, coder_weights=coder_weights, beta=beta, suppression=suppression)
        self.features, self.trunk = features, trunk
        self.scores = nn.Linear(trunk.outputs, num_classes + 1)  # type: ignore[arg-type]
        self.offsets = nn.Linear(trunk.outputs, 4 * num_classes)  # type: ignore[arg-type]
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [B, R, 4] -> scores [B, R, K + 1] (logits) and offsets [B, R, K, 4], float32."""
        return self.answers(self.trunk(self.features(maps, boxes)), boxes)

    def answers(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layers say of regions [B, R, 4] whose features the trunk has made [B * R, outputs]."""
        scores = self.scores(x).float().view(*boxes.shape[:2], -1)
        return scores, self.offsets(x).float().view(*boxes.shape[:2], -1, 4)
