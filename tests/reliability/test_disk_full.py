"""A disk that is full at any write of a run: exit code 5 and one line, and what was saved before is as good as it was."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cvtasks.engine import checkpoint as checkpoints

from . import runs
from .amount import FULL, amount
from .children import run
from .conftest import Unbroken
from .faults import FULL as DISK_FULL
from .faults import FULL_ONCE, Fault, train_with

Operations = list[tuple[str, str]]


@pytest.fixture(scope="module")
def operations(unbroken: Unbroken) -> Operations:
    """Each operation on files of a run, with its file."""
    place, journal = unbroken.place(), unbroken.folder.with_name("journal.json")
    assert run(train_with, None, place, journal, *runs.words(place)).code == 0
    return [(operation, file) for operation, file in json.loads(journal.read_text())]


def chosen(operations: Operations, case: int) -> int:
    """The operation of a case: every file has its turn, then every operation on it; which of the equal ones is random."""
    rng = random.Random(0)
    numbers = list(range(len(operations)))
    rng.shuffle(numbers)
    first = {operations[n][1]: n for n in numbers}.values()
    then = {operations[n]: n for n in numbers if n not in first}.values()
    order = [*first, *then, *(n for n in numbers if n not in {*first, *then})]
    return order[case]


@pytest.mark.parametrize("case", range(amount(60)))
def test_a_full_disk_ends_a_run_in_one_line_and_costs_nothing(
    unbroken: Unbroken, operations: Operations, case: int
) -> None:
    """It stays full in every second case; in the others there is room again for the next operation."""
    place, number = unbroken.place(), chosen(operations, case)
    fault = Fault(number, FULL_ONCE if case % 2 else DISK_FULL)
    ended = run(train_with, fault, place, None, *runs.words(place))
    if "events.out" in operations[number][1] and fault.kind == FULL_ONCE:
        assert (ended.code, ended.err) == (0, "")
        assert "TensorBoard's file cannot be written (No space left on device); the run goes on" in ended.out
    else:
        assert ended.code == 5
        assert "the disk is full; what was written before is kept; make room, then " in ended.line
        saved = [file for operation, file in operations[:number] if operation == "replace"]
        content, _ = checkpoints.load_last(place)
        assert (content is None) == ("checkpoints/last.pt" not in saved)
        begun = (place / "config.yaml").exists()
        assert ended.line.endswith(f"cvtasks resume {place}" if begun else "type the same again")
        again = ["resume", str(place)] if begun else runs.words(place)
        assert run(runs.train, *again).code == 0
    assert runs.differences(place, unbroken.result) == []


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_a_full_disk_ends_the_other_verbs_in_one_line(unbroken: Unbroken, tmp_path: Path, verb: str) -> None:
    out, journal = tmp_path / "out", tmp_path / "journal.json"
    photos = unbroken.folder / "plots"
    words = {"eval": [f"run_dir={out}"], "predict": [f"output={out}", f"source={photos}"]}[verb]
    typed = [verb, f"run={unbroken.folder}", *words]
    assert run(train_with, None, out, journal, *typed).code == 0
    number = len(json.loads(journal.read_text()))
    assert number > 5
    for n in range(0, number, 1 if FULL else number // 2):
        shutil.rmtree(out, ignore_errors=True)
        ended = run(train_with, Fault(n, DISK_FULL), out, None, *typed)
        assert ended.code == 5
        assert "the disk is full" in ended.line
    assert runs.differences(unbroken.folder, unbroken.result) == []


def test_output_that_finds_no_room_is_one_line() -> None:
    """What /dev/full says is the kernel's own."""
    with Path("/dev/full").open("w") as full:
        typed = [sys.executable, "-m", "cvtasks", "config", "task=faster_rcnn"]
        ended = subprocess.run(typed, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 5
    assert ended.stderr.startswith("cvtasks: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(not FULL, reason="two real runs; part of make reliability")
def test_a_real_full_disk(unbroken: Unbroken) -> None:
    """A file system of 400 kB, mounted in a name space of its own; enlarged, the run goes on."""
    place = unbroken.place()
    place.mkdir()
    cvtasks = f"OMP_NUM_THREADS=1 '{sys.executable}' -m cvtasks"
    script = f"""
        mount -t tmpfs -o size=400k none '{place}' || exit 77
        {cvtasks} {" ".join(runs.words(place))} 2> '{place}.err'; echo $? > '{place}.code'
        mount -o remount,size=64m '{place}'
        {cvtasks} resume '{place}' || exit 1
        cp -r '{place}' '{place}.copy'"""
    ended = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("no name spaces for mounting here")
    assert ended.returncode == 0, ended.stderr
    copy = place.rename(unbroken.folder.with_name("mount_point")).with_name("run.copy").rename(place)
    assert (Path(f"{place}.code").read_text(), copy) == ("5\n", place)
    said = Path(f"{place}.err").read_text()
    assert said.startswith("cvtasks: ")
    assert said.count("\n") == 1
    assert "the disk is full" in said
    assert runs.differences(place, unbroken.result) == []
