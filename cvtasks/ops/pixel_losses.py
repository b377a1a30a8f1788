"""What label maps are learnt by: cross-entropy at every pixel, and its relatives. Void (255) counts nowhere.

Every loss is a sum over pixels divided by their number, in float32, and nothing in it waits for the device.
Letters: B images, K classes, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cvtasks.ops.losses import count, total

VOID = 255


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Of logits [B, K, H, W] with labels uint8 [B, H, W]; a scalar.

    class_weights [K] and pixel_weights [B, H, W] are factors of a pixel's loss. Its sum is divided by the number of pixels,
    not by the sum of weights, so that a pixel counts alike in every batch.
    """
    losses = F.cross_entropy(
        logits.float(), labels.long(), weight=class_weights, ignore_index=VOID, reduction="none"
    )
    if pixel_weights is not None:
        losses = losses * pixel_weights
    return losses.sum() / count(labels != VOID)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy times (1 - p) ** gamma, p being the true class's probability (Lin et al., ICCV 2017)."""
    losses = F.cross_entropy(logits.float(), labels.long(), ignore_index=VOID, reduction="none")
    losses = losses * (1 - torch.exp(-losses)) ** gamma
    losses = _weighted(losses, labels, class_weights, pixel_weights)
    return losses.sum() / count(labels != VOID)


def hard_pixels(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float,
    min_kept: int,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the hard pixels alone, found anew in each step (Wu et al., arXiv 1605.06885).

    Hard are those whose true class has a probability below `threshold`, and in any case the hardest
    `min_kept` x B of the batch.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), ignore_index=VOID, reduction="none")
    with torch.no_grad():
        kept = min(min_kept * len(labels), losses.numel())
        limit = losses.new_tensor(threshold).log().neg()
        if kept:
            limit = limit.minimum(losses.flatten().topk(kept, sorted=False).values.amin())
        hard = (losses >= limit) & (labels != VOID)
    losses = _weighted(losses, labels, class_weights, pixel_weights)
    return losses.masked_fill(~hard, 0).sum() / count(hard)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - Dice's coefficient of softmax probabilities and truth, the mean over the classes that occur in the truth.

    Pixels of all images (and processes) are counted together. After Milletari et al. (3DV 2016), whose denominator
    has squares; this is the form without them, as in nnU-Net.
    """
    classes = torch.arange(logits.shape[1], dtype=labels.dtype, device=labels.device)
    probabilities = logits.float().softmax(1).masked_fill((labels == VOID)[:, None], 0)
    truth = labels[:, None] == classes.view(-1, 1, 1)
    axes = (0, 2, 3)
    sums = torch.stack(
        [(probabilities * truth).sum(axes), probabilities.sum(axes), truth.sum(axes).to(probabilities.dtype)]
    )
    both, found, true = total(sums)
    occurs = true > 0
    misses = 1 - 2 * both / (found + true).clamp(min=1)
    return misses.masked_fill(~occurs, 0).sum() / occurs.sum().clamp(min=1)


def _weighted(
    losses: Tensor, labels: Tensor, class_weights: Tensor | None, pixel_weights: Tensor | None
) -> Tensor:
    if class_weights is not None:
        losses = losses * class_weights[labels.long().clamp(max=len(class_weights) - 1)]
    return losses if pixel_weights is None else losses * pixel_weights
