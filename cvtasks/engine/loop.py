"""The training loop, for every task family: one clock (steps), named collaborators, no hooks.

What a step draws at random is a function of (seed, step), and the stream of batches can begin anywhere: together
they make a resumed run equal to an unbroken one, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.interrupt import Interrupt
from cvtasks.engine.precision import Precision
from cvtasks.engine.progress import Progress
from cvtasks.engine.run import Run
from cvtasks.engine.seeding import derive, seed_all, seed_torch
from cvtasks.errors import ConfigError, Interrupted, NonFiniteLossError, WeightsError
from cvtasks.types import Batch, ImageId, Task

EVALUATIONS = 5
"""How often a run evaluates if `engine.eval_every` does not say."""
CHECKPOINT_EVERY = 1000
"""Steps that a kill may cost if `engine.checkpoint_every` does not say: a long run evaluates far less often."""


@dataclass(frozen=True)
class Clock:
    """All times of a run in optimizer steps."""

    max_steps: int
    eval_every: int
    checkpoint_every: int
    steps_per_epoch: float


def schedule_length(cfg: EngineConfig, *, images: int, batch_size: int) -> Clock:
    """Turn epochs into steps, once. Raises ConfigError where neither length is given."""
    steps_per_epoch = images / (batch_size * cfg.accumulate)
    if cfg.max_steps is not None:
        max_steps = cfg.max_steps
    elif cfg.max_epochs is not None:
        max_steps = max(1, math.ceil(cfg.max_epochs * steps_per_epoch))
    else:
        raise ConfigError("how long to train is not said: set engine.max_steps=N or engine.max_epochs=N")
    # An evaluation costs about as much as a pass over the training data: not more often than once an epoch.
    eval_every = cfg.eval_every or max(math.ceil(max_steps / EVALUATIONS), math.ceil(steps_per_epoch))
    checkpoint_every = cfg.checkpoint_every or min(eval_every, CHECKPOINT_EVERY)
    return Clock(max_steps, eval_every, checkpoint_every, steps_per_epoch)


@dataclass
class Step:
    """What is remembered of a step until the next log line."""

    number: int
    lr: float
    images: list[ImageId]
    losses: Tensor
    """float32 [terms], on the device"""


@dataclass
class State:
    """Where a run stands; all of it is in a checkpoint."""

    step: int = 0
    best: float | None = None
    """The monitored metric of best.pt; None as long as it is not a number"""
    best_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation"""
    seconds: float = 0.0
    """Time spent in `fit`, also before a resume"""
    window: list[Step] = field(default_factory=list)
    """The steps since the last log line"""

    def improved(self, score: float) -> bool:
        """Note the score of this step if it is the best so far."""
        if self.best is not None and not score > self.best:
            return False
        self.best, self.best_step = (None if math.isnan(score) else score), self.step
        return True


