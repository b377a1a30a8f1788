"""Losses over padded tensors: a mask says what counts, and no shape depends on how much of it there is."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.distributed.nn
import torch.nn.functional as F
from torch import Tensor, distributed

DETECTION_BETA = 1 / 9
"""Where smooth L1 turns from squared to absolute, as in torchvision and the first Faster R-CNN code (sigma = 3)."""

RegressionKind: TypeAlias = Literal["l2", "l1", "smooth_l1"]


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of `values` where `mask` (of the same shape) is True. Nothing outside matters, not even a NaN."""
    return values.masked_fill(~mask, 0).sum()


def count(mask: Tensor) -> Tensor:
    """How many are True, at least 1, to divide a sum by.

    Of processes that train together it is their mean, so that gradients averaged over them are those of one process
    with all their images. All must call it as often.
    """
    number = mask.sum()
    if not _train_together():
        return number.clamp(min=1)
    number = number.float()
    distributed.all_reduce(number)
    return number.clamp(min=1) / distributed.get_world_size()


def total(values: Tensor) -> Tensor:
    """The sum of `values` over processes that train together, through which gradients flow.

    A loss made of such sums is the same in all of them, and gradients averaged over them are those of one process with
    all their images. All must call it as often.
    """
    return distributed.nn.functional.all_reduce(values) if _train_together() else values


def _train_together() -> bool:
    return torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()


def smooth_l1(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Summed over the last axis, [..., 4] -> [...] (Girshick, ICCV 2015). `beta=0` is plain L1."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(-1)


def regression(kind: RegressionKind, predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Squared, absolute or smooth absolute differences, summed over the last axis: [..., D] -> [...].

    beta: of smooth_l1, where it turns from squared to absolute.
    """
    if kind == "l2":
        return F.mse_loss(predicted, target, reduction="none").sum(-1)
    return smooth_l1(predicted, target, beta=beta if kind == "smooth_l1" else 0.0)


def focal(
    logits: Tensor, labels: Tensor, *, positive: Tensor, negative: Tensor, alpha: float, gamma: float
) -> Tensor:
    """The focal loss (Lin et al., ICCV 2017) of each image, summed over anchors and classes: [B, N, K] -> [B].

    labels [B, N]: the class of each `positive`; a `negative` [B, N] has none, and what is neither does not count. Every
    class is taken for background first, then the one of each positive is put right: no tensor of targets, and half
    the time of `torchvision.ops.sigmoid_focal_loss`, which was 4 % of a ResNet-50's step.
    """

    def background(x: Tensor) -> Tensor:
        loss = F.softplus(x)
        # The power by its logarithm: where the probability is 0, its own gradient may be infinite.
        return (1 - alpha) * torch.exp(gamma * (x - loss)) * loss

    true = logits.gather(2, labels[..., None]).squeeze(2)
    loss = F.softplus(-true)
    correction = alpha * torch.exp(-gamma * (true + loss)) * loss - background(true)
    losses = background(logits).sum(2).masked_fill(~(positive | negative), 0)
    return (losses + correction.masked_fill(~positive, 0)).sum(1)
