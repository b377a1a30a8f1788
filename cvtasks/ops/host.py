"""Where the host does the computing itself, some things are cheap that would make a GPU's host wait."""

from __future__ import annotations

from torch import Tensor


def on_host(tensor: Tensor) -> bool:
    """Whether a CPU holds it: reading a number costs nothing then, and shapes may depend on the data."""
    return tensor.device.type == "cpu"
