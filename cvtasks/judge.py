"""The verbs that use a trained model: `evaluate` on a data set, `predict` on images.

Every function takes the resolved configuration as a plain dict (`config.compose.plain`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from cvtasks.assembly import Config, Setup, as_yaml, build_task, build_transform, open_reader
from cvtasks.config.build import build, locate
from cvtasks.data.collate import collate
from cvtasks.data.images import find_images, read_image
from cvtasks.data.people import of_one_person
from cvtasks.data.proposals import pixels, within
from cvtasks.data.single import of_one_object
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.distributed import joined
from cvtasks.engine.evaluation import evaluate as evaluate_model
from cvtasks.engine.memory import out_of_memory_named
from cvtasks.engine.progress import Progress
from cvtasks.engine.run import write_json
from cvtasks.errors import ConfigError, DataError
from cvtasks.metrics.class_table import read_table
from cvtasks.metrics.label_folder import LabelFolder
from cvtasks.metrics.person_boxes import read_person_boxes
from cvtasks.metrics.records import Record, describe, summary
from cvtasks.metrics.results import read_keypoint_results, read_results
from cvtasks.metrics.tables import as_lines
from cvtasks.nn import zoo
from cvtasks.proposing import compute_missing, of_photos
from cvtasks.types import ClassInfo, Evaluator, Prediction, Reader, Sample, Split, Task
from cvtasks.viz import report
from cvtasks.viz.overlays import draw

SHOWN_IMAGES = 8
"""Images in the picture of sample predictions"""


def evaluate(cfg: Config) -> float | None:
    """Judge a checkpoint, or another tool's predictions, on the validation split; returns the monitored metric."""
    if cfg["predictions"] is not None:
        return _evaluate_written(cfg)
    with joined() as processes:
        setup = Setup.of(cfg, processes)
        content = checkpoints.load(cfg["checkpoint"])
        classes = checkpoints.classes_of(content, cfg["checkpoint"])
        # What was learnt by heart is judged on the images that it was learnt from.
        split: Split = "train" if setup.engine.overfit else "val"
        reader = open_reader(cfg, split, classes=classes, learned=content.get("proposals"))
        with zoo.weights_follow():
            task = build_task(cfg, classes, reader.classes)
        zoo.fit_weights(task.model, checkpoints.judged_weights(content), source=cfg["checkpoint"])
        setup.place(task.model)

        folder = _output_folder(cfg, "eval") if processes.first else None
        images = setup.eval_images(reader)
        compute_missing((reader, images), processes=processes, say=print if processes.first else _silent)
        with Progress(images, title="evaluate", unit="image", shown=processes.first) as progress:
            metrics = evaluate_model(
                task,
                setup.eval_stream(reader, build_transform(cfg, reader, train=False)),
                precision=setup.precision,
                losses=setup.engine.val_losses,
                progress=progress,
                processes=processes,
            )
        if folder is not None:
            for note in reader.notes:
                print(note)
            limited = f" (engine.limit_batches={setup.engine.limit_batches})" if images < len(reader) else ""
            where = f"{cfg['dataset']['name']}, {images} images{limited}"
            print(f"{cfg['checkpoint']} (step {content['step']}) on {where}")
            write_evaluation(folder, cfg, task.evaluator, metrics)
            draw_samples(folder, cfg, setup, task, reader)
        return metrics.get(task.monitor)


