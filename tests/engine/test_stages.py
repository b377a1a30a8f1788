"""Training in stages: whatever ends a run, wherever in its stages, it ends with the unbroken run's bits."""

import json
import math
import os
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cvtasks.engine import checkpoint, optim
from cvtasks.engine.evaluation import predicted
from cvtasks.engine.loop import State
from cvtasks.engine.precision import Precision
from cvtasks.errors import Interrupted, WeightsError
from cvtasks.types import Batch, Task

from .regression import FP32, IMAGES, ErrorEvaluator, make_batch, stream
from .staged import ENDS, STEPS, Cascade, staged_task, train_staged
from .test_loop import Killed, content, killed_after, lines


def load(folder: Path, name: str = checkpoint.LAST) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / name)


def resume_of(folder: Path) -> Any:
    return checkpoint.load_last(folder)[0]


def predictions_killed_after(batches: int) -> Callable[[Iterable[Batch]], Iterator[Batch]]:
    """Ends a run as a kill would, while a stage reads the predictions that it begins with."""

    def watched(stream: Iterable[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(stream):
            if number == batches:
                raise Killed
            yield batch

    return watched


def saved_at(steps: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """What a run saves as its last checkpoint at these steps."""
    saved: dict[int, dict[str, Any]] = {}
    save_last = checkpoint.save_last

    def keep(folder: Path, content: dict[str, Any]) -> None:
        save_last(folder, content)
        if content["step"] in steps:
            saved[content["step"]] = load(folder)

    monkeypatch.setattr(checkpoint, "save_last", keep)
    return saved


def scored(scores: Sequence[float]) -> Task:
    """Evaluation n gives the n-th score."""

    class Scores(ErrorEvaluator):
        def compute(self) -> dict[str, float]:
            return {"fit/score": next(values)}

    values = iter(scores)
    return replace(staged_task(), evaluator=Scores())


# Stages end at steps 6, 10 and 13; evaluations at 4, 6, 8, 10, 12, 13; checkpoints every 2. Each stage after the first
# begins with the predictions of six batches.
@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adamw"},
        {"ema": 0.9},
        {"precision": Precision("fp16", FP32.device)},
    ],
    ids=["sgd", "adamw", "ema", "fp16"],
)
@pytest.mark.parametrize(
    "kills",
    [
        [{"batches": killed_after(0)}],
        [{"batches": killed_after(5)}],
        [{"batches": killed_after(6)}],  # after the second stage has begun, before its first step
        [{"on_predict": predictions_killed_after(0)}],
        [{"on_predict": predictions_killed_after(4)}, {"on_predict": predictions_killed_after(5)}],
        [{"batches": killed_after(7)}],
        [{"batches": killed_after(9)}, {"batches": killed_after(9)}, {"batches": killed_after(11)}],
        [{"batches": killed_after(10)}, {"on_predict": predictions_killed_after(3)}],
        [{"batches": killed_after(12)}],
    ],
    ids=["first", "in 1", "border", "predict", "predict twice", "in 2", "thrice", "border predict", "in 3"],
)
def test_a_run_killed_anywhere_in_its_stages_ends_as_the_unbroken_one(
    tmp_path: Path, kills: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    train_staged(tmp_path / "unbroken", **more)
    broken = tmp_path / "broken"
    for kill in kills:
        with pytest.raises(Killed):
            train_staged(broken, resume=resume_of(broken), **kill, **more)
        torch.rand(7)  # the state of the process's random numbers must not matter
    train_staged(broken, resume=resume_of(broken), **more)

    assert content(broken) == content(tmp_path / "unbroken")
    assert content(broken, checkpoint.BEST) == content(tmp_path / "unbroken", checkpoint.BEST)
    histories = [(f / "metrics.jsonl").read_bytes() for f in (broken, tmp_path / "unbroken")]
    assert histories[0] == histories[1]


def test_a_stage_trains_its_part_alone_with_an_optimizer_and_a_schedule_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = saved_at(ENDS, monkeypatch)
    train_staged(tmp_path, log_every=1, shares=(1, 1, 1), max_steps=12, checkpoint_every=1, eval_every=4)
    saved |= {12: load(tmp_path)}
    assert [line["stage"] for line in lines(tmp_path) if "lr" in line] == [
        f"stage {n}" for n in (1, 2, 3) for _ in range(4)
    ]
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert rates[:4] == rates[4:8] == rates[8:]  # four steps each, and the same half cosine over them
    assert rates[3] == pytest.approx(0.05 * (1 + math.cos(0.75 * math.pi)) / 2)

    # At step 6 two steps of the second stage are done, at step 10 two of the third.
    for end, stage in ((6, 1), (10, 2)):
        own = [name for name in saved[end]["model"] if name.startswith(f"parts.{stage}.")]
        trained = {"shared", *(n for n in own if "running" not in n and "batches" not in n)}
        assert set(saved[end]["trained"]) == trained
        assert len(saved[end]["optimizer"]["state"]) == len(trained)
        assert saved[end]["scheduler"]["last_epoch"] == 2
    before, after = saved[6]["model"], saved[12]["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if name.startswith("parts.0.")]  # its running statistics neither
    assert {"shared", "parts.1.head.weight", "parts.2.head.weight", "parts.2.norm.running_mean"} <= moved


def test_a_stage_begins_with_what_the_one_before_says_of_all_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Worked out from the checkpoint at the end of the first stage: its average is what was judged, and what goes on.
    saved, task = saved_at([6], monkeypatch), staged_task()
    train_staged(tmp_path, task=task, ema=0.5)
    assert task.model.seen == [[], list(range(IMAGES)), list(range(IMAGES))]
    judged, model = saved[6]["ema"], Cascade()
    assert not torch.equal(judged["parts.0.head.weight"], saved[6]["model"]["parts.0.head.weight"])
    model.load_state_dict(judged)
    model.eval()
    batch = make_batch(range(IMAGES))
    with torch.no_grad():
        errors = model(batch.images) - batch.label
    torch.testing.assert_close(task.model.errors[1], torch.stack([errors.mean(), errors.std()]))
    last = load(tmp_path)
    for weights in (last["model"], last["ema"]):
        assert torch.equal(weights["parts.0.head.weight"], judged["parts.0.head.weight"])


def test_the_average_of_the_weights_begins_anew_with_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a stage's first step it is 9/11 of the step's weights: an average that went on would have moved by 8/18.
    saved = saved_at([6, 7], monkeypatch)
    train_staged(tmp_path, ema=0.999, checkpoint_every=1, lr=0.5)
    name = "shared"  # trains in both stages
    began = saved[6]["ema"][name]
    expected = began + (saved[7]["model"][name] - began) * 9 / 11
    torch.testing.assert_close(saved[7]["ema"][name], expected)
    assert saved[7]["model"][name] != began


def test_the_best_is_judged_within_its_stage_and_another_stage_takes_its_place(tmp_path: Path) -> None:
    # Evaluations at 4, 6 | 8, 10 | 12, 13: the best of all is the first stage's.
    state = train_staged(tmp_path, task=scored([0.9, 0.8, 0.1, 0.3, 0.5, 0.4]))
    assert (state.best, state.best_step) == (0.5, 12)
    best = load(tmp_path, checkpoint.BEST)
    assert (best["step"], best["stage"], int(best["model"]["number"])) == (12, 2, 2)


def test_a_run_stopped_before_a_stages_first_evaluation_can_be_judged(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_staged(tmp_path, batches=killed_after(7), checkpoint_every=1)
    last, best = load(tmp_path), load(tmp_path, checkpoint.BEST)
    assert (last["step"], last["stage"], best["stage"]) == (7, 1, 0)
    model = Cascade()
    model.load_state_dict(best["model"])
    assert model.stage == 0
    assert len(model.predict(make_batch([0, 1]))) == 2


def test_patience_counts_within_a_stage_and_ends_the_run(tmp_path: Path) -> None:
    # One evaluation before and one after a border are not two in a row: the best of the stage before is no measure.
    scores = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
    state = train_staged(tmp_path / "whole", task=scored(scores), patience=2)
    assert (state.step, state.stage) == (13, 2)
    state = train_staged(tmp_path / "cut", task=scored(scores), patience=2, eval_every=2)
    assert (state.step, state.stage, state.stale) == (6, 0, 2)
    found = load(tmp_path / "cut")
    assert found["stage"] == 0
    state = train_staged(tmp_path / "cut", task=scored(scores * 2), resume=found)
    assert (state.step, state.stage) == (13, 2)


def test_a_signal_while_a_stage_begins_is_obeyed_at_once(tmp_path: Path) -> None:
    # Of a network's features of all regions of all images, the reading takes hours.
    asked = list[int]()

    def signalled(batches: Iterable[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            asked.append(number)
            yield batch

    train_staged(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    with pytest.raises(Interrupted, match="saved at step 6 of 13"):
        train_staged(broken, on_predict=signalled)
    assert asked == [0, 1, 2]
    train_staged(broken, resume=resume_of(broken))
    assert content(broken) == content(tmp_path / "unbroken")


def test_the_clock_goes_on_through_all_stages_and_each_line_names_its_own(tmp_path: Path) -> None:
    asked: list[int] = []

    def batches(first: int) -> Iterator[Batch]:
        for number, batch in enumerate(stream(first), first):
            asked.append(number)
            yield batch

    train_staged(tmp_path, batches=batches)
    assert asked == list(range(13))
    judged = [(line["step"], line["stage"]) for line in lines(tmp_path) if "fit/score" in line]
    assert judged == [
        (4, "stage 1"), (6, "stage 1"), (8, "stage 2"), (10, "stage 2"), (12, "stage 3"), (13, "stage 3"),
    ]  # fmt: skip
    log = (tmp_path / "train.log").read_text()
    assert "step 6: stage 2 begins, and ends with step 10" in log
    assert "train 13/13 steps" in log
    assert ", stage 3, loss " in log


def test_the_losses_of_two_stages_are_never_averaged_into_one_line(tmp_path: Path) -> None:
    train_staged(tmp_path, log_every=4)
    assert [line["step"] for line in lines(tmp_path) if "lr" in line] == [4, 6, 8, 10, 12, 13]


@pytest.mark.parametrize("shares", [(1, 0, 1), (1, 1, 0), (0, 1, 1)])
def test_a_stage_without_steps_begins_is_judged_and_saved(tmp_path: Path, shares: tuple[int, ...]) -> None:
    task = staged_task()
    state = train_staged(tmp_path, task=task, shares=shares, max_steps=8, eval_every=100)
    assert (state.step, state.stage) == (8, 2)
    assert len(task.model.seen) == 3
    judged = [(line["step"], line["stage"]) for line in lines(tmp_path) if "fit/score" in line]
    ends = {(1, 0, 1): (4, 4, 8), (1, 1, 0): (4, 8, 8), (0, 1, 1): (0, 4, 8)}[shares]
    assert judged[-2:] == [(ends[1], "stage 2"), (ends[2], "stage 3")]
    last = load(tmp_path)
    assert (last["step"], last["stage"], int(last["model"]["number"])) == (8, 2, 2)
    assert load(tmp_path, checkpoint.BEST)["stage"] == 2


@pytest.mark.parametrize("dies_after", ["the line", "best.pt", "last.pt"])
def test_a_kill_in_a_stage_without_steps_leaves_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: str
) -> None:
    # Its lines have the step of the stage before, so the step alone does not tell which ones are to be dropped.
    settings: dict[str, Any] = {"shares": (1, 0, 1), "max_steps": 8}
    train_staged(tmp_path / "unbroken", **settings)
    save, broken = checkpoint.save, tmp_path / "broken"

    def save_and_die(path: Path, content: dict[str, Any], **more: Any) -> None:
        if content["stage"] == 1 and dies_after == "the line":
            raise Killed
        save(path, content, **more)
        if content["stage"] == 1 and dies_after == path.name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(Killed):
            train_staged(broken, **settings)
    train_staged(broken, resume=resume_of(broken), **settings)
    assert content(broken) == content(tmp_path / "unbroken")
    histories = [(tmp_path / f / "metrics.jsonl").read_bytes() for f in ("broken", "unbroken")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("stages", [2, 4])
def test_a_checkpoint_of_another_number_of_stages_is_refused_in_one_line(tmp_path: Path, stages: int) -> None:
    train_staged(tmp_path)
    with pytest.raises(WeightsError) as caught:
        train_staged(tmp_path, task=staged_task(stages), shares=None, resume=resume_of(tmp_path))
    others = ", ".join(f"stage {n}" for n in range(1, stages + 1))
    assert str(caught.value) == (
        f"the checkpoint is of other stages (stage 1, stage 2, stage 3; the model has {others}); resume without task="
    )


def test_a_checkpoint_that_claims_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(WeightsError, match="of other stages"):
        State.of({"step": 1, "stage": 3, "stages": ["a", "b"]}, ("a", "b"))
    with pytest.raises(WeightsError, match="of other stages"):
        State.of({"step": 1, "stage": 1})


def test_predictions_are_made_as_they_are_read_and_leave_the_reader_its_modes() -> None:
    asked: list[Any] = []

    def batches() -> Iterator[Batch]:
        for ids in ([3, 1], [2, 0]):
            asked.append(ids)
            yield make_batch(ids, truth=True)

    model = Cascade()
    model.train()
    torch.manual_seed(3)
    pairs = predicted(model, batches(), precision=FP32)
    assert asked == []
    numbers = torch.get_rng_state()
    batch, found = next(pairs)
    assert (asked, batch.image_ids, len(found)) == ([[3, 1]], [3, 1], 2)
    assert model.parts[0].training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), numbers)
    model.eval()
    torch.testing.assert_close(torch.stack([p["value"] for p in found]), model(batch.images))  # no dropout
    assert not found[0]["value"].requires_grad
    assert [batch.image_ids for batch, _ in pairs] == [[2, 0]]


def test_a_stage_that_asks_for_no_predictions_costs_none(tmp_path: Path) -> None:
    class Indifferent(Cascade):
        def begin_stage(self, index: int, predictions: Any, folder: Path | None = None) -> None:
            super().begin_stage(index, iter(()))

    task = staged_task()
    task = replace(task, model=Indifferent())
    train_staged(tmp_path, task=task, on_predict=predictions_killed_after(0))
    assert load(tmp_path)["stage"] == 2


def test_gradients_and_optimizer_of_a_stage_that_is_done_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd, built, alive, task = optim.sgd, list[Any](), list[int](), staged_task()

    def watched_sgd(*args: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer = sgd(*args, **options)
        built.append(weakref.ref(optimizer))
        return optimizer

    def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
        alive.append(sum(optimizer() is not None for optimizer in built))
        yield from batches

    monkeypatch.setattr(optim, "sgd", watched_sgd)
    train_staged(tmp_path, task=task, on_predict=watched)
    assert (len(built), alive) == (3, [0, 0])
    held = {name for name, p in task.model.named_parameters() if p.grad is not None}
    assert held
    assert not [name for name in held if name.startswith(("parts.0.", "parts.1."))]


def test_the_history_of_a_staged_run_is_json_with_the_stage_in_words(tmp_path: Path) -> None:
    train_staged(tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["stage"].startswith("stage ")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "stage" not in events.Tags()["scalars"]
    assert [e.step for e in events.Scalars("fit/score")] == [4, *(s for s in (6, 8, 10, 12, 13))]


def test_minutes_are_those_of_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that advances by ten seconds whenever it is read, three times in a step.
    from cvtasks.engine import loop

    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    state = train_staged(tmp_path, max_minutes=4)
    assert (state.stage, ENDS[0] < state.step < ENDS[1]) == (1, True)
    found = load(tmp_path)
    assert found["seconds"] >= 240
    assert load(tmp_path, checkpoint.BEST)["step"] == state.step
    resumed = train_staged(tmp_path, resume=found)
    assert (resumed.step, resumed.stage) == (STEPS["max_steps"], 2)
