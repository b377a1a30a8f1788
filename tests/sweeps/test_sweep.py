"""Sweeps: what one job suffers costs that job alone, and the same command does what is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cvtasks.cli import main
from cvtasks.sweeps import process

TRAIN = ("train", "-m", "-cd", "conf", "task=fated")
Capture = pytest.CaptureFixture[str]


def jobs(folder: str = "S") -> list[dict[str, Any]]:
    """As the table has them."""
    return json.loads(Path(folder, "sweep.json").read_text())["jobs"]


def states(folder: str = "S") -> dict[int, str]:
    return {job["number"]: job["state"] for job in sorted(jobs(folder), key=lambda job: job["number"])}


@pytest.mark.usefixtures("forked")
def test_every_failure_costs_its_own_job_and_the_same_command_does_what_is_left(capsys: Capture) -> None:
    fates = "none,exit,bug,diverge,'kill once'"
    words = [*TRAIN, f"task.fate={fates}", "run_dir=S"]
    assert main(words) == 1
    assert states() == {0: "done", 1: "failed", 2: "failed", 3: "diverged", 4: "failed"}
    assert {job["number"]: job["code"] for job in jobs()} == {0: 0, 1: 9, 2: 1, 3: 3, 4: -9}
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("cvtasks: 4 of the sweep's jobs failed: job 1 (task.fate=exit): exit code 9: ")
    assert "job 2 (task.fate=bug): exit code 1: KeyError: 'a bug'; log: S/2_task.fate-bug.log" in line
    assert "exit code 3: step 3: the loss" in line
    assert "exit code -9: killed by SIGKILL, as the system does when memory runs out" in line
    assert "Traceback" in Path("S/2_task.fate-bug.log").read_text()

    metrics = Path("S/0_task.fate-none/metrics.jsonl").stat().st_mtime_ns
    assert main([*words[:-2], "task.fate=none,diverge,'kill once'", "run_dir=S"]) == 1
    printed = capsys.readouterr().out
    assert "S: 1 of 3 jobs are done" in printed
    assert "job 1 again: task.fate=diverge" in printed
    assert "job 2 goes on: task.fate=kill once" in printed
    assert states() == {0: "done", 1: "diverged", 2: "done"}
    assert Path("S/0_task.fate-none/metrics.jsonl").stat().st_mtime_ns == metrics
    assert "going on from step 2 of 4" in Path("S/4_task.fate-kill_once.log").read_text()
    assert (
        "step 3: the loss" in Path("S/3_task.fate-diverge.log").read_text().rpartition("$ cvtasks train")[2]
    )


@pytest.mark.usefixtures("forked")
def test_the_table_is_best_first_and_two_jobs_run_at_once(capsys: Capture) -> None:
    words = [*TRAIN, "task.size=3,1,2", "task.pause=0.1", "sweep.jobs=2"]
    assert main(words) == 0
    (folder,) = Path("runs/sweeps").iterdir()
    assert [job["changed"]["task.size"] for job in jobs(str(folder))] == [
        "1",
        "2",
        "3",
    ]  # of losses the lowest
    assert [round(job["value"], 3) for job in jobs(str(folder))] == [1, 4, 9]
    assert (
        Path(folder, "sweep.csv").read_text().splitlines()[0] == "job,task.size,val/loss,seconds,state,folder"
    )
    assert Path(folder, "sweep.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert printed.index("job 1: task.size=1") < printed.index("job 0 done")
    assert "| job | task.size | val/loss |" in printed

    assert main([*words[:-1], "sweep.jobs=1"]) == 0  # how it is run is no part of what it is
    assert f"{folder}: 3 of 3 jobs are done" in capsys.readouterr().out
    assert list(Path("runs/sweeps").iterdir()) == [folder]


@pytest.mark.usefixtures("forked")
def test_what_stops_the_sweep_stops_its_jobs_behind_a_checkpoint_and_it_goes_on(capsys: Capture) -> None:
    words = [*TRAIN, "seed=1,2", "task.pause=0.3", "engine.eval_every=4", "run_dir=S"]

    def interrupt() -> None:
        while not Path("S/0_seed-1/checkpoints/last.pt").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = main(words)
    thread.join()
    assert code == 143
    assert "stopped: 0 of 2 jobs are done; the same command goes on: S" in capsys.readouterr().err
    assert states() == {0: "stopped", 1: "waiting"}
    assert main([*words, "task.pause=0.3"]) == 0
    assert "going on from step" in Path("S/0_seed-1.log").read_text()
    assert states() == {0: "done", 1: "done"}


def test_a_mistake_in_any_job_is_found_before_the_first_one_starts(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "start", lambda *_: pytest.fail("a job was started"))
    assert main([*TRAIN, "task.size=1,2,big"]) == 2
    assert "task.size: expected a number, not 'big'" in capsys.readouterr().err
    assert main([*TRAIN, "seed=1,2", "sweep.job=2"]) == 2
    assert "there is no setting sweep.job; did you mean sweep.jobs?" in capsys.readouterr().err
    assert main([*TRAIN, "seed=1,2", "sweep.jobs=0"]) == 2
    assert "sweep.jobs: expected an integer of at least 1" in capsys.readouterr().err
    assert not Path("runs/sweeps").exists() or list(Path("runs/sweeps").iterdir()) == []


def test_a_file_of_ones_own_may_say_what_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(process, "start", lambda words, _: started.append(words) or Ended())
    Path("conf/experiment").mkdir()
    text = "# @package _global_\nhydra: {sweeper: {params: {seed: '1,2', task.size: '3,4'}}}\n"
    Path("conf/experiment/grid.yaml").write_text(text)
    assert main([*TRAIN, "experiment=grid", "run_dir=S"]) == 0
    assert [Path(job["place"]).name for job in jobs()] == [
        f"{n}_seed-{seed}_task.size-{size}" for n, (seed, size) in enumerate([(1, 3), (1, 4), (2, 3), (2, 4)])
    ]
    assert [words[0] for words in started] == ["train"] * 4
    assert {"seed=2", "task.size=4", 'run_dir="S/3_seed-2_task.size-4"'} <= set(started[3])


def test_equal_jobs_are_one_and_what_another_sweep_did_in_the_folder_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(process, "start", lambda words, _: started.append(words) or Ended(words))
    assert main([*TRAIN, "seed=1,1,2", "run_dir=S"]) == 0
    assert len(started) == 2
    assert main([*TRAIN, "seed=3,2,1", "run_dir=S"]) == 0
    assert [next(w for w in words if w.startswith("seed=")) for words in started[2:]] == ["seed=3"]
    assert "S: 2 of 3 jobs are done" in capsys.readouterr().out
    assert (
        main([*TRAIN, "seed=3,2,1", "task.size=2", "run_dir=S"]) == 0
    )  # the same names, other configurations
    assert len(started) == 6
    assert len({word for words in started for word in words if word.startswith("run_dir=")}) == 6


def test_cores_and_devices_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    assert process.environment(0, at_once=1, devices=None) == {}
    assert process.environment(1, at_once=3, devices=None) == {"OMP_NUM_THREADS": "2"}
    assert process.environment(3, at_once=4, devices=[0, 5])["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # whoever says it himself is right
    assert process.environment(1, at_once=3, devices=None) == {}


def test_a_job_is_an_interpreter_that_sees_the_modules_that_we_see(home: Path) -> None:
    """The one test here that starts one as a sweep does."""
    Path("elsewhere").mkdir()
    Path("elsewhere/hydra.py").write_text("raise SystemExit('the wrong hydra')")
    os.chdir("elsewhere")  # where `python -m` would look first
    running = process.Process(["train", "taks=fated"], home / "log", {})
    assert running.end(120) == 2
    assert running.why(2) == "there is no setting taks; did you mean task?"
    assert (home / "log").read_text().splitlines() == [
        "$ cvtasks train taks=fated",
        "cvtasks: there is no setting taks; did you mean task?",
    ]


class Ended:
    """A job that did nothing, well."""

    pid = 2**22 + 1
    stdout: tuple[str, ...] = ()

    def __init__(self, words: list[str] | None = None) -> None:
        for word in words or []:
            if word.startswith("run_dir="):
                Path(word.removeprefix("run_dir=").strip('"')).mkdir(parents=True)

    def poll(self) -> int:
        return 0

    def send_signal(self, number: int) -> None: ...
