"""A fixed number of reference boxes to learn from, drawn at random without a loop over images.

Letters: B images, P reference boxes, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample(
    positive: Tensor, negative: Tensor, *, count: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Up to `count` boxes of each image, at most `positive_fraction` of them positive, filled up with negatives.

    positive, negative: bool [B, P]. Returns indices int64 [B, S] and which of them are drawn, bool [B, S], with
    S = min(count, P): positives come first, and places that nothing fills are False. Uses torch's generator.
    """
    size = positive.shape[1]
    keys = torch.rand(positive.shape, device=positive.device)
    # Positives have keys from 1 to 2, negatives from 0 to 1, all others -1: the largest are the sample, once the
    # positives beyond their share are put out.
    positive_keys = torch.where(positive, keys + 1, -1.0)
    most = int(count * positive_fraction)
    if most < size:
        beyond = positive_keys.topk(most + 1, dim=1).values[:, -1:]
        positive_keys = torch.where(positive_keys > beyond, positive_keys, -1.0)
    chosen, index = torch.where(negative, keys, positive_keys).topk(min(count, size), dim=1)
    return index, chosen >= 0
