"""Ctrl-C, SIGTERM and SIGUSR1 finish the step, save and say how to go on; no process is left behind by any end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from . import runs
from .amount import FULL, amount
from .children import Child, child, run, started, wait_until
from .conftest import Unbroken

NOTICE = "\nfinishing the step and saving; Ctrl-C (again) stops at once\n"


def in_the_middle(place: Path) -> bool:
    """Some of the steps are done, and most are not."""
    history = place / "metrics.jsonl"
    return history.exists() and history.read_bytes().count(b"\n") >= 2


def signal_all(running: Child, number: int) -> None:
    """As a terminal does it, and some schedulers: to the workers as well."""
    for pid in running.family():
        running.signal(number, pid)


@pytest.mark.parametrize(
    ("name", "workers"),
    [("SIGTERM", 2), ("SIGINT", 2), ("SIGUSR1", 2), ("SIGINT", 0), ("SIGTERM", 1)][: amount(5)],
)
def test_a_signal_stops_a_run_that_goes_on_as_if_nothing_had_been(
    unbroken: Unbroken, name: str, workers: int
) -> None:
    place, number = unbroken.place(), getattr(signal, name)
    with child(runs.train, *runs.words(place, workers=workers)) as running:
        wait_until(lambda: in_the_middle(place))
        assert len(running.family()) >= 1 + workers
        signal_all(running, number)
        ended = running.wait(20)  # workers that nobody ends would hold it up for half a minute
        assert running.family() == []
    assert ended.code == 128 + number
    assert ended.err.startswith(NOTICE)
    line = ended.err.removeprefix(NOTICE)
    assert line.startswith("cvtasks: stopped and saved at step ")
    assert line.endswith(f" of {runs.STEPS}; go on with: cvtasks resume {place}\n")
    assert run(runs.train, "resume", str(place), f"loader.workers={workers}").code == 0
    assert runs.differences(place, unbroken.result) == []


def test_a_second_ctrl_c_stops_at_once_and_the_checkpoint_before_is_kept(unbroken: Unbroken) -> None:
    place = unbroken.place()
    with child(runs.train_saving_slowly, 10, *runs.words(place, workers=2)) as running:
        wait_until(lambda: "saving step 10" in running.out)
        running.signal(signal.SIGINT)
        wait_until(lambda: NOTICE in running.err)
        running.signal(signal.SIGINT)
        ended = running.wait(10)
        assert running.family() == []
    assert (ended.code, ended.err) == (130, NOTICE + "cvtasks: stopped\n")
    again = run(runs.train, "resume", str(place))
    assert "going on from step 5 of" in again.out
    assert runs.differences(place, unbroken.result) == []


@pytest.mark.skipif(
    not FULL, reason="workers look for their parent every five seconds; part of make reliability"
)
def test_workers_do_not_outlive_a_run_that_was_killed(unbroken: Unbroken) -> None:
    place = unbroken.place()
    with child(runs.train, *runs.words(place, workers=2)) as running:
        wait_until(lambda: in_the_middle(place))
        assert len(running.family()) > 2
        running.signal(signal.SIGKILL)
        running.join()
        wait_until(lambda: not running.family(), seconds=30)


@pytest.mark.skipif(not FULL, reason="ten seconds; part of make reliability")
def test_ctrl_c_in_the_command_itself(unbroken: Unbroken) -> None:
    place = unbroken.place()
    process = started(*runs.words(place, workers=2))
    wait_until(lambda: in_the_middle(place))
    process.send_signal(signal.SIGINT)
    assert (
        process.communicate()[1].count("\n") == 3
    )  # the notice, with an empty line before it, and the last line
    assert process.returncode == 130
    went_on = started("resume", str(place))
    assert went_on.communicate()[1] == ""
    assert runs.differences(place, unbroken.result) == []
