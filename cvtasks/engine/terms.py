"""The terms of a multitask loss: stacked on the device, weighted, read once for each log line."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cvtasks.errors import ConfigError


class Terms:
    """The terms of a multitask loss, in the order of their weights."""

    def __init__(self, weights: Mapping[str, float], device: torch.device) -> None:
        self.names, self.weights = tuple(weights), tuple(float(w) for w in weights.values())
        # Copied once: a copy in every step would wait for the device.
        self._weights = torch.tensor(self.weights, device=device)

    def stack(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The raw losses as one tensor, float32 [terms]. Raises ConfigError where losses and weights differ."""
        if losses.keys() != set(self.names):
            missing = [f"no weight for the loss {name}" for name in losses if name not in self.names]
            unused = [f"{name} is no loss of this model" for name in self.names if name not in losses]
            raise ConfigError(
                f"task.loss_weights: {', '.join(missing + unused)}; its losses are {', '.join(losses)}"
            )
        return torch.stack([losses[name].float() for name in self.names])

    def total(self, values: Tensor) -> Tensor:
        """The weighted sum of [terms]."""
        return (values * self._weights).sum()

    def record(self, values: Tensor) -> dict[str, float]:
        """`loss` (weighted) and `loss/<term>` (raw) of values on the host."""
        numbers = values.tolist()
        total = sum(w * v for w, v in zip(self.weights, numbers, strict=True))
        return {"loss": total} | {f"loss/{n}": v for n, v in zip(self.names, numbers, strict=True)}

    def line(self, record: Mapping[str, float]) -> str:
        """`loss 0.812 (rpn_box 0.101, ...)`"""
        terms = ", ".join(f"{name} {record[f'loss/{name}']:.3f}" for name in self.names)
        return f"loss {record['loss']:.3f} ({terms})" if len(self.names) > 1 else f"loss {record['loss']:.3f}"
