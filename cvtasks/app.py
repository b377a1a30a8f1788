"""The verbs: a checked configuration becomes readers, a model and a run, and the engine does the rest.

Every function takes the resolved configuration as a plain dict (`config.compose.plain`). Only this file and
`assembly`, which builds the pieces, know that there is a configuration.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from cvtasks.assembly import Config, Setup, absolute, build_task, build_transform, open_reader, start_from
from cvtasks.config.build import build
from cvtasks.data.collate import collate
from cvtasks.data.images import find_images, read_image
from cvtasks.data.loader import train_batches
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.loop import evaluate as evaluate_model
from cvtasks.engine.loop import fit, schedule_length
from cvtasks.engine.precision import place
from cvtasks.engine.progress import Progress, duration
from cvtasks.engine.run import Run, write_json
from cvtasks.engine.seeding import seed_all
from cvtasks.errors import ConfigError, DataError
from cvtasks.metrics.results import read_results
from cvtasks.nn import zoo
from cvtasks.types import ClassInfo, Reader, Sample, Task
from cvtasks.viz import report
from cvtasks.viz.overlays import draw_detections

SHOWN_IMAGES = 8
"""Images in the picture of sample predictions"""
SHOWN_CLASSES = 30
"""Up to so many classes, the summary names each one's AP"""


def train(cfg: Config, *, sources: Mapping[str, str] | None = None) -> float | None:
    """Train and evaluate into a new run's folder; returns the monitored metric of the best checkpoint.

    sources: keys that were computed for the batch size, with their formulas, to be told.
    """
    setup = Setup.of(cfg)
    train_reader = open_reader(cfg, "train")
    val_reader = open_reader(cfg, "val", classes=train_reader.classes)
    weights = None
    if cfg["weights"] is not None:
        weights = zoo.load_detector_weights(cfg["weights"])
        if cfg["backbone"].get("norm") == "auto" and any(key.endswith("running_var") for key in weights[0]):
            # Written out, as evaluating this run later will not know where its weights came from.
            cfg["backbone"]["norm"] = "frozen"
    seed_all(cfg["seed"], "model")
    task = build_task(cfg, train_reader.classes, val_reader.classes)
    notes = [] if weights is None else start_from(task.model, weights, train_reader.classes, cfg["weights"])

    with Run.create(cfg["run_dir"], task=cfg["task"]["name"], dataset=cfg["dataset"]["name"]) as run:
        cfg = absolute(cfg | {"run_dir": str(run.folder)})
        run.write_text("config.yaml", yaml.safe_dump(cfg, sort_keys=False))
        for key, formula in (sources or {}).items():
            run.say(f"{key} = {_value(cfg, key):g} ({formula}, scaled to the batch; {key}=N sets it)")
        for line in notes:
            run.say(line)
        return _train_in(run, cfg, setup, task, train_reader, val_reader, resume=None)


def resume(folder: Path, cfg: Config) -> float | None:
    """Go on with the run in `folder` from its last checkpoint, to the same end as without the break."""
    setup = Setup.of(cfg)
    with Run.open(folder) as run:
        content, warning = checkpoints.load_last(folder)
        if warning:
            run.say(warning)
        classes = None
        if content is not None:
            classes = ClassInfo.from_dict(content["classes"])
            if cfg["optimizer"] != yaml.safe_load(content["config"])["optimizer"]:
                raise ConfigError(
                    "optimizer.* cannot change on resume, as its state comes from the checkpoint; leave it, or start a "
                    f"new run with weights={folder}"
                )
        train_reader = open_reader(cfg, "train", classes=classes)
        val_reader = open_reader(cfg, "val", classes=train_reader.classes)
        seed_all(cfg["seed"], "model")
        if content is None:
            task = build_task(cfg, train_reader.classes, val_reader.classes)
        else:
            with zoo.weights_follow():
                task = build_task(cfg, train_reader.classes, val_reader.classes)
        return _train_in(run, cfg, setup, task, train_reader, val_reader, resume=content)


def evaluate(cfg: Config) -> float | None:
    """Judge a checkpoint, or another tool's results file, on the validation split; returns the monitored metric."""
    if cfg["predictions"] is not None:
        return _evaluate_file(cfg)
    setup = Setup.of(cfg)
    content = checkpoints.load(cfg["checkpoint"])
    classes = ClassInfo.from_dict(content["classes"])
    reader = open_reader(cfg, "val", classes=classes)
    with zoo.weights_follow():
        task = build_task(cfg, classes, reader.classes)
    task.model.load_state_dict(content["model"])
    place(task.model, setup.device, channels_last=setup.engine.channels_last)

    folder = _output_folder(cfg, "eval")
    for note in reader.notes:
        print(note)
    with Progress(len(reader), title="evaluate", unit="image") as progress:
        metrics = evaluate_model(
            task,
            setup.eval_stream(reader, build_transform(cfg, reader, train=False)),
            precision=setup.precision,
            losses=setup.engine.val_losses,
            progress=progress,
        )
    print(f"{cfg['checkpoint']} (step {content['step']}) on {cfg['dataset']['name']}, {len(reader)} images")
    _write_evaluation(folder, cfg, task.evaluator, metrics)
    _draw_samples(folder, cfg, setup, task, reader)
    return metrics.get(task.monitor)


