import json
import math
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import checkpoint
from cvtasks.engine.evaluation import evaluate
from cvtasks.engine.loop import schedule_length
from cvtasks.engine.precision import Precision
from cvtasks.errors import ConfigError, Interrupted, NonFiniteLossError, WeightsError
from cvtasks.types import Batch

from .regression import FP32, Regressor, held_out, make_task, stream, train

FP16 = Precision("fp16", torch.device("cpu"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flat(value: Any) -> list[Any]:
    """The leaves of a checkpoint, tensors as bytes: equal lists are equal bits."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in ([key], *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    return [value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value)]


def content(folder: Path, name: str = checkpoint.LAST) -> list[Any]:
    """Of a checkpoint, all but how long it took."""
    loaded = checkpoint.load(folder / "checkpoints" / name)
    return flat({k: v for k, v in loaded.items() if k not in ("seconds", "training")})


class Killed(Exception):
    pass


def killed_after(steps: int) -> Any:
    """A stream that ends the run as a kill would: nothing is saved after it."""

    def batches(first: int) -> Iterator[Batch]:
        for number, batch in enumerate(stream(first), first):
            if number == steps:
                raise Killed
            yield batch

    return batches


def test_training_learns_and_says_where_it_ended(tmp_path: Path) -> None:
    task = make_task(dropout=0.0)
    state = train(tmp_path, task=task, max_steps=200, eval_every=20, lr=0.1)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert losses[-1] < 0.05 * losses[0]
    scores = {line["step"]: line["fit/score"] for line in lines(tmp_path) if "fit/score" in line}
    assert state.step == 200
    assert (state.best_step, state.best) == max(scores.items(), key=lambda item: item[1])
    assert state.metrics["fit/score"] == scores[200]
    assert state.seconds > 0
    best = checkpoint.load(tmp_path / "checkpoints" / checkpoint.BEST)
    assert best["step"] == state.best_step


def test_the_logged_loss_is_the_weighted_mean_of_all_steps_since_the_last_line(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Regressor):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            values = super().losses(batch)
            if self.training:
                seen.append((values["fit"] + 0.5 * values["sampled"]).item())
            return values

    train(tmp_path, task=make_task(Watched()), max_steps=7)
    logged = {line["step"]: line["loss"] for line in lines(tmp_path) if "loss" in line}
    assert logged == pytest.approx({3: sum(seen[:3]) / 3, 6: sum(seen[3:6]) / 3, 7: seen[6]})


# Evaluation at 4, 8, 12, ...; an epoch is 3 steps; log lines at 3, 6, ...; checkpoints every 2.
@pytest.mark.parametrize(
    "more",
    [{"optimizer": "sgd"}, {"optimizer": "adamw"}, {"ema": 0.9}, {"precision": FP16}],
    ids=["sgd", "adamw", "ema", "fp16"],
)
@pytest.mark.parametrize(
    "kills", [[0], [1], [5], [6], [4, 7], [12], [9, 9, 9]], ids=lambda k: "-".join(map(str, k))
)
def test_a_killed_and_resumed_run_equals_the_unbroken_one_bit_for_bit(
    tmp_path: Path, kills: list[int], more: dict[str, Any]
) -> None:
    settings = {"max_steps": 13, "eval_every": 4, "checkpoint_every": 2} | more
    train(tmp_path / "unbroken", **settings)
    broken = tmp_path / "broken"
    for steps in kills:
        resume, _ = checkpoint.load_last(broken)
        with pytest.raises(Killed):
            train(broken, resume=resume, batches=killed_after(steps), **settings)
        torch.rand(steps)  # the state of the process's random numbers must not matter
    resume, warning = checkpoint.load_last(broken)
    assert warning is None
    train(broken, resume=resume, **settings)

    assert content(broken) == content(tmp_path / "unbroken")
    assert content(broken, checkpoint.BEST) == content(tmp_path / "unbroken", checkpoint.BEST)
    histories = [(f / "metrics.jsonl").read_bytes() for f in (broken, tmp_path / "unbroken")]
    assert histories[0] == histories[1]


def test_a_run_resumed_with_accumulation_asks_for_the_right_batch(tmp_path: Path) -> None:
    settings = {"max_steps": 6, "checkpoint_every": 1, "accumulate": 2}
    train(tmp_path / "unbroken", **settings)
    with pytest.raises(Killed):
        train(tmp_path / "broken", batches=killed_after(7), **settings)  # in the middle of step 4
    train(tmp_path / "broken", resume=checkpoint.load_last(tmp_path / "broken")[0], **settings)
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    before = content(tmp_path), (tmp_path / "metrics.jsonl").read_bytes()
    state = train(tmp_path, resume=checkpoint.load_last(tmp_path)[0])
    assert state.step == 10
    assert (content(tmp_path), (tmp_path / "metrics.jsonl").read_bytes()) == before


def test_a_damaged_last_checkpoint_is_resumed_from_the_one_before(tmp_path: Path) -> None:
    settings = {"max_steps": 8, "checkpoint_every": 2, "eval_every": 4}
    train(tmp_path / "unbroken", **settings)
    train(tmp_path / "broken", **settings)
    last = tmp_path / "broken" / "checkpoints" / checkpoint.LAST
    last.write_bytes(last.read_bytes()[:500])
    resume, warning = checkpoint.load_last(tmp_path / "broken")
    assert resume is not None
    assert resume["step"] == 6
    assert warning is not None
    assert "cut short" in warning
    assert "going on from last.previous.pt, step 6" in warning
    train(tmp_path / "broken", resume=resume, **settings)
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")


def test_resuming_with_another_model_is_one_line(tmp_path: Path) -> None:
    train(tmp_path)
    resume, _ = checkpoint.load_last(tmp_path)
    with pytest.raises(WeightsError, match="of another model or optimizer"):
        train(tmp_path, resume=resume, task=make_task(norm=False))
    with pytest.raises(WeightsError, match="of another model or optimizer"):
        train(tmp_path, resume=resume, task=make_task(nn.Linear(1, 1)))


def test_two_accumulated_batches_equal_one_of_twice_the_size(tmp_path: Path) -> None:
    # The mean loss alone: a sampled one draws differently in two batches than in one.
    def make() -> Any:
        task = make_task(dropout=0.0, norm=False)
        return replace(task, loss_weights={"fit": 1.0, "sampled": 0.0})

    halves, whole = make(), make()
    train(tmp_path / "halves", task=halves, accumulate=2, batches=lambda n: stream(n, batch_size=2))
    train(tmp_path / "whole", task=whole, batches=lambda n: stream(n, batch_size=4))
    for a, b in zip(halves.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    # The first step of SGD moves the weights by lr x gradient; the decay of 1e-4 is lost in the 1 %.
    norms: list[float] = []

    class Steep(Regressor):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {name: 1e4 * value for name, value in super().losses(batch).items()}

    for clip in (0.5, 1e9):
        task = make_task(Steep())
        before = [p.detach().clone() for p in task.model.parameters()]
        train(tmp_path / str(clip), task=task, max_steps=1, clip_norm=clip, lr=1.0)
        moved = [b - p.detach() for b, p in zip(before, task.model.parameters(), strict=True)]
        norms.append(float(torch.cat([m.flatten() for m in moved]).norm()))
    assert norms[0] == pytest.approx(0.5 * 1.0, rel=0.01)  # a run of one step has no warm-up
    assert norms[1] > 100


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"fit": 1.0}, "no weight for the loss sampled"),
        ({"fit": 1.0, "sampled": 1.0, "box": 1.0}, "box is no loss of this model"),
    ],
)
def test_losses_and_weights_must_have_the_same_names(
    tmp_path: Path, weights: dict[str, float], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        train(tmp_path, task=replace(make_task(), loss_weights=weights))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_term_rate_and_images(tmp_path: Path, bad: float) -> None:
    # Step 8 is bad; it is seen at the log line of step 9. The checkpoint of step 5 must be the last.
    class Breaks(Regressor):
        steps = 0

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            self.steps += self.training
            values = super().losses(batch)
            return values | {"sampled": values["sampled"] + (bad if self.steps == 8 else 0.0)}

    batches = stream(7)
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path, task=make_task(Breaks()))
    text = str(caught.value)
    images = ", ".join(map(str, next(batches).image_ids))
    assert text.startswith(f"step 8: the loss sampled is {bad} (learning rate ")
    assert f"images {images})" in text
    assert "\n" not in text
    assert f"; the batch is kept in {tmp_path / 'not_finite.pt'}; " in text
    kept = checkpoint.load(tmp_path / "not_finite.pt")
    assert kept["step"] == 8
    [replayed] = [Batch(**fields) for fields in kept["batches"]]
    assert torch.equal(replayed.images, next(stream(7)).images)
    logged = next(line["lr"] for line in lines(tmp_path) if line["step"] == 6)
    assert f"{logged:.3g}" not in text.split("images")[0]  # the rate of step 8, not of the last log line
    last = checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)
    assert last["step"] == 5
    assert all(w.isfinite().all() for w in last["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    # The loss is finite and its gradient is not (the root of zero), in the very step that is saved.
    class Breaks(Regressor):
        steps = 0

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            self.steps += self.training
            values = super().losses(batch)
            root = (self.head.bias * 0).sum().sqrt() if self.steps == 10 else 0.0
            return values | {"fit": values["fit"] + root}

    with pytest.raises(NonFiniteLossError, match=r"step 10: the weights .* are no longer finite"):
        train(tmp_path, task=make_task(Breaks()))
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)["step"] == 5


def test_a_monitor_that_is_no_metric_is_said_and_training_goes_on(tmp_path: Path) -> None:
    state = train(tmp_path, task=replace(make_task(), monitor="fit/scroe"))
    assert state.step == 10
    assert state.best is None
    assert "task.monitor=fit/scroe is not among the metrics" in (tmp_path / "train.log").read_text()
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.BEST)["step"] == 10


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, number: int, code: int
) -> None:
    def interrupted(first: int) -> Iterator[Batch]:
        for n, batch in enumerate(stream(first), first):
            if n == 6:
                os.kill(os.getpid(), number)
                if number == signal.SIGTERM:
                    os.kill(os.getpid(), number)  # as `timeout` does
            yield batch

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as caught:
        train(tmp_path / "broken", batches=interrupted)
    assert caught.value.exit_code == code
    assert str(caught.value) == (
        f"stopped and saved at step 7 of 10; go on with: cvtasks resume {tmp_path / 'broken'}"
    )
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    train(tmp_path / "unbroken")
    train(tmp_path / "broken", resume=checkpoint.load_last(tmp_path / "broken")[0])
    assert content(tmp_path / "broken") == content(tmp_path / "unbroken")
    histories = [(tmp_path / f / "metrics.jsonl").read_bytes() for f in ("broken", "unbroken")]
    assert histories[0] == histories[1]


def test_a_signal_during_the_evaluation_is_obeyed_after_it(tmp_path: Path) -> None:
    class Signalled(Regressor):
        def predict(self, batch: Batch) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().predict(batch)

    with pytest.raises(Interrupted, match="saved at step 5 of 10"):
        train(tmp_path, task=make_task(Signalled()))
    assert checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)["step"] == 5


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def impatient(first: int) -> Iterator[Batch]:
        for batch in stream(first):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, batches=impatient)
    assert checkpoint.load_last(tmp_path) == (None, None)


def test_evaluation_leaves_modes_and_random_numbers_as_they_were_and_repeats() -> None:
    task = make_task()
    task.model.train()
    task.model.norm.eval()  # frozen
    before, numbers = torch.get_rng_state(), (random.getstate(), np.random.get_state()[1].tolist())
    mean = task.model.norm.running_mean.clone()
    first = evaluate(task, held_out(), precision=FP32)
    assert torch.equal(torch.get_rng_state(), before)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == numbers
    assert [task.model.training, task.model.norm.training, task.model.dropout.training] == [True, False, True]
    assert torch.equal(task.model.norm.running_mean, mean)
    assert all(p.grad is None for p in task.model.parameters())
    torch.rand(3)
    second = evaluate(task, held_out(), precision=FP32)
    assert second["val/loss"] == first["val/loss"]
    assert second["val/loss/sampled"] == first["val/loss/sampled"]


def test_validation_losses_are_weighted_and_averaged_over_images() -> None:
    # By hand: batches of 3 and 2 images; the mean over batches would give (a + b) / 2.
    task = make_task(dropout=0.0)
    task.model.eval()
    values = [task.model.losses(b)["fit"].item() for b in held_out()]
    metrics = evaluate(task, held_out(), precision=FP32)
    assert metrics["val/loss/fit"] == pytest.approx((3 * values[0] + 2 * values[1]) / 5)
    expected = metrics["val/loss/fit"] + 0.5 * metrics["val/loss/sampled"]
    assert metrics["val/loss"] == pytest.approx(expected)
    assert "val/loss" not in evaluate(task, held_out(), precision=FP32, losses=False)


def test_bf16_trains_with_weights_and_losses_in_fp32(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(Regressor):
        def forward(self, images: Tensor) -> Tensor:
            result = super().forward(images)
            seen.append(result.dtype)
            return result

    task = make_task(Watched())
    train(tmp_path, task=task, max_steps=2, precision=Precision("bf16", torch.device("cpu")))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in task.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 100}, (100, 25, 25)),  # an epoch is 25 steps: not more often than that
        ({"max_steps": 1000}, (1000, 200, 200)),  # five times
        ({"max_steps": 10, "eval_every": 3, "checkpoint_every": 2}, (10, 3, 2)),
        ({"max_epochs": 2.5}, (63, 25, 25)),
        ({"max_epochs": 2, "accumulate": 5}, (10, 5, 5)),
        ({"max_epochs": 2, "max_steps": 7}, (7, 25, 25)),
    ],
)
def test_epochs_become_steps_once(settings: dict[str, Any], expected: tuple[int, int, int]) -> None:
    clock = schedule_length(EngineConfig(**settings), images=100, batch_size=4)
    assert (clock.max_steps, clock.eval_every, clock.checkpoint_every) == expected


def test_a_run_without_a_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_steps"):
        schedule_length(EngineConfig(), images=100, batch_size=4)


def test_tensorboard_has_the_losses_metrics_rate_and_throughput(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss", "loss/fit", "lr", "images_per_s", "val/loss", "fit/score"} <= names
    assert [e.step for e in events.Scalars("loss")] == [3, 6, 9, 10]
