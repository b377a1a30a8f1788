"""Samples become a Batch: padded tensors of one shape, nothing ragged. Letters as in `types`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cvtasks.data.transforms import INSTANCE_FIELDS, VOID, image_size
from cvtasks.types import Batch, Sample, Truth


def collate(samples: Sequence[Sample], *, divisor: int = 32, truth: list[Truth] | None = None) -> Batch:
    """Pad images right and below to a common size, a multiple of `divisor`, and objects to the longest list.

    A pipeline of constant shape notes that shape as `pad_to` (height, width), and one whose models take it as it is a
    `divisor` of 1. N is at least 1, so that a
    maximum over objects exists where there is none (`valid` is False there). Padding is 0, False, and 255
    in the label map; a padded proposal is an empty box. Images lie channels-last in memory, which is how
    they are decoded and how convolutions like them. All samples must have the fields of the first.
    """
    shapes = [sample.get("pad_to", (0, 0)) for sample in samples] + [image_size(s) for s in samples]
    divisor = samples[0].get("divisor", divisor)
    height, width = (math.ceil(max(side) / divisor) * divisor for side in zip(*shapes, strict=True))
    images = torch.zeros((len(samples), height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    _fill(images, [sample["image"] for sample in samples])

    batch = Batch(
        images=images,
        sizes=torch.tensor([image_size(sample) for sample in samples]),
        orig_sizes=torch.tensor([tuple(sample["orig_size"]) for sample in samples]),
        image_ids=[sample["image_id"] for sample in samples],
        truth=truth,
    )
    objects = [name for name in INSTANCE_FIELDS if name in samples[0]]
    if objects:
        counts = torch.tensor([len(sample[objects[0]]) for sample in samples])
        batch.valid = torch.arange(max(1, int(counts.max()))) < counts[:, None]
    for name in (*objects, "proposals"):
        if name in samples[0]:
            tensors = [sample[name] for sample in samples]
            rows = max(1, *map(len, tensors))
            tail = (height, width) if name == "masks" else tuple(tensors[0].shape[1:])
            setattr(batch, name, _padded(tensors, (rows, *tail)))
    if "segmentation" in samples[0]:
        maps = [sample["segmentation"] for sample in samples]
        batch.segmentation = _padded(maps, (height, width), fill=VOID)
    if "label" in samples[0]:
        batch.label = torch.stack([torch.as_tensor(sample["label"]) for sample in samples])
    if "window" in samples[0]:
        batch.window = torch.stack([sample["window"] for sample in samples])
    return batch


def _padded(tensors: Sequence[Tensor], shape: tuple[int, ...], fill: int = 0) -> Tensor:
    """One tensor [B, *shape] with each of `tensors` in its low corner."""
    return _fill(torch.full((len(tensors), *shape), fill, dtype=tensors[0].dtype), tensors)


def _fill(into: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    for row, tensor in zip(into, tensors, strict=True):
        row[tuple(slice(length) for length in tensor.shape)] = tensor.as_subclass(Tensor)
    return into
