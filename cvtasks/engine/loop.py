"""The training loop, for every task family: one clock (steps), named collaborators, no hooks.

What a step draws at random is a function of (seed, step), and the stream of batches can begin anywhere: together
they make a resumed run equal to an unbroken one, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.direction import lower_is_better
from cvtasks.engine.distributed import ALONE, Processes
from cvtasks.engine.interrupt import Interrupt
from cvtasks.engine.learner import Learner
from cvtasks.engine.precision import Precision
from cvtasks.engine.progress import Progress
from cvtasks.engine.run import Run
from cvtasks.engine.seeding import seed_all
from cvtasks.engine.stages import begin_stage, no_predictions, restore_trained, stage_names
from cvtasks.engine.window import Window
from cvtasks.errors import ConfigError, Interrupted, WeightsError
from cvtasks.types import Batch, Prediction, Task

EVALUATIONS = 5
"""How often a run evaluates if `engine.eval_every` does not say."""
FEATURES = "features"
"""Of a run's folder: what the stages of a model keep"""
CHECKPOINT_EVERY = 1000
"""Steps that a kill may cost if `engine.checkpoint_every` does not say: a long run evaluates far less often."""


@dataclass(frozen=True)
class Clock:
    """All times of a run in optimizer steps."""

    max_steps: int
    eval_every: int
    checkpoint_every: int
    steps_per_epoch: float
    shares: tuple[float, ...] = (1.0,)
    """Each stage's share of the steps"""

    def stage_end(self, stage: int, began: int) -> int:
        """The step that ends a stage, if it began at a step: what was left then is shared by it and those after it.

        So a run that is made longer spares the stages that are done. A stage with a share has at least one step.
        """
        left = self.shares[stage:]
        if not left[0]:
            return began
        steps, later = self.max_steps - began, sum(share > 0 for share in left[1:])
        return began + max(1, min(round(steps * left[0] / sum(left)), steps - later))

    def lengths(self) -> list[int]:
        """The steps of each stage."""
        ends = [0]
        for stage in range(len(self.shares)):
            ends.append(self.stage_end(stage, ends[-1]))
        return [end - began for began, end in itertools.pairwise(ends)]


def schedule_length(
    cfg: EngineConfig, *, images: int, batch_size: int, shares: tuple[float, ...] = (1.0,)
) -> Clock:
    """Turn epochs into steps, once. Raises ConfigError where neither length is given.

    batch_size: of all processes together. shares: of the model's stages; each that has one gets a step at least.
    """
    steps_per_epoch = images / (batch_size * cfg.accumulate)
    if cfg.max_steps is not None:
        max_steps = cfg.max_steps
    elif cfg.max_epochs is not None:
        max_steps = max(1, math.ceil(cfg.max_epochs * steps_per_epoch))
    else:
        raise ConfigError("how long to train is not said: set engine.max_steps=N or engine.max_epochs=N")
    max_steps = max(max_steps, sum(share > 0 for share in shares))
    # An evaluation costs about as much as a pass over the training data: not more often than once an epoch.
    eval_every = cfg.eval_every or max(math.ceil(max_steps / EVALUATIONS), math.ceil(steps_per_epoch))
    checkpoint_every = cfg.checkpoint_every or min(eval_every, CHECKPOINT_EVERY)
    return Clock(max_steps, eval_every, checkpoint_every, steps_per_epoch, shares)