def fit(
    task: Task,
    batches: Callable[[int], Iterator[Batch]],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    cfg: EngineConfig,
    run: Run,
    *,
    clock: Clock,
    precision: Precision,
    seed: int,
    evaluate_now: Callable[[int], Mapping[str, float]],
    about: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
) -> State:
    """Train until `clock.max_steps`; write metrics and checkpoints into `run`; return where it ended.

    batches: the endless stream of batches from batch n on.
    evaluate_now: evaluates the model as it is at a step.
    about: what every checkpoint says of the run (task, classes, config): plain values.
    resume: the content of a checkpoint of this run.

    Raises ConfigError for a loss without a weight, NonFiniteLossError, and Interrupted after Ctrl-C or SIGTERM, when
    the run is saved.
    """
    model, terms = task.model, Terms(task.loss_weights, precision.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    state = State() if resume is None else _restore(resume, model, optimizer, scheduler, precision.device)
    run.rewind(state.step)
    stream = batches(state.step * cfg.accumulate)
    began, images, busy = time.perf_counter() - state.seconds, 0, 0.0
    model.train()

    with (
        Interrupt() as interrupt,
        Progress(clock.max_steps, title="train", unit="step", initial=state.step, say=run.say) as progress,
    ):
        while state.step < clock.max_steps:
            step_began = time.perf_counter()
            seed_all(seed, "step", state.step)
            optimizer.zero_grad(set_to_none=True)
            losses, ids = [], []
            for _ in range(cfg.accumulate):
                batch = next(stream).to(precision.device)
                with precision.autocast():
                    values = terms.stack(model.losses(batch))
                (terms.total(values) / cfg.accumulate).backward()
                losses.append(values.detach())
                ids += batch.image_ids
            if cfg.clip_norm is not None:
                nn.utils.clip_grad_norm_(trained, cfg.clip_norm)
            optimizer.step()
            state.step += 1
            lr = optimizer.param_groups[0]["lr"]
            state.window.append(Step(state.step, lr, ids, torch.stack(losses).mean(0)))
            scheduler.step()

            ends = state.step == clock.max_steps
            if log_now := ends or state.step % cfg.log_every == 0:
                record = terms.record(_read(state.window, terms).mean(0))
                state.window = []
            images, busy = images + len(ids), busy + time.perf_counter() - step_began
            if log_now:
                run.log({"step": state.step, "epoch": state.step / clock.steps_per_epoch, "lr": lr, **record})
                run.scalars(state.step, {"images_per_s": images / busy})
                progress.status(f"{terms.line(record)}, {images / busy:.1f} images/s")
                images, busy = 0, 0.0
            progress.advance()

            improved = False
            if evaluate_due := ends or state.step % clock.eval_every == 0:
                state.metrics = dict(evaluate_now(state.step))
                run.log({"step": state.step, **state.metrics})
                if task.monitor not in state.metrics:
                    run.say(
                        f"task.monitor={task.monitor} is not among the metrics {', '.join(state.metrics)}"
                    )
                improved = state.improved(state.metrics.get(task.monitor, math.nan))
            stop = interrupt.received is not None
            state.seconds = time.perf_counter() - began
            if stop or evaluate_due or state.step % clock.checkpoint_every == 0:
                content = {**about, **_content(state, model, optimizer, scheduler, terms)}
                if improved:
                    checkpoints.save(run.checkpoints / checkpoints.BEST, content)
                checkpoints.save_last(run.folder, content)
            if stop and not ends:
                raise Interrupted(
                    f"stopped and saved at step {state.step} of {clock.max_steps}; go on with: cvtasks resume {run.folder}",
                    exit_code=interrupt.exit_code,
                )
    return state


def evaluate(
    task: Task,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    losses: bool = True,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The evaluator's numbers, and the losses as `val/loss` and `val/loss/<term>`.

    Leaves the evaluator filled, and the model's modes and torch's random state as they were.
    """
    model, terms = task.model, Terms(task.loss_weights, precision.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    task.evaluator.reset()
    total, images = torch.zeros(len(terms.names), dtype=torch.float64), 0
    with (
        torch.random.fork_rng([precision.device] if precision.device.type == "cuda" else []),
        torch.no_grad(),
    ):
        for number, batch in enumerate(batches):
            truth, batch = batch.truth, batch.to(precision.device)
            assert truth is not None, "evaluation needs the truth"
            # Every evaluation draws the same anchors and proposals.
            seed_torch(derive(0, "evaluate", number))
            with precision.autocast():
                predictions = model.predict(batch)
                if losses:
                    total += terms.stack(model.losses(batch)).cpu() * len(batch)
            task.evaluator.update(predictions, truth)
            images += len(batch)
            if progress is not None:
                progress.advance(len(batch))
    for module, training in modes.items():
        module.training = training
    metrics = task.evaluator.compute()
    if losses and images:
        metrics |= {f"val/{name}": value for name, value in terms.record(total / images).items()}
    return metrics


class Terms:
    """The terms of a multitask loss, in the order of their weights."""

    def __init__(self, weights: Mapping[str, float], device: torch.device) -> None:
        self.names, self.weights = tuple(weights), tuple(float(w) for w in weights.values())
        # Copied once: a copy in every step would wait for the device.
        self._weights = torch.tensor(self.weights, device=device)

    def stack(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The raw losses as one tensor, float32 [terms]. Raises ConfigError where losses and weights differ."""
        if losses.keys() != set(self.names):
            missing = [f"no weight for the loss {name}" for name in losses if name not in self.names]
            unused = [f"{name} is no loss of this model" for name in self.names if name not in losses]
            raise ConfigError(
                f"task.loss_weights: {', '.join(missing + unused)}; its losses are {', '.join(losses)}"
            )
        return torch.stack([losses[name].float() for name in self.names])

    def total(self, values: Tensor) -> Tensor:
        """The weighted sum of [terms]."""
        return (values * self._weights).sum()

    def record(self, values: Tensor) -> dict[str, float]:
        """`loss` (weighted) and `loss/<term>` (raw) of values on the host."""
        numbers = values.tolist()
        total = sum(w * v for w, v in zip(self.weights, numbers, strict=True))
        return {"loss": total} | {f"loss/{n}": v for n, v in zip(self.names, numbers, strict=True)}

    def line(self, record: Mapping[str, float]) -> str:
        """`loss 0.812 (rpn_box 0.101, ...)`"""
        terms = ", ".join(f"{name} {record[f'loss/{name}']:.3f}" for name in self.names)
        return f"loss {record['loss']:.3f} ({terms})" if len(self.names) > 1 else f"loss {record['loss']:.3f}"


def _read(window: list[Step], terms: Terms) -> Tensor:
    """The losses [steps, terms] on the host: the one place of a step that waits for the device.

    Raises NonFiniteLossError for the first step with a NaN or an infinity.
    """
    losses = torch.stack([step.losses for step in window]).cpu()
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        value = losses[row, column].item()
        raise _not_finite(window[row], f"the loss {terms.names[column]} is {value}")
    return losses


def _content(
    state: State, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, terms: Terms
) -> dict[str, Any]:
    """What a checkpoint holds of the training itself. Raises NonFiniteLossError: no checkpoint is worth less."""
    if state.window:
        _read(state.window, terms)
    weights = model.state_dict()
    finite = torch.stack([w.isfinite().all() for w in weights.values()])
    if not finite.all():
        name = list(weights)[int(finite.int().argmin())]
        step = Step(state.step, optimizer.param_groups[0]["lr"], [], torch.empty(0))
        raise _not_finite(step, f"the weights {name} are no longer finite")
    window = [vars(step) | {"losses": step.losses.cpu()} for step in state.window]
    return vars(state) | {
        "window": window,
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def _restore(
    content: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
) -> State:
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        scheduler.load_state_dict(content["scheduler"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"the checkpoint is of another model or optimizer ({reason}); resume without task=, backbone= and optimizer="
        ) from None
    window = [Step(**step | {"losses": step["losses"].to(device)}) for step in content["window"]]
    return State(**{name: content[name] for name in vars(State())} | {"window": window})


def _not_finite(step: Step, what: str) -> NonFiniteLossError:
    images = f", images {', '.join(map(str, step.images))}" if step.images else ""
    return NonFiniteLossError(
        f"step {step.number}: {what} (learning rate {step.lr:.3g}{images}); "
        "try a lower optimizer.lr, engine.clip_norm=10, or engine.precision=fp32"
    )
