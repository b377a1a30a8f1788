"""50 kills at random moments, 30 within an operation on files, 50 while saving: nothing is lost, nothing differs.

What is compared with the unbroken run, byte for byte and bit for bit: weights, their average, optimizer, schedule, metrics
and predictions (`runs.result`).
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from cvtasks.engine import checkpoint as checkpoints

from . import runs
from .amount import FULL, amount
from .children import child, run, started, wait_until
from .conftest import Unbroken
from .faults import KILL, Fault, train_with


def typed(folder: Path, workers: int = 0) -> list[str]:
    """What a user types after a kill: the same again where there is no run yet, else resume."""
    if not (folder / "config.yaml").exists():
        return runs.words(folder, workers=workers)
    return ["resume", str(folder), f"loader.workers={workers}"]


def finish(folder: Path, unbroken: Unbroken, workers: int = 0) -> str:
    """Go on to the end, compare, and return what was said."""
    ended = run(runs.train, *typed(folder, workers))
    assert (ended.code, ended.err) == (0, "")
    assert runs.differences(folder, unbroken.result) == []
    return ended.out


@pytest.mark.parametrize("number", range(amount(50)))
def test_a_kill_at_a_random_moment_changes_nothing(unbroken: Unbroken, number: int) -> None:
    """With 0, 1 and 2 workers, now and then twice or three times in a row."""
    rng, place, workers = random.Random(number), unbroken.place(), number % 3
    for _ in range(rng.choice([1, 1, 2, 3])):
        with child(runs.train, *typed(place, workers)) as running:
            running.join(rng.uniform(0, unbroken.seconds))
            running.signal(signal.SIGKILL)
    finish(place, unbroken, rng.randrange(3))


@pytest.fixture(scope="module")
def operations(unbroken: Unbroken) -> int:
    """How many operations on files a run is made of."""
    place, journal = unbroken.place(), unbroken.folder.with_name("journal.json")
    assert run(train_with, None, place, journal, *runs.words(place)).code == 0
    assert runs.differences(place, unbroken.result) == []
    return len(json.loads(journal.read_text()))


@pytest.mark.parametrize("number", range(amount(30)))
def test_a_kill_within_an_operation_on_files_changes_nothing(
    unbroken: Unbroken, operations: int, number: int
) -> None:
    place, rng = unbroken.place(), random.Random(number)
    ended = run(train_with, Fault(rng.randrange(operations), KILL), place, None, *runs.words(place))
    assert ended.code == -signal.SIGKILL
    finish(place, unbroken)


@pytest.mark.parametrize("number", range(amount(50)))
def test_a_kill_while_saving_leaves_a_checkpoint(tmp_path: Path, number: int) -> None:
    with child(runs.save_for_ever, tmp_path) as running:
        wait_until((tmp_path / "checkpoints" / checkpoints.PREVIOUS).exists)
        time.sleep(random.Random(number).uniform(0, 0.1))
        running.signal(signal.SIGKILL)
        running.join()
    content, _ = checkpoints.load_last(tmp_path)
    assert content is not None
    assert (content["model"] == content["step"]).all()


# Checkpoints are written at 5, 10, 12, 15, 20 and 24. An epoch is two and a half steps: one ends at 5, and none at 12.
@pytest.mark.parametrize(
    "steps",
    [[5, 10], [0], [5], [12], [0, 0, 20], [runs.STEPS]][: 6 if FULL else 1],
    ids=lambda steps: "-".join(map(str, steps)),
)
def test_a_kill_behind_a_checkpoint_changes_nothing(unbroken: Unbroken, steps: list[int]) -> None:
    place = unbroken.place()
    for step in steps:
        assert run(runs.train_killed, step, *typed(place)).code == -signal.SIGKILL
    finish(place, unbroken)
    assert "is finished: 24 of 24 steps" in finish(place, unbroken)


@pytest.mark.parametrize("damage", ["cut", "flipped"] if FULL else ["flipped"])
def test_a_damaged_last_checkpoint_is_told_and_the_one_before_it_taken(
    unbroken: Unbroken, damage: str
) -> None:
    place = unbroken.place()
    assert run(runs.train_killed, 15, *typed(place)).code == -signal.SIGKILL
    last = place / "checkpoints" / checkpoints.LAST
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    last.write_bytes(content if damage == "flipped" else content[:-1000])
    said = finish(place, unbroken).splitlines()
    warnings = [line for line in said if "going on from last.previous.pt, step 12" in line]
    assert len(warnings) == 1
    assert ("cut short" if damage == "cut" else "damaged") in warnings[0]


@pytest.mark.parametrize("workers", [0, 1, 2] if FULL else [2])
def test_a_killed_command_resumed_by_command_equals_the_unbroken_one(
    unbroken: Unbroken, workers: int
) -> None:
    """Nothing is forked, shortened or patched here: two processes as a user starts them."""
    place = unbroken.place()
    began = started(*typed(place, workers))
    lines = 4 + 3 * workers
    wait_until(lambda: (place / "metrics.jsonl").exists() and count_lines(place / "metrics.jsonl") >= lines)
    began.kill()
    assert began.wait() == -signal.SIGKILL
    went_on = started(*typed(place, workers))
    assert went_on.communicate()[1] == ""
    assert went_on.returncode == 0
    assert runs.differences(place, unbroken.result) == []


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")
