"""The verbs that train: a checked configuration becomes readers, a model and a run, and the engine does the rest.

Every function takes the resolved configuration as a plain dict (`config.compose.plain`). Only this file, `judge` (the
verbs that use a trained model) and `assembly`, which builds the pieces, know that there is a configuration.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvtasks.assembly import (
    Config,
    Setup,
    absolute,
    as_yaml,
    build_task,
    build_transform,
    count_class_weights,
    open_readers,
    start_from,
    with_backbone_of,
)
from cvtasks.config import stored
from cvtasks.config.build import build
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.determinism import nondeterminism_named
from cvtasks.engine.distributed import joined
from cvtasks.engine.evaluation import evaluate as evaluate_model
from cvtasks.engine.evaluation import predicted
from cvtasks.engine.loop import State, fit, schedule_length
from cvtasks.engine.progress import Progress, duration
from cvtasks.engine.run import Follower, Run
from cvtasks.engine.seeding import seed_all
from cvtasks.engine.stages import stage_names, stage_shares
from cvtasks.errors import ConfigError
from cvtasks.judge import draw_samples, write_evaluation
from cvtasks.nn import zoo
from cvtasks.proposing import compute_missing, learned_by
from cvtasks.types import Reader, Task
from cvtasks.viz import report


def train(cfg: Config, *, sources: Mapping[str, str] | None = None) -> float | None:
    """Train and evaluate into a new run's folder; returns the monitored metric of the best checkpoint.

    sources: keys that were computed for the batch size, with their formulas, to be told.
    """
    with joined() as processes:
        setup = Setup.of(cfg, processes)
        train_reader, val_reader = open_readers(cfg, setup)
        weights = None
        if cfg["weights"] is not None:
            weights = zoo.load_detector_weights(cfg["weights"])
            if cfg["backbone"].get("norm") == "auto" and any(k.endswith("running_var") for k in weights[0]):
                # Written out, as evaluating this run later will not know where its weights came from.
                cfg["backbone"]["norm"] = "frozen"
        cfg = count_class_weights(with_backbone_of(cfg), train_reader)
        seed_all(cfg["seed"], "model")
        task = build_task(cfg, train_reader.classes, val_reader.classes)
        notes = []
        if weights is not None:
            notes = start_from(task.model, weights, train_reader.classes, cfg["weights"])

        with _new_run(cfg, setup) as run:
            cfg = absolute(cfg | {"run_dir": str(run.folder)})
            run.write_text("config.yaml", as_yaml(cfg))
            for key, formula in (sources or {}).items():
                run.say(f"{key} = {_value(cfg, key):g} ({formula}, scaled to the batch; {key}=N sets it)")
            for line in notes:
                run.say(line)
            return _train_in(run, cfg, setup, task, train_reader, val_reader, resume=None)


def resume(folder: Path, cfg: Config) -> float | None:
    """Go on with the run in `folder` from its last checkpoint, to the same end as without the break."""
    # Where it was found is no part of it: its next checkpoint is as the unbroken run's.
    cfg = {key: value for key, value in cfg.items() if key not in ("run", "checkpoint")}
    with joined() as processes:
        run = Run.open(folder) if processes.first else Follower(folder)
        with run:
            content, warning = processes.share(
                checkpoints.load_last(folder) if processes.first else (None, None)
            )
            if warning:
                run.say(warning)
            classes = learned = None
            if content is not None:
                learned = content.get("proposals")
                classes = checkpoints.classes_of(content, folder)
                _refuse_other_optimizer(folder, cfg, content)
                if cfg["engine"]["precision"] == "auto":
                    # What it began with, even if this machine could do otherwise.
                    cfg["engine"]["precision"] = content["precision"]
            setup = Setup.of(cfg, processes)
            train_reader, val_reader = open_readers(cfg, setup, classes=classes, learned=learned)
            seed_all(cfg["seed"], "model")
            if content is None:
                task = build_task(cfg, train_reader.classes, val_reader.classes)
            else:
                with zoo.weights_follow():
                    task = build_task(cfg, train_reader.classes, val_reader.classes)
            return _train_in(run, cfg, setup, task, train_reader, val_reader, resume=content)


def _train_in(
    run: Run,
    cfg: Config,
    setup: Setup,
    task: Task,
    train_reader: Reader,
    val_reader: Reader,
    *,
    resume: Mapping[str, Any] | None,
) -> float | None:
    engine, processes, began = setup.engine, setup.processes, time.perf_counter()
    setup.place(task.model)
    step_images = setup.batch_size * processes.world * engine.accumulate
    images, val_images = setup.train_images(train_reader), setup.eval_images(val_reader)
    stages, shares = stage_names(task.model), stage_shares(task.model, cfg["task"].get("stage_steps"))
    batch_size = setup.batch_size * processes.world
    clock = schedule_length(engine, images=images, batch_size=batch_size, shares=shares)
    train_transform = build_transform(cfg, train_reader, train=not engine.overfit)
    plain_transform = build_transform(cfg, train_reader, train=False)
    val_transform = build_transform(cfg, val_reader, train=False)

    def prepare() -> None:
        splits = ((train_reader, images), (val_reader, val_images))
        compute_missing(*splits, processes=processes, say=run.say)
        val_reader[0]  # a broken validation set is found now, not at the first evaluation

    def batches(first: int) -> Any:
        return setup.train_stream(train_reader, train_transform, seed=cfg["seed"], first=first)

    def optimize(steps: int) -> tuple[Any, Any]:
        optimizer = build(cfg["optimizer"], model=task.model)
        return optimizer, build(cfg["scheduler"], optimizer=optimizer, max_steps=steps)

    def predictions() -> Any:
        """For a stage that begins: what the model says of the training images."""
        bar = Progress(images, title="predict", unit="image", say=run.say, shown=processes.first)
        with bar as progress, contextlib.closing(setup.train_turns(train_reader, plain_transform)) as turns:
            precision = setup.precision
            yield from predicted(
                task.model, turns, precision=precision, progress=progress, processes=processes
            )

    def evaluate_now(step: int) -> dict[str, float]:
        with Progress(
            val_images, title="evaluate", unit="image", say=run.say, shown=processes.first
        ) as progress:
            metrics = evaluate_model(
                task,
                setup.eval_stream(val_reader, val_transform),
                precision=setup.precision,
                losses=engine.val_losses,
                progress=progress,
                processes=processes,
            )
        run.say(f"step {step}: {_headline(metrics, task.monitor)}")
        if processes.first:
            sheet = draw_samples(run.folder, cfg, setup, task, val_reader)
            run.picture("predictions", report.as_tensor(sheet), step)
            report.draw_history(run.folder)
        return metrics

    if resume is None:
        parameters = sum(p.numel() for p in task.model.parameters())
        parts = ", ".join(f"{name}: {steps}" for name, steps in zip(stages, clock.lengths(), strict=False))
        on = f"{processes.world} x {setup.device.type}" if processes.world > 1 else setup.device
        run.say(
            f"{task.name} on {cfg['dataset']['name']}: {images} training and {val_images} validation "
            f"images, {len(train_reader.classes)} classes; {parameters / 1e6:.1f} M parameters; {clock.max_steps} steps "
            f"{f'({parts}) ' * bool(stages)}of {step_images} images on {on}, {setup.precision.name}"
        )
        for note in (*train_reader.notes, *val_reader.notes):
            run.say(note)
        prepare()
        if processes.first:
            report.draw_batch(next(iter(batches(0))), train_reader.classes, run.plots / "first_batch.png")
    else:
        reached = State.of(resume, stages)
        finished = reached.finished(clock, engine)
        result = run.folder / "metrics.json"
        if finished is not None and processes.share(result.exists()):
            run.say(f"{run.folder} is finished: {finished}")
            return resume["best"]
        if finished is None:
            stage = f", {stages[reached.stage]}" if stages else ""
            run.say(f"going on from step {reached.step} of {clock.max_steps}{stage}")
            if processes.first:
                result.unlink(missing_ok=True)  # of a shorter run, which this one makes longer
        prepare()
        if resume["step_images"] != step_images:
            run.say(f"a step has {step_images} images now; it had {resume['step_images']} before")

    about = {
        "task": task.name,
        "classes": train_reader.classes.to_dict(),
        "config": as_yaml(cfg),
        "precision": setup.precision.name,
        "step_images": step_images,
    }
    if (learned := learned_by(cfg["proposals"], train_reader)) is not None:
        about["proposals"] = learned
    with nondeterminism_named(run.say):
        state = fit(
            task,
            batches,
            optimize,
            engine,
            run,
            clock=clock,
            precision=setup.precision,
            seed=cfg["seed"],
            evaluate_now=evaluate_now,
            predictions=predictions,
            about=about,
            resume=resume,
            keep_features=cfg["task"].get("keep_features", False),
            processes=processes,
        )
    if not state.done(clock):
        run.say(f"ended early: {state.finished(clock, engine)}: cvtasks resume {run.folder}")
    metrics = state.metrics
    # A run that was killed between its last checkpoint and its result has of that evaluation only the numbers.
    if state.best_step != state.step or (resume is not None and resume["step"] == state.step):
        run.say(f"the best was step {state.best_step}; evaluating it again, as the run's result")
        best = checkpoints.load(run.checkpoints / checkpoints.BEST) if processes.first else {}
        task.model.load_state_dict(checkpoints.judged_weights(processes.share(best)))
        metrics = evaluate_now(state.best_step)
    if processes.first:
        report.draw_history(run.folder)
        write_evaluation(run.folder, None, task.evaluator, metrics, say=run.say)
    run.say(f"done in {duration(state.seconds if resume else time.perf_counter() - began)}: {run.folder}")
    run.say(f"  pictures      {run.plots}")
    run.say(f"  again         cvtasks eval run={run.folder}")
    run.say(f"  your images   cvtasks predict checkpoint={run.checkpoints / checkpoints.BEST} source=FOLDER")
    run.say(f"  curves        tensorboard --logdir {run.folder}")
    return metrics.get(task.monitor)


def _new_run(cfg: Config, setup: Setup) -> Run:
    """A new run's folder, which the first process makes and writes into."""
    names = {"task": cfg["task"]["name"], "dataset": cfg["dataset"]["name"]}
    if not setup.processes.first:
        return Follower(setup.processes.share(Path()))
    run = Run.create(cfg["run_dir"], **names)
    setup.processes.share(run.folder)
    return run


def _refuse_other_optimizer(folder: Path, cfg: Config, content: Mapping[str, Any]) -> None:
    if cfg["optimizer"] != stored.parse(content["config"], folder).get("optimizer"):
        raise ConfigError(
            "optimizer.* cannot change on resume, as its state comes from the checkpoint; leave it, or start a "
            f"new run with weights={folder}"
        )


def _headline(metrics: Mapping[str, float], monitor: str) -> str:
    """What is monitored, the first three numbers that the evaluator has, and the validation loss."""
    whole = [name for name in metrics if name.count("/") == 1 and not name.startswith("val/")]
    telling = [name for name in whole if not math.isnan(metrics[name])][:3]
    shown = dict.fromkeys((monitor, *telling, "val/loss"))
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in shown if name in metrics)


def _value(cfg: Config, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
