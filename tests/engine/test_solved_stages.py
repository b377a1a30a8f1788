"""Stages that are solved and not descended: no steps, no optimizer, and features that outlive a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cvtasks.engine import checkpoint
from cvtasks.engine.evaluation import predicted
from cvtasks.engine.loop import FEATURES
from cvtasks.engine.stages import begin_stage, no_predictions, stage_shares
from cvtasks.errors import ConfigError
from cvtasks.types import Batch, Prediction, Task

from .regression import FP32, IMAGES, Regressor, make_batch, make_task, train
from .test_loop import Killed, content, killed_after, lines
from .test_stages import load, predictions_killed_after, resume_of

SETTINGS: dict[str, Any] = {"max_steps": 6, "eval_every": 3, "checkpoint_every": 2}


class Solved(Regressor):
    """After its network has learnt, a shift of what it says is solved for, and then a factor."""

    shift: Tensor
    factor: Tensor
    number: Tensor
    stages = ("network", "shift", "factor")
    solved = ("shift", "factor")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("factor", torch.ones(()))
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.computed: list[Any] = []
        """The images whose values were not in the folder"""

    @property
    def stage(self) -> int:
        return int(self.number)

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> list[str]:
        self.number.fill_(index)
        if index == 0:
            return []
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        self.requires_grad_(False)
        self.folder = folder
        values, labels = list[Tensor](), list[Tensor]()
        for batch, found in predictions:
            for image, each in zip(batch.image_ids, found, strict=True):
                (folder / f"{image}.txt").write_text(repr(float(each["features"])))
                values.append(each["features"])
            assert batch.label is not None
            labels.append(batch.label)
        value, label = torch.stack(values), torch.cat(labels)
        if index == 1:
            self.shift.copy_((label - value).mean())
        else:
            self.factor.fill_(
                float((label * (value + self.shift)).sum() / (value + self.shift).square().sum())
            )
        return [f"solved with {len(values)} images"]

    def collect(self, batch: Batch) -> list[Prediction]:
        files = [self.folder / f"{image}.txt" for image in batch.image_ids]
        if all(file.exists() for file in files):
            return [{"features": torch.tensor(float(file.read_text()))} for file in files]
        self.computed += batch.image_ids
        return [{"features": each["value"]} for each in super().predict(batch)]

    def predict(self, batch: Batch) -> list[Prediction]:
        return [{"value": (each["value"] + self.shift) * self.factor} for each in super().predict(batch)]


def solved_task() -> Task:
    torch.manual_seed(5)
    return make_task(Solved())


def train_solved(folder: Path, task: Task | None = None, **more: Any) -> Any:
    return train(folder, task=task or solved_task(), **SETTINGS | more)


def test_a_solved_stage_takes_no_steps_and_no_optimizer(tmp_path: Path) -> None:
    task = solved_task()
    state = train_solved(tmp_path, task)
    assert (state.step, state.stage) == (6, 2)
    judged = [(line["step"], line["stage"]) for line in lines(tmp_path) if "fit/score" in line]
    assert judged == [(3, "network"), (6, "network"), (6, "shift"), (6, "factor")]
    last = load(tmp_path)
    assert (last["optimizer"], last["scheduler"], last["trained"]) == ({}, {}, [])
    assert float(last["model"]["shift"]) != 0
    assert float(last["model"]["factor"]) != 1
    assert "solved with" in (tmp_path / "train.log").read_text()  # what a stage has to say


def test_training_seconds_are_those_of_steps_and_solved_stages_and_no_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("cvtasks.engine.loop.time.perf_counter", lambda: now[0])

    def taking(seconds: float, method: Any) -> Any:
        def slower(*args: Any) -> Any:
            now[0] += seconds
            return method(*args)

        return slower

    task = solved_task()
    model: Any = task.model
    model.losses = taking(1, model.losses)
    model.begin_stage = taking(100, model.begin_stage)
    model.predict = taking(10_000, model.predict)
    train_solved(tmp_path, task)
    last = load(tmp_path)
    assert last["training"] == 6 * 1 + 2 * 100
    evaluation = last["seconds"] - last["training"]
    assert evaluation > 0
    assert evaluation % 10_001 == 0  # each batch is predicted, and has losses


def test_features_are_collected_once_for_all_stages_and_gone_at_the_end(tmp_path: Path) -> None:
    task = solved_task()
    train_solved(tmp_path / "one", task)
    assert task.model.computed == list(range(IMAGES))
    assert not (tmp_path / "one" / FEATURES).exists()
    train_solved(tmp_path / "two", keep_features=True)
    assert len(list((tmp_path / "two" / FEATURES).iterdir())) == IMAGES


@pytest.mark.parametrize(
    ("kill", "left"),
    [
        ({"on_predict": predictions_killed_after(4)}, IMAGES - 8),  # batches of two
        ({"batches": killed_after(5)}, IMAGES),
    ],
)
def test_a_run_killed_while_it_solves_goes_on_with_what_it_has(
    tmp_path: Path, kill: dict[str, Any], left: int
) -> None:
    train_solved(tmp_path / "unbroken")
    with pytest.raises(Killed):
        train_solved(tmp_path / "broken", **kill)
    task = solved_task()
    train_solved(tmp_path / "broken", task, resume=resume_of(tmp_path / "broken"))
    assert len(task.model.computed) == left
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")
    assert content(tmp_path / "broken", checkpoint.BEST) == content(tmp_path / "unbroken", checkpoint.BEST)
    histories = [(tmp_path / f / "metrics.jsonl").read_bytes() for f in ("broken", "unbroken")]
    assert histories[0] == histories[1]


def test_a_run_killed_between_two_solved_stages_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_solved(tmp_path / "unbroken")
    save_last = checkpoint.save_last

    def save_and_die(folder: Path, saved: dict[str, Any]) -> None:
        save_last(folder, saved)
        if saved["stage"] == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_last", save_and_die)
        with pytest.raises(Killed):
            train_solved(tmp_path / "broken")
    assert (tmp_path / "broken" / FEATURES).exists()
    state = train_solved(tmp_path / "broken", resume=resume_of(tmp_path / "broken"))
    assert state.stage == 2
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


def test_a_checkpoint_of_any_stage_predicts_with_what_is_done(tmp_path: Path) -> None:
    saved = dict[int, dict[str, Any]]()

    def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
        last = load(tmp_path)
        saved[last["stage"]] = last["model"]
        yield from batches

    train_solved(tmp_path, on_predict=watched)
    saved[2] = load(tmp_path)["model"]
    batch, values = make_batch([0, 1]), list[Tensor]()
    for stage in range(3):
        model = Solved()
        model.load_state_dict(saved[stage])
        model.eval()
        assert model.stage == stage
        values.append(torch.stack([p["value"] for p in model.predict(batch)]).detach())
    torch.testing.assert_close(values[1], values[0] + saved[1]["shift"])
    torch.testing.assert_close(values[2], values[1] * saved[2]["factor"])


def test_an_average_of_the_weights_is_what_is_solved_for(tmp_path: Path) -> None:
    train_solved(tmp_path, ema=0.9)
    last = load(tmp_path)
    assert all(torch.equal(last["ema"][name], value) for name, value in last["model"].items())


def test_collect_takes_the_place_of_predict() -> None:
    model = solved_task().model.eval()
    model.folder = Path("nowhere")
    ((_, found),) = predicted(model, [make_batch([0, 1])], precision=FP32)
    assert [set(each) for each in found] == [{"features"}] * 2


def test_shares_are_none_for_what_is_solved_and_none_may_be_given() -> None:
    assert stage_shares(Solved(), None) == (1, 0, 0)
    assert stage_shares(Solved(), [3, 0, 0]) == (3, 0, 0)
    with pytest.raises(ConfigError, match="gives steps to the stage factor, which is solved; its share is 0"):
        stage_shares(Solved(), [1, 0, 1])


def test_a_finished_run_that_ends_solved_does_not_say_that_more_steps_go_on(tmp_path: Path) -> None:
    train_solved(tmp_path)
    state = train_solved(tmp_path, max_steps=20, resume=resume_of(tmp_path))
    assert state.step == 6


def test_a_model_that_has_nothing_to_say_says_nothing() -> None:
    assert begin_stage(Regressor(), 0, no_predictions(), seed=0) == []
    assert begin_stage(replace(solved_task()).model, 0, no_predictions(), seed=0) == []
