"""A run that nothing has disturbed, to compare others with. This room judges processes as Linux has them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import runs
from .children import run

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@dataclass(frozen=True)
class Unbroken:
    folder: Path
    result: dict[str, Any]
    seconds: float
    """How long it took"""

    def place(self) -> Path:
        """The folder that it was made in, empty again: only a run of the same name can be equal to it."""
        place = self.folder.with_name("run")
        if place.exists():
            place.rename(self.folder.with_name(f"earlier_{time.monotonic_ns()}"))
        return place


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("runs")
    run(print)  # the server starts, and imports all
    began = time.monotonic()
    ended = run(runs.train, *runs.words(folder / "run"))
    took = time.monotonic() - began
    assert ended.code == 0, ended
    moved = (folder / "run").rename(folder / "unbroken")
    return Unbroken(moved, runs.result(moved), took)
