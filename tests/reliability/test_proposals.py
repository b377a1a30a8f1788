"""The verb `proposals` killed and stopped in the middle: nothing is lost, nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import proposal_methods
import pytest

from .children import child, command, run, wait_until

TILES = """\
# Quarters of quarters of the image
name: tiles
_target_: proposal_methods.Tiles
levels: 2
log: ""
seconds: 0.0
"""
COUNT = 30


def propose(folder: str, *more: str) -> None:
    """In a child. Two processes compute, whatever the machine has."""
    os.chdir(folder)
    os.environ["CVTASKS_CACHE"] = str(Path(folder, "cache"))
    from cvtasks import proposal_run

    proposal_run.cores = lambda: 2  # type: ignore[assignment]
    words = ["-cd", "conf", "plugins=[proposal_methods]", "method=tiles", "proposals.log=log"]
    command("proposals", *words, "dataset.image_size=64", f"dataset.val.count={COUNT}", "pictures=0", *more)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copy(proposal_methods.__file__, tmp_path)
    (tmp_path / "conf" / "proposals").mkdir(parents=True)
    (tmp_path / "conf" / "proposals" / "tiles.yaml").write_text(TILES)
    return tmp_path


def done(home: Path) -> int:
    return len([p for p in home.glob("cache/proposals/**/*.npz") if not p.name.startswith(".")])


def test_killed_at_any_time_it_goes_on_with_what_is_there(home: Path) -> None:
    words = (str(home), "proposals.seconds=0.1", "run_dir=out")
    with child(propose, *words) as running:
        wait_until(lambda: done(home) >= 5)
        running.signal(signal.SIGKILL)
        assert running.wait().code == -signal.SIGKILL
    before = done(home)
    assert 5 <= before < COUNT
    asked = len((home / "log").read_text().splitlines())
    assert not (home / "out" / "metrics.json").exists()
    ended = run(propose, *words)
    assert ended.code == 0, ended
    assert done(home) == COUNT
    # A worker may have been in the middle of an image each time.
    again = len((home / "log").read_text().splitlines()) - asked
    assert COUNT - before - 3 <= again <= COUNT - before
    found = json.loads((home / "out" / "metrics.json").read_text())
    assert found["proposals/boxes_per_image"] == 5


@pytest.mark.parametrize(
    "send",
    [lambda running: running.signal(signal.SIGINT), lambda running: os.killpg(running.pid, signal.SIGINT)],
    ids=["to it alone", "to its group, as a terminal does"],
)
def test_ctrl_c_ends_it_and_its_workers_with_one_line(home: Path, send: Callable[..., None]) -> None:
    with child(propose, str(home), "proposals.seconds=0.1", "run_dir=out") as running:
        wait_until(lambda: done(home) >= 5)
        send(running)
        ended = running.wait()
        assert ended.code == 130
        assert ended.line == "cvtasks: stopped"
        assert running.family() == []
    assert done(home) < COUNT
