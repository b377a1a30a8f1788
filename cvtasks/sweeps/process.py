"""A job as a process of its own: `python -m cvtasks …`. What it prints goes into its log.

Whatever ends it, a crash, the kernel, a loss that is no number, ends it alone, and its memory is given back.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvtasks.redaction import hide

OURS = "cvtasks: "
"""The line that says why a run of ours ended begins with it"""
SECONDS_FOR_OUTPUT = 10.0
"""Its loader's workers may hold the pipe for some seconds after it is gone."""


class Process:
    """A running `cvtasks` with its output in `log`, appended."""

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.began = time.monotonic()
        self.progress = ""
        """The last line that told how far it is"""
        self.reason = ""
        """The last line of ours, or the last line at all"""
        with log.open("a", encoding="utf-8") as file:
            file.write(hide(f"$ cvtasks {shlex.join(words)}\n"))
        self._popen = start(words, environment)
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    def _read(self, log: Path) -> None:
        with log.open("a", encoding="utf-8", errors="replace") as file:
            for line in self._popen.stdout:
                file.write(hide(line))
                file.flush()
                if line.startswith("train ") or (
                    line.startswith(("evaluate ", "predict ")) and not self.progress.startswith("train ")
                ):
                    self.progress = line.strip()
                if line.startswith(OURS) or (line.strip() and not self.reason.startswith(OURS)):
                    self.reason = line.strip()

    def poll(self) -> int | None:
        """Its exit code, minus a signal's number if that ended it; None while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._kill_what_it_left()
            self._reader.join(SECONDS_FOR_OUTPUT)
        return code

    def end(self, seconds: float) -> int:
        """Its exit code; it is killed if it still runs after so many seconds."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)
        return code

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def why(self, code: int) -> str:
        """One line: what it said last, or the signal that ended it."""
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
            return f"killed by {name}{memory}"
        return hide(self.reason.removeprefix(OURS)) or "it said nothing"

    def _kill_what_it_left(self) -> None:
        """Its session: workers of a process that was killed, say, which hold memory."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)


def start(words: Sequence[str], environment: Mapping[str, str]) -> Any:
    """`cvtasks` with these words, in a session of its own: Ctrl-C reaches it through the sweep alone.

    -P and the path: it sees the modules that this process sees, and no others.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cvtasks", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONUNBUFFERED": "1",
            **environment,
        },
        start_new_session=True,
    )


def environment(slot: int, *, at_once: int, devices: Sequence[int | str] | None) -> dict[str, str]:
    """What the job in a slot finds: its share of the cores, if it has none of its own yet, and its device."""
    found = {}
    if at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found["OMP_NUM_THREADS"] = str(max(1, cores // at_once))
    if devices:
        found["CUDA_VISIBLE_DEVICES"] = str(devices[slot % len(devices)])
    return found
