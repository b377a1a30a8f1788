"""A normalizing flow of few numbers: RealNVP (Dinh et al., ICLR 2017), whose density is exact and can be learnt from.

Coupling layers keep one half of the numbers and shift and scale the other half by functions of it, so that each is
inverted by arithmetic and the logarithm of its Jacobian is a sum. Letters: D numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RealNVP(nn.Module):
    """The density of points [..., D], as that of a standard normal from which `layers` couplings lead to them.

    It begins near the standard normal itself. Halves take turns, so two layers or more reach all numbers.
    """

    kept: Tensor

    def __init__(self, dimensions: int = 2, *, layers: int = 6, hidden: int = 64) -> None:
        super().__init__()
        even = torch.arange(dimensions) % 2 == 0
        self.register_buffer(
            "kept", torch.stack([even ^ bool(n % 2) for n in range(layers)]), persistent=False
        )
        self.couplings = nn.ModuleList(_coupling(dimensions, hidden) for _ in range(layers))

    def log_density(self, points: Tensor) -> Tensor:
        """[..., D] -> [...], in float32: ln N(z; 0, 1) + ln |dz / dx| of the z that leads to x."""
        with torch.autocast(points.device.type, enabled=False):
            z = points.float()
            log_jacobian = torch.zeros_like(z[..., 0])
            for kept, coupling in zip(self.kept, self.couplings, strict=True):
                scale, shift = coupling(z * kept).chunk(2, -1)
                scale = scale.tanh().masked_fill(kept, 0)
                z = torch.where(kept, z, (z - shift) * (-scale).exp())
                log_jacobian = log_jacobian - scale.sum(-1)
            normal = -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
            return normal + log_jacobian


def _coupling(dimensions: int, hidden: int) -> nn.Sequential:
    """What is kept -> log scale and shift of the rest."""
    layers = nn.Sequential(
        nn.Linear(dimensions, hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, 2 * dimensions),
    )
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)
    return layers
