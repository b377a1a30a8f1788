import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cvtasks.engine import checkpoint
from cvtasks.engine.run import Run
from cvtasks.errors import ConfigError, OutOfDiskError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_runs_that_start_in_the_same_second_get_folders_of_their_own() -> None:
    together = threading.Barrier(8)

    def start(_: int) -> Path:
        together.wait()
        with Run.create(None, task="faster_rcnn", dataset="voc") as run:
            return run.folder

    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(start, range(8)))
    assert len(set(folders)) == 8
    assert {f.parent for f in folders} == {Path("runs/faster_rcnn/voc")}


def test_a_folder_that_holds_a_run_is_refused_and_one_stopped_before_its_first_checkpoint_is_not() -> None:
    for _ in range(2):
        with Run.create("r", task="t", dataset="d") as run:
            run.log({"step": 1, "loss": 2.0})
    checkpoint.save_last(Path("r"), {"step": 1})
    with pytest.raises(ConfigError, match=r"run_dir=r holds a run already; go on .* cvtasks resume r"):
        Run.create("r", task="t", dataset="d")


def test_opening_a_run_leaves_its_history_alone() -> None:
    with Run.create("r", task="t", dataset="d") as run:
        run.write_text("config.yaml", "seed: 0\n")
        run.log({"step": 5, "loss": 2.0})
    with Run.open(Path("r")) as run:
        assert lines(run) == [{"step": 5, "loss": 2.0}]
    with pytest.raises(ConfigError, match="nowhere holds no run"):
        Run.open(Path("nowhere"))


def test_the_history_is_cut_at_a_step_and_half_a_line_goes_too() -> None:
    with Run.create("r", task="t", dataset="d") as run:
        for step in (1, 2, 2, 3):
            run.log({"step": step})
    with Path("r/metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    with Run.create("r", task="t", dataset="d") as run:
        run.rewind(2)
        run.log({"step": 3, "again": True})
        assert lines(run) == [{"step": 1}, {"step": 2}, {"step": 2}, {"step": 3, "again": True}]


def test_half_a_line_at_the_end_goes_even_if_no_whole_line_does() -> None:
    with Run.create("r", task="t", dataset="d") as run:
        run.log({"step": 1})
    with Path("r/metrics.jsonl").open("ab") as file:
        file.write(b'{"st\xff')
    with Run.create("r", task="t", dataset="d") as run:
        run.rewind(1)
        assert lines(run) == [{"step": 1}]


def test_numbers_that_json_lacks_are_null() -> None:
    with Run.create("r", task="t", dataset="d") as run:
        run.log({"step": 1, "a": float("nan"), "b": float("inf"), "c": 0.1})
        run.write_json("metrics.json", {"a": float("nan"), "deep": [float("nan"), 1]})
    assert Path("r/metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": 0.1}\n'
    assert json.loads(Path("r/metrics.json").read_text()) == {"a": None, "deep": [None, 1]}


def test_the_log_has_what_was_said_and_what_ended_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with Run.create("r", task="t", dataset="d") as run:
            run.say("12 images")
            raise ConfigError("lr is wrong")

    with pytest.raises(ConfigError):
        fails()
    assert Path("r/train.log").read_text() == "12 images\nConfigError: lr is wrong\n"
    assert capsys.readouterr().out == "12 images\n"


def test_pictures_reach_tensorboard() -> None:
    with Run.create("r", task="t", dataset="d") as run:
        run.picture("predictions", torch.zeros(3, 8, 8, dtype=torch.uint8), 4)
    assert list(Path("r").glob("events.out.*"))


@pytest.fixture
def full() -> Path:
    """A file on which there is never any room: what is written to it fails in the kernel."""
    file = Path("/dev/full")
    if not file.exists():
        pytest.skip("no /dev/full")
    return file


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log", ".metrics.json.tmp"])
def test_a_full_disk_names_file_or_folder_and_how_to_go_on(full: Path, name: str) -> None:
    Path("r").mkdir()
    Path("r", name).symlink_to(full)

    def fails() -> None:
        with Run.create("r", task="t", dataset="d") as run:
            run.write_text("config.yaml", "seed: 0\n")
            run.say("begins")
            run.log({"step": 1})
            run.write_json("metrics.json", {})

    with pytest.raises(OutOfDiskError, match=r"^r[a-z/.]*: the disk is full; .* then cvtasks resume r$"):
        fails()


def test_what_tensorboard_finds_no_room_for_is_told_once_and_ends_no_run(
    full: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda p, *mode, **more: opened(full if "events.out" in p.name else p, *mode, **more)
    )
    with Run.create("r", task="t", dataset="d") as run:
        for step in (1, 2):
            run.log({"step": step, "loss": 1.0})
        run.picture("predictions", torch.zeros(3, 8, 8, dtype=torch.uint8), 2)
        assert [line["step"] for line in lines(run)] == [1, 2]
    assert (
        capsys.readouterr().out.count("TensorBoard's file cannot be written (No space left on device)") == 1
    )


OTHER = """
import os, sys, time
from pathlib import Path
from cvtasks.engine.run import Run
run = Run(Path("r"))
if os.fork() == 0:      # a loader's worker, which lives on for a while
    time.sleep(60)
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no record locks")
def test_a_folder_in_use_is_refused_until_its_process_is_killed_whatever_its_workers_do(
    request: pytest.FixtureRequest,
) -> None:
    root = str(request.config.rootpath)
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER], env={**os.environ, "PYTHONPATH": root}, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not Path("pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(ConfigError, match="r is in use by another process"):
            Run(Path("r"))
        other.kill()
        other.wait()
        with Run(Path("r")):
            pass
    finally:
        os.killpg(other.pid, signal.SIGKILL)
