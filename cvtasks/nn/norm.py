"""Normalisation layers by name, for backbones, pyramids and heads.

Group norm: Wu and He, ECCV 2018, with a fixed 16 channels a group (their table 3: 24.2 % error on ImageNet
against 24.1 % for 32 groups, 23.6 % for batch norm). Frozen batch norm: a pretrained network's constants.
Letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.distributed.nn
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from cvtasks.errors import ConfigError

NormKind: TypeAlias = Literal["batch", "frozen", "group"]
Norm: TypeAlias = Literal["auto", "batch", "frozen", "group"]
"""What a YAML may say: auto is frozen with pretrained weights, and the network's own choice without."""

CHANNELS_PER_GROUP = 16
"""On a CPU, channels last, torch's bf16 backward is vectorised from 16 channels on: [8, 64, 40, 40] takes
0.4 ms with 16 channels a group, and 8.3 ms with 2 (32 groups)."""


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine never change: y = x * scale + bias, for x [B, C, H, W].

    Reads the state of an ordinary batch norm (weight, bias, running_mean, running_var).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            # Constants stay float32, the maps stay bf16, and it is one pass.
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        # In float32 that call costs a ResNet-50's step 7 % more than the plain affine does.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        bias = self.bias - self.running_mean * scale
        return torch.addcmul(bias.view(-1, 1, 1), x, scale.view(-1, 1, 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' images, on any device: torch's own needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        values = x.float()
        count = values.new_tensor([x.numel() / x.shape[1]])
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        sums = distributed.nn.functional.all_reduce(sums)
        total = sums[-1]
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            unbiased = variance * total / (total - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * (variance + self.eps).rsqrt()
        bias = self.bias - mean * scale
        return torch.addcmul(bias.view(-1, 1, 1), values, scale.view(-1, 1, 1)).to(x.dtype)


def synchronized(model: nn.Module, device: torch.device) -> nn.Module:
    """The same model with every batch norm taking its statistics over all processes.

    Raises ConfigError for a batch norm that does more, as timm's do: what it does beside would be lost.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and any(module.children()):
            raise ConfigError(
                f"engine.sync_batchnorm=true: {name} is a {type(module).__name__}, which does more than normalise; type "
                "backbone.norm=group or backbone.norm=frozen, or another backbone"
            )
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model


def make_norm(
    kind: NormKind,
    channels: int,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    group_channels: int = CHANNELS_PER_GROUP,
) -> nn.Module:
    """The norm layer of this kind: [B, channels, H, W] -> the same shape.

    Group norm has `group_channels` in a group, or the largest divisor of that which divides `channels`. `momentum`
    is for batch norm alone.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
    if kind == "frozen":
        return FrozenBatchNorm2d(channels, eps=eps)
    if kind == "group":
        return nn.GroupNorm(channels // math.gcd(channels, group_channels), channels, eps=eps)
    raise ConfigError(f"norm={kind}: expected one of {', '.join(get_args(NormKind))}")


def choose_norm(norm: Norm, *, weights: str | None, otherwise: NormKind) -> NormKind:
    """What `auto` means: frozen batch norm with pretrained weights, `otherwise` without."""
    if norm != "auto":
        return norm
    return otherwise if weights is None else "frozen"


def replace_norms(network: nn.Module, kind: NormKind) -> None:
    """Every batch norm inside by a norm of this kind, with its eps; for networks that we do not build.

    What a batch norm does beside normalising stays: timm's has its network's ReLU in it.
    """
    if kind == "batch":
        return
    for name, child in list(network.named_children()):
        if not isinstance(child, nn.BatchNorm2d):
            replace_norms(child, kind)
            continue
        norm = make_norm(kind, child.num_features, eps=child.eps)
        if beside := list(child.named_children()):
            for part, layer in beside:
                norm.add_module(part, layer)
            norm.register_forward_hook(_through_children)
        network.add_module(name, norm)


def _through_children(norm: nn.Module, _: object, output: Tensor) -> Tensor:
    for layer in norm.children():
        output = layer(output)
    return output
