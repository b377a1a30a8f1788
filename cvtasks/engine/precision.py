"""The device and the number format of a run: chosen once, recorded in the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cvtasks.engine.distributed import ALONE, Processes
from cvtasks.errors import ConfigError


def choose_device(name: str, *, processes: Processes = ALONE) -> torch.device:
    """`auto` is a CUDA GPU where there is one, else the CPU; of several processes each has a GPU of its own.

    Raises ConfigError for a device that is not there.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = "cuda" if processes.world == 1 else f"cuda:{processes.local_rank}"
    elif name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"device={name} cannot be used here ({line}); set device=cpu or device=auto"
        ) from None
    return device


@dataclass(frozen=True)
class Precision:
    """fp32, or autocast: matrix products and convolutions in bf16 or fp16, everything else and all weights in fp32.

    fp16 has few small numbers, so gradients are scaled; bf16 has fp32's range.
    """

    name: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[object]]:
        """Makes the context in which a model runs."""
        if self.name == "fp32":
            return contextlib.nullcontext
        dtype = torch.bfloat16 if self.name == "bf16" else torch.float16
        return lambda: torch.autocast(self.device.type, dtype)


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> nn.Module:
    """The model on its device; call it before the optimizer is built.

    Convolutions with channels-last weights give channels-last maps, whatever their input is, so batches stay as they are.
    """
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def choose_precision(name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """`auto` is bf16 where the hardware multiplies in it, else fp32 (emulated bf16 would be slower)."""
    if name == "auto":
        name = "bf16" if _has_bf16(device) else "fp32"
    return Precision(name, device)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # The public name of these checks has moved between torch's releases; where none is found, fp32 is safe.
    checks = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("avx512_bf16", "amx_tile"))
    return any(check() for check in checks if check is not None)
