"""Speed against accuracy, as Huang et al. (CVPR 2017) drew it, on the user's own data and machine.

Each point is a detector with a backbone, a size of images and a number of proposals: its accuracy, its time, memory and
operations, and whether it is on the front, where nothing else is as fast and finds as much.

    cvtasks study tradeoff task=faster_rcnn,ssd,retinanet backbone=resnet18,mobilenet_v3_large image_size=96,128
    cvtasks study tradeoff dataset=voc dataset.root=/data/mine task=faster_rcnn,rfcn image_size=300,600 proposals=10,50,300
    cvtasks study tradeoff --from RUN RUN image_size=300,600

Deviation: the paper trains each detector for each size. Here one that takes images of any size is trained once, with the
largest of them, and judged with all (`retrain_sizes=true` is the paper's way). The number of proposals is the test's alone,
as in the paper. A detector whose boxes are parts of the image (YOLO's, SSD's) has learnt from images of one size for those
of that size alone, as its model says (`one_image_size`): it is trained for each.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cvtasks.assembly import Config
from cvtasks.config.schema import Range
from cvtasks.engine.precision import choose_device
from cvtasks.errors import ConfigError, CvtasksError
from cvtasks.studies.findings import Findings, Row
from cvtasks.studies.networks import untrained
from cvtasks.studies.pareto import Point, draw_tradeoff, pareto_front
from cvtasks.studies.parts import Result, StudyRun, difference
from cvtasks.studies.tradeoff_costs import measure
from cvtasks.studies.trainings import as_overrides, composed, judged, last_typed, train_parts
from cvtasks.types import ClassInfo

Count: TypeAlias = Annotated[int, Range(min=1)]
Size: TypeAlias = Annotated[int, Range(min=32)]

TITLE = "Speed against accuracy"
GENERATED, GENERATED_STEPS = "shapes", 1000
"""Generated scenes, and the steps of a training on them, at most: their recipes are for a network that is much faster"""
GPU_BATCHES = (8, 32)
"""Images at once that are timed on a GPU, beside single ones"""
PROPOSALS = ("task.rpn_proposals_test", "proposals.limit")
"""The number of proposals that a detector looks at, of those that have one: its own network's, or another method's"""
GRID, STEPS = "task.grid", "task.steps"
"""The cells along an image, which are as many pixels of any image; the pixels from one default box to the next"""
BEFORE = "task.rpn_before_nms_test"
"""Of a map, the boxes of its own network that suppression chooses proposals from"""
SECONDS, LOWER, UPPER = "seconds an image", "lower quartile", "upper quartile"


def tradeoff(
    *,
    run: StudyRun,
    dataset: Mapping[str, Any] | None = None,
    task: Sequence[str] = ("faster_rcnn", "ssd", "retinanet"),
    backbone: Sequence[str] = ("resnet18", "mobilenet_v3_large"),
    image_size: Sequence[Size] = (),
    proposals: Sequence[Count] = (),
    runs: Sequence[str] = (),
    train_size: Size | None = None,
    retrain_sizes: bool = False,
    steps: Count | None = None,
    batch_sizes: Sequence[Count] | None = None,
    images: Count = 20,
    repeats: Count = 3,
    overrides: Sequence[str] = (),
    own: Mapping[str, Sequence[str]] | None = None,
) -> Findings:
    """dataset: the node of what all learn from; None: generated scenes, or the runs' own.

    task, backbone, image_size, proposals: each with each; no image_size or proposals: a detector's own. runs: folders of
    runs that are compared as they are; no task and backbone is trained then. train_size: of the images that a detector of
    any size learns from; None: the largest. retrain_sizes: every detector is trained for each size. steps: of each
    training; None: its recipe's. batch_sizes: images at once that are timed beside single ones; None: `GPU_BATCHES` on a
    GPU. images, repeats: that times are measured on. overrides: of all trainings, or of how runs are judged. own: of one
    task's trainings; they win over those of all.

    Raises ConfigError for no task or backbone, tasks that detect nothing, runs of different data, and wrong overrides.
    """
    for name, values in (("task", task), ("backbone", backbone)):
        if not values and not runs:
            raise ConfigError(f"study.{name}: expected one at least")
    data = [] if dataset is None else as_overrides("dataset", dataset)
    sizes, trainings = sorted(set(image_size)), list[Row]()
    if runs:
        detectors = _given(run, runs, sizes, [*data, *overrides])
    else:
        plan = _Plan(run, data, sizes, train_size, retrain_sizes, steps, overrides, own or {})
        detectors, trainings = plan.trained(task, backbone)
    if batch_sizes is None:
        batch_sizes = GPU_BATCHES if choose_device(run.device).type == "cuda" else ()
    costs: dict[str, Any] = {"images": images, "repeats": repeats, "batch_sizes": list(batch_sizes)}
    rows = []
    for variant in (each for detector in detectors for each in detector.variants(sorted(set(proposals)))):
        result = run.part(
            variant.name,
            lambda _, variant=variant: measure(variant.config(), **costs),  # type: ignore[misc]
            settings={**variant.detector.identity, "typed": variant.typed, **costs},
        )
        if result is not None:
            rows.append(variant.row(result))
    return _findings(rows, trainings, images=images)


@dataclass(frozen=True)
class _Detector:
    """A run, and how it is judged."""

    run: StudyRun
    name: str
    folder: Path
    sizes: Sequence[int]
    """Of images; none: the one that it has learnt from"""
    typed: Sequence[str]
    """Overrides of the configuration that it is judged in"""
    identity: Mapping[str, str] = field(default_factory=dict)
    """What tells the run from others; a part of the study needs nothing"""

    def variants(self, proposals: Sequence[int]) -> Iterator[_Variant]:
        """Each size with each number of proposals, if it looks at any."""
        own = judged(self.run, self.folder, self.typed)
        key = next((key for key in PROPOSALS if _value(own, key) is not None), None)
        for size in self.sizes or [_size(own)]:
            name = f"{self.name}_at_{size}"
            typed = [*self.typed, *([] if size == _size(own) else _sized(own, size))]
            about = {
                "data": own["dataset"]["name"],
                "detector": own["task"]["name"],
                "backbone": own["backbone"]["name"],
                "image size": size,
                "learnt from": _size(own),
            }
            if key is None or not proposals:
                own_number = None if key is None else _value(own, key)
                yield _Variant(self, name, last_typed(typed), {**about, "proposals": own_number})
                continue
            for number in proposals:
                before = max(number, _value(own, BEFORE) or 0)
                more = [f"{key}={number}", *([f"{BEFORE}={before}"] if key == PROPOSALS[0] else [])]
                yield _Variant(
                    self,
                    f"{name}_with_{number}_proposals",
                    last_typed([*typed, *more]),
                    {**about, "proposals": number},
                )


@dataclass(frozen=True)
class _Variant:
    """A point, before it is measured."""

    detector: _Detector
    name: str
    typed: Sequence[str]
    about: Row

    def config(self) -> Config:
        return judged(self.detector.run, self.detector.folder, self.typed)

    def row(self, result: Result) -> dict[str, Any]:
        row = {**self.about, **result["metrics"]}
        for number, (median, lower, upper) in result[SECONDS].items():
            at_once = "" if number == "1" else f", {number} at once"
            row |= {SECONDS + at_once: median, LOWER + at_once: lower, UPPER + at_once: upper}
        return row | {
            "MB at the peak": result["peak_memory"] / 1e6,
            "10^9 FLOPs": result["flops"] / 1e9,
            "10^6 parameters": result["parameters"] / 1e6,
            "precision": result["precision"],
            "run": str(self.detector.folder if self.detector.identity else self.detector.name),
        }


def _given(run: StudyRun, runs: Sequence[str], sizes: Sequence[int], typed: Sequence[str]) -> list[_Detector]:
    """The runs of these folders, which must be judged on one data set."""
    detectors: dict[str, _Detector] = {}
    data: list[Any] = []
    for folder in map(Path, runs):
        own = [f"device={run.device}", *typed]
        config = judged(run, folder, own)
        _check_detects(config)
        data.append({key: value for key, value in config["dataset"].items() if key != "train"})
        if (other := difference(data[0], data[-1], "dataset")) is not None:
            raise ConfigError(
                f"{runs[0]} and {folder} are judged on different data ({other}); type dataset=... and its settings to "
                "judge both on that"
            )
        with Path(config["checkpoint"]).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{folder.resolve().name}_{digest[:8]}"
        any_size = _takes_any_size(config)
        detectors[name] = _Detector(
            run, name, folder, sizes if any_size else [], own, identity={"checkpoint": digest}
        )
    return list(detectors.values())


@dataclass(frozen=True)
class _Plan:
    """What is trained."""

    run: StudyRun
    data: Sequence[str]
    sizes: Sequence[int]
    train_size: int | None
    retrain_sizes: bool
    steps: int | None
    overrides: Sequence[str]
    own: Mapping[str, Sequence[str]]

    def trained(self, tasks: Sequence[str], backbones: Sequence[str]) -> tuple[list[_Detector], list[Row]]:
        """Each task with each backbone, those whose training ended well; and a row about each training."""
        trainings, lengths = dict[str, list[str]](), dict[str, int | None]()
        detectors: dict[str, _Detector] = {}
        for task, backbone in product(tasks, backbones):
            chosen = [f"task={task}", f"backbone={backbone}", *self.data, "engine.val_losses=false"]
            chosen = last_typed([*chosen, *self.overrides, *self.own.get(task, ())])
            config = composed(self.run, chosen)
            _check_detects(config)
            judging = [f"device={self.run.device}", f"plugins=[{','.join(config['plugins'])}]"]
            for size, judged_at in self._learnt(config).items():
                name = f"{task}_{backbone}_{size}".replace("/", "_")
                lengths[name] = steps = self._steps(config, typed=chosen)
                last = [] if size == _size(config) else _sized(config, size)
                if steps is not None:  # judged once, at the end: nothing is chosen by what it is judged by
                    last += [f"engine.max_steps={steps}", f"engine.eval_every={steps}"]
                trainings[name] = last_typed([*chosen, *last])
                detectors[name] = _Detector(self.run, name, self.run.parts / name, judged_at, judging)
        results = train_parts(self.run, trainings)
        rows: list[Row] = [
            {
                "training": name,
                "steps": lengths[name],
                "seconds": result["training_seconds"],
                "MB at the peak": None if result["peak_memory"] is None else result["peak_memory"] / 1e6,
            }
            for name, result in results.items()
        ]
        return [detectors[name] for name in results], rows

    def _learnt(self, config: Config) -> dict[int, Sequence[int]]:
        """The sizes to learn from, and those to judge with of each."""
        sizes = self.sizes or [_size(config)]
        largest = self.train_size or max(sizes)
        if not self.retrain_sizes and (list(sizes) == [largest] or _takes_any_size(config)):
            return {largest: sizes}
        return {size: [size] for size in sizes}

    def _steps(self, config: Config, *, typed: Sequence[str]) -> int | None:
        """Of a training; None: it is so many epochs long."""
        steps: int | None = self.steps or config["engine"]["max_steps"]
        chosen = self.steps or any(each.startswith("engine.max_") for each in typed)
        if config["dataset"]["name"] == GENERATED and not chosen:
            return min(steps or GENERATED_STEPS, GENERATED_STEPS)
        return steps


def _check_detects(config: Config) -> None:
    if not {"boxes", "labels"} <= {*config["task"]["requires"]}:
        raise ConfigError(f"task={config['task']['name']} is no detector; leave it out")


def _takes_any_size(config: Config) -> bool:
    """Whether what the model learns from images of one size holds for others."""
    try:
        model = untrained(config, ClassInfo(("object",))).model
    except CvtasksError:  # its training will say so
        return True
    return not any(getattr(module, "one_image_size", False) for module in model.modules())


def _size(config: Config) -> int:
    """Pixels of the images that it is judged with."""
    size = config["pipeline"].get("size")
    if size is None:
        raise ConfigError(f"pipeline={config['pipeline']['name']} has no size; choose another pipeline")
    return max(size) if isinstance(size, list) else size


def _sized(config: Config, size: int) -> list[str]:
    """Overrides for images of another size: a pipeline's longest side and a grid grow alike, steps follow from the maps."""
    alike = {key: value for key in ("pipeline.max_size", GRID) if (value := _value(config, key)) is not None}
    grown = [f"{key}={round(value * size / _size(config))}" for key, value in alike.items()]
    steps = [f"{STEPS}=null"] if _value(config, STEPS) is not None else []
    return [f"pipeline.size={size}", *grown, *steps]


