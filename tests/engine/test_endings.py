"""A run that ends before its last step: no better for long, or out of time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import checkpoint, loop
from cvtasks.engine.loop import Clock, State
from cvtasks.types import Task

from .regression import ErrorEvaluator, make_task, train
from .test_loop import content


def scored(scores: Sequence[float]) -> Task:
    """Evaluation n gives the n-th score."""

    class Scores(ErrorEvaluator):
        def compute(self) -> dict[str, float]:
            return {"fit/score": next(values)}

    values = iter(scores)
    task = make_task()
    return Task(task.name, task.model, Scores(), task.requires, task.monitor, task.loss_weights)


@pytest.mark.parametrize(
    ("scores", "end", "best"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.9], 8, 4),  # two evaluations after the best, an equal one among them
        ([0.1, 0.3, 0.2, 0.4, 0.3, 0.3], 12, 8),  # a better one starts the count anew
        ([float("nan"), float("nan"), 0.1, 0.0, 0.0], 10, 6),  # NaN is no score to fall behind
    ],
)
def test_patience_counts_evaluations_since_the_best(
    tmp_path: Path, scores: list[float], end: int, best: int
) -> None:
    state = train(tmp_path, task=scored(scores), max_steps=40, eval_every=2, patience=2)
    assert (state.step, state.best_step) == (end, best)
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)["step"] == end
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.BEST)["step"] == best


def test_a_run_that_patience_ended_goes_on_without_it_to_the_unbroken_end(tmp_path: Path) -> None:
    scores = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
    train(tmp_path / "broken", task=scored(scores), eval_every=2, patience=2)
    resume, _ = checkpoint.load_last(tmp_path / "broken")
    assert resume is not None
    assert resume["step"] == 6
    train(tmp_path / "broken", task=scored(scores[3:]), eval_every=2, resume=resume)
    train(tmp_path / "unbroken", task=scored(scores), eval_every=2)
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")
    histories = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("broken", "unbroken")]
    assert histories[0] == histories[1]


def test_a_run_out_of_time_evaluates_saves_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that is read three times in a step, and advances by ten seconds each time.
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    state = train(tmp_path, max_steps=100, eval_every=50, max_minutes=2)
    assert 1 < state.step < 6
    assert state.seconds >= 120
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [set(r) & {"lr", "fit/score"} for r in records[-2:]] == [{"lr"}, {"fit/score"}]
    assert records[-1]["step"] == state.step
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.BEST)["step"] == state.step


@pytest.mark.parametrize(
    ("state", "engine", "said"),
    [
        ({"step": 10}, {}, "10 of 10 steps; engine.max_steps=N goes on"),
        ({"step": 4, "stale": 3}, {"patience": 3}, "engine.patience=null goes on"),
        ({"step": 4, "seconds": 60.0}, {"max_minutes": 1}, "engine.max_minutes=null goes on"),
        ({"step": 4, "stale": 2, "seconds": 59.0}, {"patience": 3, "max_minutes": 1}, None),
    ],
)
def test_a_finished_run_says_why_and_how_to_go_on(
    state: dict[str, Any], engine: dict[str, Any], said: str | None
) -> None:
    found = State(**state).finished(Clock(10, 5, 5, 3.0), EngineConfig(**engine))
    assert found is None if said is None else found is not None and said in found