def predict(cfg: Config) -> None:
    """Draw what a model finds in the images of `source`: one PNG each, and predictions.json for all."""
    if not cfg["source"]:
        raise ConfigError("source= is missing: type source=FILE, source=FOLDER, or source='photos/*.jpg'")
    setup = Setup.of(cfg)
    paths = find_images(cfg["source"])
    content = checkpoints.load(cfg["checkpoint"])
    classes = checkpoints.classes_of(content, cfg["checkpoint"])
    with zoo.weights_follow():
        model = build_task(cfg, classes, classes).model
    zoo.fit_weights(model, checkpoints.judged_weights(content), source=cfg["checkpoint"])
    setup.place(model).eval()
    transform = build(cfg["pipeline"], train=False, flip_index=classes.flip_index)
    requires = frozenset(cfg["task"]["requires"])
    one_object, one_person = of_one_object(requires), of_one_person(requires)
    boxes, notes = _person_boxes(cfg, paths, classes, wanted=one_person)
    proposals = of_photos(cfg["proposals"], content.get("proposals")) if "proposals" in requires else None
    folder = _output_folder(cfg | {"run_dir": cfg["output"]}, "predict")
    about: dict[str, Any] = {"classes": list(classes.names)}
    if one_person:
        about |= {"keypoints": list(classes.keypoint_names), "boxes": cfg["boxes"] or "the whole image"}

    records, broken = [], []
    with Progress(len(paths), title="predict", unit="image") as progress:
        for path, name in zip(paths, _output_names(paths), strict=True):
            progress.advance()
            try:
                image = read_image(path)
            except DataError as error:
                broken.append(str(error))
                continue
            height, width = image.shape[-2:]
            sample: Sample = {"image": image, "image_id": str(path), "orig_size": (height, width)}
            if proposals is not None:
                found_boxes = within(proposals.of(pixels(image)).boxes, (height, width))
                sample["proposals"] = torch.from_numpy(found_boxes)
            record: Record = {"file": str(path), "width": width, "height": height}
            record |= {"people": []} if one_person else {}
            samples = _people(sample, boxes.get(path)) if one_person else [sample]
            found = _predicted([transform(one) for one in samples], model, setup)
            if one_object:
                record["guesses"] = describe(found, classes, folder=folder, name=name)["objects"]
                found = report.best(found)
            else:
                found = report.above(found, cfg["score_threshold"])
                record |= describe(found, classes, folder=folder, name=name)
            if one_person and not cfg["boxes"]:
                found.pop("boxes")  # the picture's own frame
            draw(image, found, classes).save(folder / f"{name}.png")
            records.append(record)
    write_json(folder / "predictions.json", about | {"images": records})
    print(f"{summary(records, score=cfg['score_threshold'])}: {folder}")
    for note in notes:
        print(note)
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}; the other {len(records)} images are done")


def _person_boxes(
    cfg: Config, paths: list[Path], classes: ClassInfo, *, wanted: bool
) -> tuple[dict[Path, Tensor], list[str]]:
    """Those of `boxes`, by image, and notes; nothing where they are not given."""
    if cfg["boxes"] is None:
        return {}, []
    if not wanted:
        raise ConfigError(f"boxes={cfg['boxes']}: task={cfg['task']['name']} takes none; leave it out")
    return read_person_boxes(Path(cfg["boxes"]), paths, classes, score=cfg["score_threshold"])


def _people(image: Sample, boxes: Tensor | None) -> list[Sample]:
    """A sample for each box [N, 4] that has something of the image; for the whole image, where there are none."""
    height, width = size = image["orig_size"]
    corners = torch.tensor([[0.0, 0, width, height]]) if boxes is None else boxes
    inside = corners.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    inside = inside[(inside[:, 2:] > inside[:, :2]).all(dim=1)]
    return [
        image | {"boxes": BoundingBoxes(box[None], format=BoundingBoxFormat.XYXY, canvas_size=size)}  # type: ignore[call-arg]
        for box in inside
    ]


def _predicted(samples: list[Sample], model: Any, setup: Setup) -> Prediction:
    """What a model says of one image, in as many samples as there are people, on the host."""
    found: list[Prediction] = []
    for first in range(0, len(samples), setup.eval_batch_size):
        batch = collate(samples[first : first + setup.eval_batch_size]).to(setup.device)
        named = out_of_memory_named("predict", batch, key="loader.eval_batch_size")
        with named, torch.no_grad(), setup.precision.autocast():
            found += model.predict(batch)
    return report.together(found)