@dataclass
class State:
    """Where a run stands; all of it is in a checkpoint."""

    step: int = 0
    stage: int = 0
    stage_began: int = 0
    """The step after which the stage began"""
    best: float | None = None
    """The monitored metric of best.pt, in this stage; None as long as it is not a number"""
    best_step: int = 0
    stale: int = 0
    """Evaluations since the best one"""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation"""
    seconds: float = 0.0
    """Time spent in `fit` up to the last step, or solved stage, also before a resume"""
    training: float = 0.0
    """Of it, what no evaluation took"""
    window: list[Tensor] = field(default_factory=list)
    """The losses [terms] of each step since the last log line"""

    @classmethod
    def of(cls, content: Mapping[str, Any], stages: Sequence[str] = ()) -> State:
        """As a checkpoint has it. Raises WeightsError if it is of other stages than the model's."""
        found = content.get("stages", [])
        state = cls(**{name: content[name] for name in vars(cls()) if name in content})
        if found != list(stages) or not 0 <= state.stage < max(1, len(stages)):
            one, other = (", ".join(map(str, names)) or "one without a name" for names in (found, stages))
            raise WeightsError(
                f"the checkpoint is of other stages ({one}; the model has {other}); resume without task="
            )
        return state

    def stage_over(self, clock: Clock) -> bool:
        """Whether the present stage has had its steps."""
        return self.step >= clock.stage_end(self.stage, self.stage_began)

    def done(self, clock: Clock) -> bool:
        """Whether all stages have."""
        return self.stage == len(clock.shares) - 1 and self.stage_over(clock)

    def next_stage(self) -> None:
        """What was the best of one stage is no measure for the next."""
        self.stage, self.stage_began = self.stage + 1, self.step
        self.best, self.best_step, self.stale = None, 0, 0

    def judge(self, score: float, *, lower_is_better: bool = False) -> bool:
        """Note the score of this step; whether it is the best so far."""
        better = self.best is None or (score < self.best if lower_is_better else score > self.best)
        if not better:
            self.stale += 1
            return False
        self.best, self.best_step, self.stale = (None if math.isnan(score) else score), self.step, 0
        return True

    def finished(self, clock: Clock, cfg: EngineConfig) -> str | None:
        """Why there is nothing left to do, and what to type to go on all the same; None if there is."""
        if self.done(clock):
            longer = (
                "engine.max_steps=N goes on"
                if clock.shares[-1]
                else "its last stage is solved, not descended"
            )
            return f"{self.step} of {clock.max_steps} steps; {longer}"
        if cfg.patience is not None and self.stale >= cfg.patience:
            return (
                f"no better for {self.stale} evaluations (engine.patience={cfg.patience}) at step {self.step} of "
                f"{clock.max_steps}; engine.patience=null goes on"
            )
        if cfg.max_minutes is not None and self.seconds >= 60 * cfg.max_minutes:
            return (
                f"its {cfg.max_minutes:g} minutes are used up (engine.max_minutes) at step {self.step} of "
                f"{clock.max_steps}; engine.max_minutes=null goes on"
            )
        return None


