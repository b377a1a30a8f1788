"""A disk that is full from the n-th operation on, or a kill just there: wherever a run writes, in turn.

What is counted below a folder: making a file or a folder, writing to a file, syncing, renaming. A write fails where the
kernel's would, below Python's buffers, so that what is still in them is met again when the file is closed.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import runs

FULL, FULL_ONCE, KILL = "full", "full once", "kill"


@dataclass(frozen=True)
class Fault:
    number: int
    """Of the operation, from 0"""
    kind: str
    """FULL: from there on nothing can be written. FULL_ONCE: only there. KILL: half of it is written."""


def train_with(fault: Fault | None, folder: Path, journal: Path | None, *words: str) -> None:
    """In a child: `runs.train`, with a fault below the folder; the journal gets [operation, file] of each it came to."""
    faults = _Faults(os.path.realpath(folder), fault)
    faults.install()
    try:
        runs.train(*words)
    finally:
        if journal is not None:
            faults.folder = "/nowhere"
            journal.write_text(json.dumps(faults.reached))


class _Faults:
    def __init__(self, folder: str, fault: Fault | None) -> None:
        self.folder, self.fault, self.reached = folder, fault, list[tuple[str, str]]()

    def install(self) -> None:
        opened = io.open

        def open_(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+") or not self.below(file):
                return opened(file, mode, buffering, *text, **more)
            if not os.path.lexists(file):
                self.reach("create", file)
            raw = _File(file, mode, self)
            buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **more)

        io.open = builtins.open = open_
        self._wrap("mkdir", lambda path, *_: path)
        self._wrap("replace", lambda old, new: new)
        self._wrap("fsync", lambda handle: os.readlink(f"/proc/self/fd/{handle}"))

    def reach(self, operation: str, path: Any, half: Callable[[], Any] = lambda: None) -> None:
        """An operation is about to happen. Raises OSError, or ends the process, if it is the one."""
        number = len(self.reached)
        self.reached.append((operation, os.path.relpath(os.path.realpath(path), self.folder)))
        fault = self.fault
        if fault is None or number < fault.number or (number > fault.number and fault.kind != FULL):
            return
        if fault.kind == KILL:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
        raise OSError(*reason, str(path)) if operation in ("create", "mkdir", "replace") else OSError(*reason)

    def below(self, path: Any) -> bool:
        return os.path.realpath(path).startswith(self.folder)

    def _wrap(self, name: str, path_of: Callable[..., Any]) -> None:
        real = getattr(os, name)

        def wrapped(*given: Any, **more: Any) -> Any:
            if self.below(path := path_of(*given)) and not (name == "mkdir" and os.path.lexists(path)):
                self.reach(name, path)
            return real(*given, **more)

        setattr(os, name, wrapped)


class _File(io.FileIO):
    def __init__(self, path: Any, mode: str, faults: _Faults) -> None:
        super().__init__(path, mode.replace("t", "").replace("b", ""))
        self._faults = faults

    def write(self, data: Any) -> int:
        write = super().write
        self._faults.reach("write", self.name, lambda: write(memoryview(data)[: len(data) // 2]))
        return write(data)