def predict(cfg: Config) -> None:
    """Draw what a model finds in the images of `source`: one PNG each, and predictions.json for all."""
    if not cfg["source"]:
        raise ConfigError("source= is missing: type source=FILE, source=FOLDER, or source='photos/*.jpg'")
    setup = Setup.of(cfg)
    paths = find_images(cfg["source"])
    content = checkpoints.load(cfg["checkpoint"])
    classes = ClassInfo.from_dict(content["classes"])
    with zoo.weights_follow():
        model = build_task(cfg, classes, classes).model
    model.load_state_dict(content["model"])
    place(model, setup.device, channels_last=setup.engine.channels_last).eval()
    transform = build(cfg["pipeline"], train=False, flip_index=classes.flip_index)
    folder = _output_folder(cfg | {"run_dir": cfg["output"]}, "predict")

    records, broken = [], []
    with Progress(len(paths), title="predict", unit="image") as progress:
        for path, name in zip(paths, _output_names(paths), strict=True):
            progress.advance()
            try:
                image = read_image(path)
            except DataError as error:
                broken.append(str(error))
                continue
            sample: Sample = {"image": image, "image_id": str(path), "orig_size": tuple(image.shape[-2:])}
            batch = collate([transform(sample)]).to(setup.device)
            with torch.no_grad(), setup.precision.autocast():
                found = report.above(model.predict(batch)[0], cfg["score_threshold"])
            boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
            draw_detections(image, boxes, labels, scores, classes).save(folder / f"{name}.png")
            height, width = image.shape[-2:]
            objects = [
                {
                    "class": classes.names[label],
                    "category_id": classes.category_ids[label],
                    "score": score,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                }
                for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True)
            ]
            records.append({"file": str(path), "width": width, "height": height, "objects": objects})
    write_json(folder / "predictions.json", {"classes": list(classes.names), "images": records})
    count = sum(len(record["objects"]) for record in records)
    print(
        f"{count} objects in {len(records)} images with a score of {cfg['score_threshold']} or more: {folder}"
    )
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}; the other {len(records)} images are done")


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
    engine, batch_size, began = setup.engine, setup.loader.batch_size, time.perf_counter()
    place(task.model, setup.device, channels_last=engine.channels_last)
    clock = schedule_length(engine, images=len(train_reader), batch_size=batch_size)
    optimizer = build(cfg["optimizer"], model=task.model)
    scheduler = build(cfg["scheduler"], optimizer=optimizer, max_steps=clock.max_steps)
    train_transform = build_transform(cfg, train_reader, train=True)
    val_transform = build_transform(cfg, val_reader, train=False)
    val_reader[0]  # a broken validation set is found now, not at the first evaluation

    def batches(first: int) -> Any:
        return train_batches(
            train_reader,
            train_transform,
            batch_size=batch_size,
            seed=cfg["seed"],
            workers=setup.workers,
            first_batch=first,
            pin_memory=setup.pin_memory,
        )

    def evaluate_now(step: int) -> dict[str, float]:
        with Progress(len(val_reader), title="evaluate", unit="image", say=run.say) as progress:
            metrics = evaluate_model(
                task,
                setup.eval_stream(val_reader, val_transform),
                precision=setup.precision,
                losses=engine.val_losses,
                progress=progress,
            )
        run.say(f"step {step}: {_headline(metrics)}")
        sheet = _draw_samples(run.folder, cfg, setup, task, val_reader)
        run.picture("predictions", report.as_tensor(sheet), step)
        report.draw_history(run.folder)
        return metrics

    if resume is None:
        parameters = sum(p.numel() for p in task.model.parameters())
        run.say(
            f"{task.name} on {cfg['dataset']['name']}: {len(train_reader)} training and {len(val_reader)} validation "
            f"images, {len(train_reader.classes)} classes; {parameters / 1e6:.1f} M parameters; {clock.max_steps} steps "
            f"of {batch_size * engine.accumulate} images on {setup.device}, {setup.precision.name}"
        )
        for note in (*train_reader.notes, *val_reader.notes):
            run.say(note)
        first = next(iter(batches(0)))
        report.draw_batch(first, train_reader.classes, run.plots / "first_batch.png")
    elif resume["step"] >= clock.max_steps:
        run.say(
            f"{run.folder} is finished: {resume['step']} of {clock.max_steps} steps; engine.max_steps=N goes on"
        )
        return resume["best"]
    else:
        run.say(f"going on from step {resume['step']} of {clock.max_steps}")

    about = {
        "task": task.name,
        "classes": train_reader.classes.to_dict(),
        "config": yaml.safe_dump(cfg, sort_keys=False),
        "precision": setup.precision.name,
    }
    state = fit(
        task,
        batches,
        optimizer,
        scheduler,
        engine,
        run,
        clock=clock,
        precision=setup.precision,
        seed=cfg["seed"],
        evaluate_now=evaluate_now,
        about=about,
        resume=resume,
    )
    metrics = state.metrics
    if state.best_step != state.step:
        run.say(f"the best was step {state.best_step}; evaluating it again, as the run's result")
        task.model.load_state_dict(checkpoints.load(run.checkpoints / checkpoints.BEST)["model"])
        metrics = evaluate_now(state.best_step)
    report.draw_history(run.folder)
    _write_evaluation(run.folder, None, task.evaluator, metrics, say=run.say)
    best = run.checkpoints / checkpoints.BEST
    run.say(f"done in {duration(state.seconds if resume else time.perf_counter() - began)}: {run.folder}")
    run.say(f"  pictures      {run.plots}")
    run.say(f"  again         cvtasks eval run={run.folder}")
    run.say(f"  your images   cvtasks predict checkpoint={best} source=FOLDER")
    run.say(f"  curves        tensorboard --logdir {run.folder}")
    return metrics.get(task.monitor)


