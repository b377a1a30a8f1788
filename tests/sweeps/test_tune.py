"""`cvtasks tune`: what is searched how, that it goes on, and that the hopeless is ended."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cvtasks.cli import main
from cvtasks.config.multirun import Jobs
from cvtasks.config.ranges import Range, ranges
from cvtasks.errors import ConfigError
from cvtasks.sweeps import process
from cvtasks.sweeps.tune import evaluations

TUNE = ("tune", "-cd", "conf", "task=fated", "run_dir=S")


def space(*words: str) -> list[Range]:
    flags = argparse.Namespace(config_name=None, config_dir="conf")
    return ranges(Jobs("train", flags, ["task=fated", *words]))[0]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("interval(1e-4,1e-1)", Range("x", "float", 1e-4, 1e-1, log=True)),
        ("interval(0.001,0.1)", Range("x", "float", 0.001, 0.1, log=True)),
        ("interval(0.002,0.1)", Range("x", "float", 0.002, 0.1)),
        ("interval(0.0,0.1)", Range("x", "float", 0.0, 0.1)),
        ("tag(log,interval(0.01,0.1))", Range("x", "float", 0.01, 0.1, log=True)),
        ("tag(linear,interval(1e-4,1e-1))", Range("x", "float", 1e-4, 1e-1)),
        ("interval(2,16)", Range("x", "float", 2, 16)),
        ("int(interval(2,16))", Range("x", "int", 2, 16)),
        ("int(interval(1,1000))", Range("x", "int", 1, 1000, log=True)),
        ("choice(a,b)", Range("x", "choice", choices=("a", "b"))),
        ("1,2", Range("x", "choice", choices=("1", "2"))),
        ("range(1,6,2)", Range("x", "choice", choices=("1", "3", "5"))),
    ],
)
def test_a_range_is_read_as_hydra_writes_it(typed: str, found: Range) -> None:
    assert space(f"x={typed}") == [found]


@pytest.mark.parametrize(
    "typed", ["interval(2,1)", "tag(log,interval(0,1))", "tag(lgo,interval(1,2))", "interval(1,1)"]
)
def test_a_range_that_cannot_be_searched_is_told(typed: str) -> None:
    with pytest.raises(ConfigError, match="x="):
        space(f"x={typed}")


def trainings(
    monkeypatch: pytest.MonkeyPatch,
    loss: Callable[[float], Sequence[float]],
    codes: Mapping[int, int] | None = None,
) -> list[list[str]]:
    """Jobs end at once, and leave the losses of their evaluations; the command lines, as they are started."""
    started: list[list[str]] = []

    class Training:
        pid = 2**22 + 1
        stdout = ()

        def __init__(self, words: list[str], environment: Any) -> None:
            number = len(started)
            started.append(words)
            typed = dict(word.split("=", 1) for word in words if "=" in word)
            folder = Path((typed.get("run_dir") or typed["run"]).strip('"'))
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            values = loss(float(typed.get("task.size", 1)))
            lines = [json.dumps({"step": 10 * n, "val/loss": value}) for n, value in enumerate(values, 1)]
            (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "lo')
            (folder / "metrics.json").write_text(json.dumps({"val/loss": values[-1]}))
            self.code = (codes or {}).get(number, 0)
            self.left = 3 if len(values) > 1 and values[-1] > 1e6 else 0  # lives on for a while

        def poll(self) -> int | None:
            self.left -= 1
            return None if self.left > 0 else self.code

        def send_signal(self, number: int) -> None:
            self.left, self.code = 0, 128 + number

    monkeypatch.setattr(process, "start", Training)
    return started


def table() -> list[dict[str, Any]]:
    return json.loads(Path("S/sweep.json").read_text())["jobs"]


def sizes(started: Sequence[Sequence[str]]) -> list[float]:
    return [float(word.split("=")[1]) for words in started for word in words if word.startswith("task.size=")]


def test_it_finds_the_lowest_loss_and_types_the_best_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    started = trainings(monkeypatch, lambda size: [math.log10(size / 0.01) ** 2])
    words = [*TUNE, "task.size=interval(1e-4,1e+1)", "trials=14"]
    assert main(words) == 0
    tried = sizes(started)
    assert len(set(tried)) == 14
    assert min(tried) < 1e-2 < 1e-1 < max(tried)  # by their logarithm
    best = min(tried, key=lambda size: abs(math.log10(size / 0.01)))
    assert float(table()[0]["changed"]["task.size"]) == best
    line = next(line for line in capsys.readouterr().out.splitlines() if "cvtasks train" in line)
    assert line.split() == ["cvtasks", "train", "--config-dir", "conf", "task=fated", f"task.size={best}"]
    assert Path("S/search.png").stat().st_size > 1000

    assert main(words) == 0
    assert len(started) == 14
    assert main([*words[:-1], "trials=16"]) == 0  # more of the same search
    assert len(set(sizes(started))) == 16

    again = trainings(monkeypatch, lambda size: [math.log10(size / 0.01) ** 2])
    assert main([*words[:-1], "trials=3", "run_dir=T"]) == 0
    assert sizes(again) == tried[:3]  # one seed, one search


def test_what_failed_is_tried_again_and_what_diverged_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    started = trainings(monkeypatch, lambda size: [size], {1: 9, 2: 3})
    words = [*TUNE, "task.size=interval(0.5,1.5)", "trials=4"]
    assert main(words) == 1
    assert "1 of the sweep's jobs failed: job 1 (task.size=" in capsys.readouterr().err
    assert main(words) == 0
    assert len(started) == 5
    assert sizes(started)[4] == sizes(started)[1]
    assert sorted(job["state"] for job in table()) == ["diverged", "done", "done", "done"]


def test_a_hopeless_trial_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    bad: list[float] = []

    def loss(size: float) -> list[float]:
        bad.append(size)
        return [1.0, 1.0] if len(bad) < 7 else [1e9, 1e9]

    trainings(monkeypatch, loss)
    monkeypatch.setattr("cvtasks.sweeps.runner.LOOK", 0.0)
    assert main([*TUNE, "task.size=interval(0.5,1.5)", "trials=7"]) == 0
    assert [(job["state"], job["code"]) for job in table()][-1] == ("pruned", 143)
    bad.clear()
    assert main([*TUNE, "task.size=interval(0.5,1.5)", "trials=7", "pruning=false", "run_dir=T"]) == 0
    assert [job["state"] for job in json.loads(Path("T/sweep.json").read_text())["jobs"]] == ["done"] * 7


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task.size=interval(1,2)", "trials=0"], "trials: expected an integer of at least 1, not 0"),
        (["task.size=interval(1,2)", "trails=3"], "there is no setting trails"),
        (["task.size=1"], "tune needs a range: type KEY=interval(LOW,HIGH)"),
        (["task.szie=interval(1,2)"], "there is no setting task.szie; did you mean task.size or"),
        (["loader.batch_size=interval(1,4)"], "loader.batch_size: expected an integer of at least 1"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr: expected a number above 0, not -1"),
        (["backbone=choice(tiny,resnet81)"], "there is no backbone resnet81; did you mean"),
    ],
)
def test_mistakes_are_found_before_the_first_trial(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(process, "start", lambda *_: pytest.fail("a trial was started"))
    assert main([*TUNE, *words]) == 2
    assert line in capsys.readouterr().err
    assert not Path("S").exists()


def test_without_optuna_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*TUNE, "task.size=interval(1,2)"]) == 2
    line = capsys.readouterr().err
    assert line == "cvtasks: cvtasks tune needs Optuna, which is not installed: pip install 'cvtasks[tune]'\n"


def test_half_a_line_and_another_metric_are_no_evaluations(tmp_path: Path) -> None:
    assert list(evaluations(tmp_path, "a/b")) == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "lr": 1}\n{"step": 2, "a/b": 0.5}\n{"step": 3, "a/b": null}\n{"st'
    )
    assert list(evaluations(tmp_path, "a/b")) == [(2, 0.5)]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_real_search_ends_a_real_training() -> None:
    """The eight bad ones last a minute each if nobody ends them."""
    pytest.importorskip("optuna")
    words = ["task.size=choice(1,2,3,4,5,6,90,91)", "task.pause=0.5", "engine.max_steps=12", "trials=10"]
    assert main([*TUNE, *words, "engine.eval_every=1"]) == 0
    assert {"done", "pruned"} == {job["state"] for job in table()}
