"""Batches for the tests of localization and pose: one object, or one person, in each image."""

import torch
from torch import Tensor, nn

from cvtasks.data.skeletons import LSP
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.types import Batch, ClassInfo

CLASSES = ClassInfo(("circle", "square", "star", "ring", "cross", "person"))
PERSON = ClassInfo(("person",), **LSP.class_info)
JOINTS = len(LSP.names)


class Pixels(Backbone):
    """The image itself is the map: what a model reads can be painted."""

    def __init__(self) -> None:
        super().__init__({"c0": FeatureSpec(3, 1)}, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"c0": images}


def make_batch(images: int = 3, *, size: int = 64) -> Batch:
    """Noise; images of different heights, and twice as large in their files."""
    generator = torch.Generator().manual_seed(0)
    heights = size - 8 * torch.arange(images)
    sizes = torch.stack([heights, torch.full_like(heights, size)], 1)
    corner = 0.1 + 0.3 * torch.rand(images, 1, 2, generator=generator)
    extent = 0.2 + 0.3 * torch.rand(images, 1, 2, generator=generator)
    wide = sizes.flip(1)[:, None].float()
    joints = 0.1 + 0.8 * torch.rand(images, 1, JOINTS, 2, generator=generator)
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator),
        sizes=sizes,
        orig_sizes=2 * sizes,
        image_ids=list(range(images)),
        valid=torch.ones(images, 1, dtype=torch.bool),
        boxes=torch.cat([corner * wide, (corner + extent) * wide], -1),
        label=torch.randint(0, len(CLASSES), (images,), generator=generator),
        keypoints=joints * wide[:, None],
        visible=torch.full((images, 1, JOINTS), 2),
    )


def nonzero_gradients(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]


def spread(model: nn.Module, **scales: float) -> nn.Module:
    """The same model with larger random weights in the layers of these names, so that its outputs differ."""
    generator = torch.Generator().manual_seed(1)
    for name, scale in scales.items():
        weight = model.get_submodule(name.replace("__", ".")).weight
        assert isinstance(weight, Tensor)
        weight.data = scale * torch.randn(weight.shape, generator=generator)
    return model
