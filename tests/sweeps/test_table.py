"""The table of a sweep: which job stands first, and what its files say."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from cvtasks.engine.direction import lower_is_better
from cvtasks.engine.loop import State
from cvtasks.sweeps.ledger import Entry, Ledger
from cvtasks.sweeps.table import best_first, write_table


def entry(number: int, value: float | None, monitor: str = "box/AP", **more: object) -> Entry:
    more = {"state": "done", "changed": {"seed": str(number)}, **more}
    return Entry(f"h{number}", number, f"{number}_x", value=value, monitor=monitor, **more)  # type: ignore[arg-type]


def numbers(entries: list[Entry]) -> list[int]:
    return [entry.number for entry in best_first(entries)]


@pytest.mark.parametrize(
    ("monitor", "lower"),
    [
        ("box/AP", False),
        ("seg/mIoU", False),
        ("val/loss", True),
        ("val/loss/classification", True),
        ("pose/mean_error", True),
        ("cls/error", True),
        ("box/lossless", False),
    ],
)
def test_losses_and_errors_are_better_when_they_are_lower(monitor: str, lower: bool) -> None:
    assert lower_is_better(monitor) is lower
    values = [entry(0, 0.2, monitor), entry(1, 0.1, monitor), entry(2, 0.3, monitor)]
    assert numbers(values) == ([1, 0, 2] if lower else [2, 0, 1])


def test_the_best_checkpoint_goes_the_same_way() -> None:
    state = State()
    assert [state.judge(score, lower_is_better=True) for score in (3.0, 4.0, 2.0, math.nan)] == [
        True,
        False,
        True,
        False,
    ]
    assert (state.best, state.stale) == (2.0, 1)


def test_jobs_without_a_metric_follow_in_their_order_and_monitors_are_not_mixed() -> None:
    entries = [
        entry(0, None, state="failed"),
        entry(1, math.nan),
        entry(2, 0.9, "seg/mIoU"),
        entry(3, 0.1),
        entry(4, 0.8, state="pruned"),
        entry(5, 0.2),
    ]
    assert numbers(entries) == [5, 3, 2, 1, 0, 4]


def test_the_files_tell_of_all_jobs_and_why_some_failed(tmp_path: Path) -> None:
    failed = entry(1, None, state="failed", code=9, reason="boom", changed={"task": "a|b"})
    entries = [entry(0, 0.5, seconds=61.0), failed]
    page = write_table(entries, Ledger(tmp_path), title="T", command=["train", "-m", "seed=0"])
    assert "| 1 min 1 s | done" in page
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["job"], row["seed"], row["task"], row["box/AP"], row["state"]) for row in rows] == [
        ("0", "0", "", "0.5", "done"),
        ("1", "", "a|b", "", "failed"),
    ]
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["command"] == ["train", "-m", "seed=0"]
    assert [(job["state"], job["code"]) for job in found["jobs"]] == [("done", None), ("failed", 9)]
    text = (tmp_path / "sweep.md").read_text()
    assert f"- job 1 (task=a|b): exit code 9: boom; log: {tmp_path}/1_x.log" in text
    assert "`cvtasks train -m seed=0`" in text
    assert (tmp_path / "sweep.png").stat().st_size > 1000
