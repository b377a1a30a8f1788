"""Squares on noise with proposals around them and elsewhere, for detectors of given regions."""

from __future__ import annotations

import torch

from cvtasks.types import Batch


def scenes(count: int = 3, proposals: int = 24, seed: int = 0) -> Batch:
    """Images of 64 x 64: a dark square (class 0), a light one (class 1) and an ignored one on noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(90, 160, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    corner = torch.rand(count, 3, 2, generator=generator) * 12 + torch.tensor([[0, 0], [34, 30], [2.0, 36]])
    boxes = torch.cat([corner, corner + 14], 2).round()
    for image, own in zip(images, boxes.int().tolist(), strict=True):
        for (x1, y1, x2, y2), color in zip(own, (10, 245, 60), strict=True):
            image[:, y1:y2, x1:x2] = color
    wandering = torch.rand(count, proposals, 2, generator=generator) * 40
    found = torch.cat(
        [wandering, wandering + 8 + torch.rand(count, proposals, 2, generator=generator) * 16], 2
    )
    found[:, :6] = boxes[:, :2].repeat(1, 3, 1) + torch.randn(count, 6, 4, generator=generator)
    found[0, -4:] = 0  # padding
    return Batch(
        images=images,
        sizes=torch.tensor([[64, 64]] * count),
        orig_sizes=torch.tensor([[64, 64]] * count),
        image_ids=list(range(count)),
        valid=torch.ones(count, 3, dtype=torch.bool),
        boxes=boxes,
        labels=torch.tensor([[0, 1, 0]] * count),
        ignore=torch.tensor([[False, False, True]] * count),
        proposals=found,
    )