def _value(config: Config, key: str) -> Any:
    group, name = key.split(".")
    return config[group].get(name)


def _findings(rows: list[dict[str, Any]], trainings: Sequence[Row], *, images: int) -> Findings:
    if not rows:
        return Findings(TITLE, {"Trainings": trainings}, lambda _: None)
    accuracy = [math.nan if row["AP"] is None else row["AP"] for row in rows]
    front = pareto_front([row[SECONDS] for row in rows], accuracy)
    for index, row in enumerate(rows):
        row["front"] = "yes" if index in front else None
    points = [
        Point(
            seconds=row[SECONDS],
            quartiles=(row[LOWER], row[UPPER]),
            accuracy=value,
            detector=row["detector"],
            backbone=row["backbone"],
            size=row["image size"],
            label=f"{row['image size']} px" + ("" if row["proposals"] is None else f", {row['proposals']}"),
        )
        for row, value in zip(rows, accuracy, strict=True)
    ]
    data = ", ".join(dict.fromkeys(row.pop("data") for row in rows))
    tables = {f"Measured on {data}": rows, "Trainings": trainings}
    text = _text([rows[index] for index in front], rows, images)
    return Findings(TITLE, tables, partial(draw_tradeoff, points, title=TITLE), text=text)


def _text(front: Sequence[Row], rows: Sequence[Row], images: int) -> str:
    precisions = ", ".join(dict.fromkeys(row["precision"] for row in rows))
    paragraphs = [
        f"""\
Seconds are of one image of the first {images}, read and resized before, in {precisions}: the median and the
quartiles of all runs. Memory is the most that the tensors of one image take, weights included. A multiply-add is
two FLOPs; those of convolutions and matrix products are counted."""
    ]
    if front:
        fastest, best = front[0], front[-1]
        found = f"**The front.** {len(front)} of {len(rows)} points are beaten by none. The fastest is {_told(fastest)}"
        if best is not fastest:
            longer = best[SECONDS] / fastest[SECONDS]
            found += f"; the most accurate is {_told(best)}, in {longer:.3g} times as long"
        paragraphs.append(f"{found}.")
    return "\n\n".join(textwrap.fill(each, 110) for each in paragraphs)


def _told(row: Row) -> str:
    proposals = "" if row["proposals"] is None else f" and {row['proposals']} proposals"
    return (
        f"{row['detector']} with {row['backbone']}, {row['image size']} pixels{proposals} "
        f"(AP {row['AP']:.3f} in {1e3 * row[SECONDS]:.3g} ms)"
    )