def _evaluate_file(cfg: Config) -> float | None:
    reader = open_reader(cfg | {"task": cfg["task"] or {"requires": ["boxes", "labels", "ignore"]}}, "val")
    truth = [reader.truth(index) for index in range(len(reader))]
    results = read_results(Path(cfg["predictions"]), reader.classes, [t["image_id"] for t in truth])
    for note in (*reader.notes, *results.notes):
        print(note)
    evaluator = build(cfg["evaluator"], classes=reader.classes)
    evaluator.update([results.predictions[t["image_id"]] for t in truth], truth)
    metrics = evaluator.compute()
    _write_evaluation(_output_folder(cfg, "eval"), cfg, evaluator, metrics)
    return metrics.get("box/AP")


def _write_evaluation(
    folder: Path, cfg: Config | None, evaluator: Any, metrics: Mapping[str, float], *, say: Any = print
) -> None:
    """metrics.json, predictions/ and plots/, and the numbers for people."""
    if cfg is not None:
        checkpoints.write_atomically(folder / "config.yaml", yaml.safe_dump(cfg, sort_keys=False).encode())
    write_json(folder / "metrics.json", dict(metrics))
    evaluator.write(folder / "predictions")
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    report.draw_evaluation(evaluator.plot_data(), folder / "plots")
    whole = {name: value for name, value in metrics.items() if name.count("/") == 1}
    per_class = {name: value for name, value in metrics.items() if name.startswith("box/AP/")}
    for name, value in (whole | (per_class if len(per_class) <= SHOWN_CLASSES else {})).items():
        say(f"  {name:<24} {value:.4f}")
    say(f"written: {folder / 'metrics.json'}")


def _draw_samples(folder: Path, cfg: Config, setup: Setup, task: Task, reader: Reader) -> Any:
    """plots/predictions.png: a few validation images, truth beside what the model finds."""
    transform = build_transform(cfg, reader, train=False)
    samples = [reader[index] for index in range(min(SHOWN_IMAGES, len(reader)))]
    predictions = []
    training = task.model.training
    task.model.eval()
    for sample in samples:
        batch = collate([transform(dict(sample))]).to(setup.device)
        with torch.no_grad(), setup.precision.autocast():
            predictions += task.model.predict(batch)
    task.model.train(training)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    return report.draw_predictions(samples, predictions, reader.classes, folder / "plots" / "predictions.png")


def _output_folder(cfg: Config, verb: str) -> Path:
    """`run_dir`, or a new folder beside the run's checkpoints."""
    if cfg.get("run_dir"):
        folder = Path(cfg["run_dir"])
    else:
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = Path(cfg.get("run") or "runs") / verb / stamp
        for number in itertools.count(2):
            if not folder.exists():
                break
            folder = folder.with_name(f"{stamp}_{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _output_names(paths: list[Path]) -> list[str]:
    """A name for each picture: its file's stem, with a number behind it where two files share one."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}")
    return names


def _headline(metrics: Mapping[str, float]) -> str:
    shown = ("box/AP", "box/AP50", "box/AP75", "val/loss")
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in shown if name in metrics)


def _value(cfg: Config, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
