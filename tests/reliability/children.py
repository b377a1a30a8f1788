"""Processes that each do one thing and are judged by how they end: their exit code and what they printed.

They are forked from a server that has imported everything once (multiprocessing's forkserver), so that a child takes 25 ms
where a new interpreter takes 4 s, and no thread of the tests' own process is forked with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "cvtasks.app", "cvtasks.judge", "cvtasks.cli", "cvtasks.config.launch", "cvtasks.data.coco", "cvtasks.data.voc",
        "cvtasks.models.detection.faster_rcnn", "cvtasks.nn.backbones.tiny", "cvtasks.metrics.detection",
        "cvtasks.data.shapes", "scipy.io", "matplotlib.figure", "matplotlib.backends.backend_agg",
        "tensorboard.compat.proto.event_pb2", "pytest",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Its exit code; minus the signal's number if one has ended it"""
    out: str
    err: str

    @property
    def line(self) -> str:
        """What it printed on stderr, which must be one line of ours: no traceback, no warning beside it."""
        assert self.err.startswith("cvtasks: "), self
        assert self.err.count("\n") == 1, self
        return self.err.strip()


class Child:
    """A running child, with a session of its own, so that whatever it leaves behind can be found."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, memory: int | None = None) -> None:
        """memory: bytes that it may take beyond what it begins with."""
        self._folder = tempfile.TemporaryDirectory(prefix="cvtasks-child-")
        self._process = _SERVER.Process(
            target=_begin, args=(self._folder.name, memory, function, arguments), daemon=False
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def out(self) -> str:
        return self._read("out")

    @property
    def err(self) -> str:
        return self._read("err")

    def running(self) -> bool:
        return self._process.is_alive()

    def signal(self, number: int, pid: int | None = None) -> None:
        """To it, or to one of its family. Nothing happens if that has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.running():
                os.kill(self.pid if pid is None else pid, number)

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end, at most so long."""
        self._process.join(seconds)

    def wait(self, seconds: float = 120.0) -> Ended:
        """Raises AssertionError if it still runs after so many seconds."""
        self.join(seconds)
        code = self._process.exitcode
        ended = Ended(-signal.SIGKILL if code is None else code, self.out, self.err)
        assert code is not None, f"it hangs: {ended}"
        return ended

    def family(self) -> list[int]:
        """Living processes of its session: its workers, and itself."""
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _session(folder) == (self.pid, True)
        ]

    def end(self) -> None:
        """Leave nothing of it behind."""
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)
        self._process.join()
        self._folder.cleanup()

    def _read(self, name: str) -> str:
        path = Path(self._folder.name, name)
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def child(function: Callable[..., Any], *arguments: Any, memory: int | None = None) -> Iterator[Child]:
    """A child, of which nothing is left afterwards."""
    running = Child(function, *arguments, memory=memory)
    try:
        yield running
    finally:
        running.end()


def run(
    function: Callable[..., Any], *arguments: Any, memory: int | None = None, seconds: float = 120.0
) -> Ended:
    """A child's whole life."""
    with child(function, *arguments, memory=memory) as running:
        return running.wait(seconds)


def command(*words: str) -> None:
    """In a child: `cvtasks` with these words, as its console script runs it."""
    from cvtasks.cli import main

    sys.exit(main(words))


def started(*words: str) -> subprocess.Popen[str]:
    """`cvtasks` with these words as a user starts it, in an interpreter of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cvtasks", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_until(condition: Callable[[], Any], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.002)


def _begin(folder: str, memory: int | None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(1)
    if memory is not None:
        status = Path("/proc/self/status").read_text()
        used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory,) * 2)
    function(*arguments)


def _session(folder: Path) -> tuple[int, bool] | None:
    """The session of a process, and whether it lives; None if it has just ended."""
    try:
        state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return int(session), state not in "ZX"
