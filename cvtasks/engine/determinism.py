"""`deterministic=true`: operations that give the same bits each time, and the names of those that have no such form."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WITHOUT = re.compile(r"(\S+) does not have a deterministic implementation")


def set_deterministic(wanted: bool) -> None:
    """For the rest of the process. Call it before anything runs on a GPU."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    if wanted:
        # cuBLAS reads it when it starts; without it, its results change with the streams in use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Filling fresh memory would tell of reads before writes, which no operation here does, and costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


@contextmanager
def nondeterminism_named(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, torch's warnings about operations without a deterministic form become one line for each of them."""
    shown: set[str] = set()
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        found = _WITHOUT.match(str(message))
        if found is None:
            before(message, category, *where, **more)
        elif found[1] not in shown:
            shown.add(found[1])
            say(f"deterministic=true: {found[1]} has no deterministic form here; two runs may differ")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
