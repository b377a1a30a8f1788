"""Stand-ins for the processes of a sweep's jobs: a new interpreter for each would take 4 s.

`in_process` runs a job's command line in the tests' own process; `forked` in a child of a server that has imported
everything once, so that it can crash, be killed, and be interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from undrawn import undraw

from cvtasks.cli import main
from cvtasks.sweeps import process


class InProcess:
    """It has ended before it can be asked."""

    pid = 2**22 + 1
    """Nobody's"""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                GlobalHydra.instance().clear()  # the sweep's own; there is one in a process
                self.code = main(words)
            except Exception:
                self.code = traceback.print_exc() or 1
        self.stdout = printed.getvalue().splitlines(keepends=True)

    def poll(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        """There is nobody any more."""


class Forked:
    """As `subprocess.Popen`, as far as it is used."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        from reliability.children import _SERVER

        self._folder = tempfile.TemporaryDirectory(prefix="cvtasks-job-")
        self._pipe = Path(self._folder.name, "out")
        os.mkfifo(self._pipe)
        given = dict(os.environ) | dict(environment)
        self._process = _SERVER.Process(
            target=_begin, args=(self._pipe, os.getcwd(), given, sys.path, list(words))
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def stdout(self) -> Iterator[str]:
        with self._pipe.open(errors="replace") as lines:
            yield from lines

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "start", InProcess)


def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "start", Forked)


def _begin(pipe: Path, folder: str, environment: dict[str, str], path: list[str], words: list[str]) -> Any:
    os.setsid()
    out = os.open(pipe, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(out, number)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = path
    import torch

    torch.set_num_threads(1)
    undraw(pytest.MonkeyPatch())
    sys.exit(main(words))