def fit(
    task: Task,
    batches: Callable[[int], Generator[Batch, None, None]],
    optimize: Callable[[int], tuple[Optimizer, LRScheduler]],
    cfg: EngineConfig,
    run: Run,
    *,
    clock: Clock,
    precision: Precision,
    seed: int,
    evaluate_now: Callable[[int], Mapping[str, float]],
    predictions: Callable[[], Generator[tuple[Batch, list[Prediction]], None, None]] = no_predictions,
    about: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
    keep_features: bool = False,
    processes: Processes = ALONE,
) -> State:
    """Train all stages, to `clock.max_steps`; write metrics and checkpoints into `run`; return where it ended.

    batches: the endless stream of this process's batches from batch n on.
    optimize: an optimizer over the parameters that want gradients, and its schedule of n steps, for each stage.
    evaluate_now: evaluates the model as it is at a step, and gives every process the same metrics.
    predictions: what the model says of the training images, to be computed as it is read, for a stage that begins.
    about: what every checkpoint says of the run (task, classes, config): plain values.
    resume: the content of a checkpoint of this run.
    keep_features: leave what the stages kept in the run's folder, also when all are done.

    It ends sooner after `cfg.patience` evaluations without a better one, or `cfg.max_minutes`.
    Raises ConfigError for a loss without a weight, NonFiniteLossError, OutOfMemoryError, and Interrupted after Ctrl-C
    or SIGTERM, when the run is saved.
    """
    names, features = stage_names(task.model), run.folder / FEATURES
    state = State() if resume is None else State.of(resume, names)
    if resume is None:
        begin_stage(task.model, 0, no_predictions(), seed=seed, folder=features)
    else:
        restore_trained(task.model, resume)

    def new_learner() -> Learner:
        steps = clock.stage_end(state.stage, state.stage_began) - state.stage_began
        optimizer, scheduler = optimize(steps) if steps else (None, None)
        return Learner(
            task, optimizer, scheduler, cfg, precision=precision, processes=processes, began=state.stage_began
        )

    learner = new_learner()
    if resume is not None:
        learner.restore(resume)
    window = Window(state.window, task, cfg, batches, run, processes)
    run.rewind(state.step, later=names[state.stage + 1 :])
    stream = batches(state.step * cfg.accumulate)
    began, images, busy = time.perf_counter() - state.seconds, 0, 0.0
    judging = state.seconds - state.training

    def look_at_the_clock() -> None:
        state.seconds = time.perf_counter() - began
        if cfg.max_minutes is not None:
            state.seconds = processes.share(state.seconds)
        state.training = state.seconds - judging

    def interrupted(signal: int) -> Interrupted:
        return Interrupted(
            f"stopped and saved at step {state.step} of {clock.max_steps}; go on with: cvtasks resume {run.folder}",
            exit_code=128 + signal,  # as shells have it: 130 for Ctrl-C, 143 for SIGTERM
        )

    bar = Progress(
        clock.max_steps,
        title="train",
        unit="step",
        initial=state.step,
        say=run.say,
        shown=processes.first,
    )
    task.model.train()

    # Closed here: a traceback that holds the stream would keep its workers, and the process waits for them at its end.
    with contextlib.closing(stream), Interrupt() as interrupt, bar as progress:
        while state.finished(clock, cfg) is None:
            if state.stage_over(clock):
                learner.keep_judged()
                del learner  # its optimizer may hold as much memory as the model
                state.next_stage()
                end = clock.stage_end(state.stage, state.stage_began)
                run.say(f"step {state.step}: {names[state.stage]} begins, and ends with step {end}")
                read = _until_a_signal(predictions(), interrupt, processes, interrupted)
                for note in begin_stage(task.model, state.stage, read, seed=seed, folder=features):
                    run.say(note)
                look_at_the_clock()
                learner = new_learner()
                task.model.train()
            named = {"stage": names[state.stage]} if names else {}

            if not (ends := state.stage_over(clock)):  # a stage may be without steps
                step_began = time.perf_counter()
                seed_all(seed, "step", state.step * processes.world + processes.rank)
                step = learner.step(state.step + 1, stream)
                window.add(step)
                state.step += 1
                look_at_the_clock()

                ends = state.stage_over(clock) or state.finished(clock, cfg) is not None
                if log_now := ends or state.step % cfg.log_every == 0:
                    record = window.record()
                images, busy = images + len(step.images), busy + time.perf_counter() - step_began
                if log_now:
                    speed, images, busy = images * processes.world / busy, 0, 0.0
                    epoch = state.step / clock.steps_per_epoch
                    run.log({"step": state.step, **named, "epoch": epoch, "lr": step.lr, **record})
                    run.scalars(state.step, {"images_per_s": speed})
                    told = (*named.values(), learner.terms.line(record), f"{speed:.1f} images/s")
                    progress.status(", ".join(told))
                progress.advance()

            improved = False
            if evaluate_due := ends or state.step % clock.eval_every == 0:
                judged_at = time.perf_counter()
                with learner.judged():
                    state.metrics = dict(evaluate_now(state.step))
                judging += time.perf_counter() - judged_at
                run.log({"step": state.step, **named, **state.metrics})
                if task.monitor not in state.metrics:
                    metrics = ", ".join(state.metrics)
                    run.say(f"task.monitor={task.monitor} is not among the metrics {metrics}")
                score = state.metrics.get(task.monitor, math.nan)
                improved = state.judge(score, lower_is_better=lower_is_better(task.monitor))
            signal = processes.largest(interrupt.received or 0)
            if signal or evaluate_due or state.step % clock.checkpoint_every == 0:
                window.check()
                if processes.first:
                    window.check_weights()
                    content = {**about, **vars(state), **learner.content()}
                    if improved:
                        checkpoints.save(run.checkpoints / checkpoints.BEST, content)
                    checkpoints.save_last(run.folder, content)
                processes.share(None)  # the others wait until it is written
            if signal and state.finished(clock, cfg) is None:
                raise interrupted(signal)
    if state.done(clock) and not keep_features:
        shutil.rmtree(features, ignore_errors=True)
    return state


def _until_a_signal(
    predictions: Generator[tuple[Batch, list[Prediction]], None, None],
    interrupt: Interrupt,
    processes: Processes,
    error: Callable[[int], Interrupted],
) -> Generator[tuple[Batch, list[Prediction]], None, None]:
    """The same, and an end where a signal asks for one: reading them may take hours."""
    with contextlib.closing(predictions):
        for each in predictions:
            yield each
            if signal := processes.largest(interrupt.received or 0):
                raise error(signal)