def _evaluate_written(cfg: Config) -> float | None:
    """Judge a results file, a table of classes, or a folder of label maps."""
    path = Path(cfg["predictions"])
    if not path.exists():
        raise ConfigError(f"predictions={path}: there is no such file or folder")
    judged: frozenset[str] = getattr(locate(cfg["evaluator"]["_target_"]), "judges", frozenset())
    what, field, read = "a results file", "boxes", _read_objects
    if "keypoints" in judged:
        what, field, read = "a results file", "keypoints", _read_poses
    if judged == {"label"}:
        what, field, read = "a table of classes", "label", _read_classes
    if path.is_dir():
        what, field, read = "a folder of label maps", "segmentation", _read_label_maps
    if field not in judged:
        raise ConfigError(
            f"predictions={path} is {what}, and evaluator={cfg['evaluator']['name']} judges "
            f"{', '.join(sorted(judged))}; choose another evaluator= (cvtasks list evaluators)"
        )
    reader = open_reader(cfg | {"task": cfg["task"] or {"requires": judged}}, "val")
    evaluator = build(cfg["evaluator"], classes=reader.classes)
    notes = read(path, reader, evaluator)
    for note in (*reader.notes, *notes):
        print(note)
    metrics = evaluator.compute()
    write_evaluation(_output_folder(cfg, "eval"), cfg, evaluator, metrics)
    return metrics.get(cfg["task"]["monitor"] if cfg["task"] else next(iter(metrics)))


def _read_label_maps(path: Path, reader: Reader, evaluator: Evaluator) -> list[str]:
    """Image by image: the label maps of a large data set do not fit into memory."""
    folder = LabelFolder(path, reader.classes)
    with Progress(len(reader), title="evaluate", unit="image") as progress:
        for index in range(len(reader)):
            truth = reader.truth(index)
            evaluator.update([folder.prediction(truth)], [truth])
            progress.advance()
    return folder.notes()


def _read_objects(path: Path, reader: Reader, evaluator: Evaluator) -> list[str]:
    truth = [reader.truth(index) for index in range(len(reader))]
    results = read_results(path, reader.classes, [t["image_id"] for t in truth])
    evaluator.update([results.predictions[t["image_id"]] for t in truth], truth)
    return results.notes


def _read_classes(path: Path, reader: Reader, evaluator: Evaluator) -> list[str]:
    truth = [reader.truth(index) for index in range(len(reader))]
    results = read_table(path, reader.classes, [t["image_id"] for t in truth])
    evaluator.update([results.predictions[t["image_id"]] for t in truth], truth)
    return results.notes


def _read_poses(path: Path, reader: Reader, evaluator: Evaluator) -> list[str]:
    truth = [reader.truth(index) for index in range(len(reader))]
    results = read_keypoint_results(path, reader.classes, truth)
    evaluator.update([results.predictions[t["image_id"]] for t in truth], truth)
    return results.notes


def write_evaluation(
    folder: Path, cfg: Config | None, evaluator: Any, metrics: Mapping[str, float], *, say: Any = print
) -> None:
    """metrics.json, predictions/ and plots/, and the numbers for people."""
    if cfg is not None:
        checkpoints.write_atomically(folder / "config.yaml", as_yaml(cfg).encode())
    evaluator.write(folder / "predictions")
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    report.draw_evaluation(evaluator.plot_data(), folder / "plots")
    write_json(folder / "metrics.json", dict(metrics))  # the last: where it is, all is
    for line in as_lines(metrics):
        say(line)
    say(f"written: {folder / 'metrics.json'}")


def draw_samples(folder: Path, cfg: Config, setup: Setup, task: Task, reader: Reader) -> Any:
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


def _silent(_: str) -> None:
    """For processes that are not the first one."""


def _output_names(paths: list[Path]) -> list[str]:
    """A name for each picture: its file's stem, with a number behind it where two files share one."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}")
    return names
