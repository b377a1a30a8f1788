"""What a program does behind one's back, seen through Python's audit events, and a tiny run to attack."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cvtasks.cli import main

SMALL = (
    "task=faster_rcnn", "backbone=tiny", "backbone.width=16", "task.fpn_channels=16", "task.head_channels=16",
    "pipeline.size=64", "loader.batch_size=2", "loader.workers=0", "device=cpu", "engine.log_every=1",
    "scheduler.warmup_steps=0", "engine.max_steps=2",
)  # fmt: skip
SHAPES = ("dataset.image_size=64", "dataset.train.count=4", "dataset.val.count=2")

PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.", "pty.spawn")
NETWORK = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.")
_seen: list[tuple[tuple[str, ...], list[str]]] = []
"""Who watches for which events, and what they have seen"""


def _hook(event: str, arguments: Any) -> None:
    for prefixes, found in _seen:
        if event.startswith(prefixes):
            found.append(f"{event}{arguments!r:.200}")
            raise PermissionError(f"not in this test: {event}")


sys.addaudithook(_hook)


@contextmanager
def forbidden(*prefixes: str) -> Iterator[list[str]]:
    """Inside, these audit events raise, and are listed even if somebody catches that."""
    found: list[str] = []
    _seen.append((prefixes, found))
    try:
        yield found
    finally:
        _seen.pop()


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line; the exit code and what it said on stderr. Nothing is started, and no pickle looks for a name."""

    def run(*words: str) -> tuple[int, str]:
        with forbidden(*PROGRAMS, *NETWORK, "pickle.find_class") as found:
            code = main(words)
        assert found == []
        return code, capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps; not to be changed."""
    folder = tmp_path_factory.mktemp("security") / "run"
    assert main(["train", *SMALL, *SHAPES, f"run_dir={folder}"]) == 0
    return folder
