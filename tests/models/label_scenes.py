"""Batches for the tests of semantic segmentation."""

import torch
from torch import Tensor, nn

from cvtasks.types import Batch, ClassInfo

NAMES = ("ground", "circle", "square", "figure")
CLASSES = ClassInfo(NAMES)


def make_batch(images: int = 2, *, size: int = 64, classes: int = len(NAMES)) -> Batch:
    """Noise with random labels in blocks; images of different heights, with void among the labels and in the padding."""
    generator = torch.Generator().manual_seed(0)
    heights = size - 10 * torch.arange(images)
    sizes = torch.stack([heights, torch.full_like(heights, size)], 1)
    blocks = torch.randint(0, classes, (images, size // 8, size // 8), dtype=torch.uint8, generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :, size - 4 :] = 255
    for n, height in enumerate(heights.tolist()):
        labels[n, height:] = 255
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator),
        sizes=sizes,
        orig_sizes=2 * sizes,
        image_ids=list(range(images)),
        segmentation=labels,
    )


def without_gradient(model: nn.Module) -> list[str]:
    """The parameters that a loss did not reach, or with zeros alone."""
    return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def randomized(model: nn.Module) -> nn.Module:
    """The same model with every parameter random, also those that begin at zero, and used norm statistics."""
    generator = torch.Generator().manual_seed(1)
    for name, values in model.state_dict().items():
        if values.is_floating_point():
            noise: Tensor = torch.rand(values.shape, generator=generator)
            values.copy_(noise + 0.5 if "running_var" in name else (noise - 0.5) / 4)
    return model
