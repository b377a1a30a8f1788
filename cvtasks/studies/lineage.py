"""The region-based lineage, trained and timed with one backbone, one data set, one set of proposals and one machine.

R-CNN sends every proposal through the network, SPP-net and Fast R-CNN every image, and Faster R-CNN makes its own
proposals; so each is faster than the one before it, and trains in fewer pieces. The study ends in the lecture's table:
training time, test time with and without proposals, and accuracy, beside the published numbers.

    cvtasks study lineage
    cvtasks study lineage dataset=voc dataset.root=/data/mine

One system's recipe for the data set says which backbone, size of images and proposals all of them have; how long each one
trains is its own recipe's. Every system is judged once, when it is trained, and its best weights predict a few images one
by one, on a stopwatch (`lineage_costs`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, Literal, TypeAlias, get_args

from cvtasks.assembly import Config, open_reader
from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.redaction import as_written
from cvtasks.studies.findings import Findings, Row
from cvtasks.studies.lineage_costs import PARTS, compute_proposals, time_prediction, time_proposals
from cvtasks.studies.parts import Result, StudyRun
from cvtasks.studies.pictures import Panel, draw_bars
from cvtasks.studies.trainings import as_overrides, composed, last_typed, train_parts
from cvtasks.types import Split

System: TypeAlias = Literal[
    "sliding_window_det", "rcnn", "sppnet", "fast_rcnn", "faster_rcnn", "faster_rcnn_vgg16", "rfcn"
]
Count = Annotated[int, Range(min=1)]

NAMES: Mapping[str, str] = {
    "sliding_window_det": "sliding window",
    "rcnn": "R-CNN",
    "sppnet": "SPP-net",
    "fast_rcnn": "Fast R-CNN",
    "faster_rcnn": "Faster R-CNN, pyramid",
    "faster_rcnn_vgg16": "Faster R-CNN",
    "rfcn": "R-FCN",
}
REQUIRES = ("boxes", "labels", "ignore")
FIRST = "rcnn"
"""What the others are compared with"""
JOINT = "rcnn_joint"
"""The part that trains R-CNN with one loss"""
WITH, WITHOUT = "seconds an image", "without proposals"
MEASURES = {"VOC07 mAP": "box/VOC07_mAP", "AP50": "box/AP50", "AP": "box/AP"}


@dataclass(frozen=True)
class Published:
    """What is published of a system with VGG16 on VOC2007. Seconds an image are of one GPU."""

    system: str
    hours: float | None
    """Of training"""
    seconds: float | None
    """With proposals"""
    without: float | None
    """Without them"""
    map_07: float | None
    """mAP on VOC2007's test images, in percent, after training on VOC2007's trainval"""
    map_0712: float | None
    """And on VOC2012's, too"""
    source: str


PUBLISHED = {
    "rcnn": Published("R-CNN", 84, 49, 47, 66.0, None, "lecture; Girshick, ICCV 2015, table 4"),
    "sppnet": Published("SPP-net", 25, 4.3, 2.3, 63.1, None, "lecture; Girshick, ICCV 2015, table 4"),
    "fast_rcnn": Published(
        "Fast R-CNN", 8.75, 2.3, 0.32, 66.9, 70.0, "lecture (the paper: 9.5 h); Girshick, ICCV 2015"
    ),
    "faster_rcnn": Published("Faster R-CNN", None, 0.2, None, 69.9, 73.2, "lecture; Ren et al., NIPS 2015"),
    "rfcn": Published("R-FCN, ResNet-101", None, 0.17, None, None, 79.5, "Dai et al., NIPS 2016"),
}
"""The lecture: CS231n, 2017, Detection and Segmentation. All but R-FCN with VGG16"""
RATIO = ("rcnn", "sppnet", "fast_rcnn", "faster_rcnn")
"""49 : 4.3 : 2.3 : 0.2 in the lecture"""


def lineage(
    *,
    run: StudyRun,
    dataset: Mapping[str, Any],
    systems: Sequence[System] = get_args(System),
    steps: Mapping[System, Count | None] | None = None,
    reference: System = "sppnet",
    backbone: str | None = None,
    proposals: str = "selective_search",
    proposals_limit: Count = 2000,
    images: Count = 20,
    repeats: Count = 3,
    ablation: bool = False,
    overrides: Sequence[str] = (),
    own: Mapping[System, Sequence[str]] | None = None,
) -> Findings:
    """dataset: the node of what all learn from. steps: of each training; None: its recipe's. reference: the system whose
    recipe says which backbone, size of images and settings of proposals all have. backbone: of all; None: the reference's.
    proposals, proposals_limit: of the systems that are given theirs. images, repeats: that predictions are timed on.
    ablation: R-CNN with one loss, too. overrides: of all trainings; own: of one system's.

    Raises ConfigError for no systems, or one twice, and for wrong overrides.
    """
    if not systems or len(set(systems)) < len(systems):
        raise ConfigError(f"study.systems: expected one at least, and none twice, not {list(systems)}")
    limited = (proposals, proposals_limit)
    plan = _Plan(run, dataset, steps or {}, reference, backbone, limited, overrides, own or {})
    ordered: list[System] = [system for system in get_args(System) if system in systems]
    trainings: dict[str, list[str]] = {system: plan.overrides_of(system) for system in ordered}
    if ablation:
        trainings[JOINT] = plan.overrides_of("rcnn", "task.training=joint")
    configs = {name: composed(run, typed) for name, typed in trainings.items()}
    for split in get_args(Split):  # data that all would fail with ends the study here
        open_reader(configs[ordered[0]] | {"task": {"requires": REQUIRES}}, split)
    given = next((config for config in configs.values() if _is_given(config)), None)
    proposed = None if given is None else _proposals(run, given)
    results = train_parts(run, trainings)
    trained = {
        system: composed(run, [f"device={run.device}", *trainings[system]])
        for system in ordered
        if system in results
    }
    times = _times(run, trained, images=images, repeats=repeats)
    return _findings(dataset["name"], configs, results, times, proposed)


@dataclass(frozen=True)
class _Plan:
    run: StudyRun
    dataset: Mapping[str, Any]
    steps: Mapping[System, int | None]
    reference: System
    backbone: str | None
    proposals: tuple[str, int]
    overrides: Sequence[str]
    own: Mapping[System, Sequence[str]]

    def overrides_of(self, system: System, *more: str) -> list[str]:
        """What is typed for a system's training; of a key that is typed twice the last one holds."""
        shared, proposals = self.shared
        typed = [f"task={system}", *shared, "engine.val_losses=false"]
        own = [*self.overrides, *self.own.get(system, ()), *more]
        config = composed(self.run, last_typed([*typed, *own]))
        if _is_given(config):
            typed += proposals
        if (steps := self.steps.get(system) or config["engine"]["max_steps"]) is not None:
            # Judged once, at the end: nothing is chosen by what it is judged by.
            typed += [f"engine.max_steps={steps}", f"engine.eval_every={steps}"]
        return last_typed([*typed, *own])

    @cached_property
    def shared(self) -> tuple[list[str], list[str]]:
        """What the reference says of all: the data set, the backbone and the size of images; and the proposals."""
        data = as_overrides("dataset", self.dataset)
        method, limit = self.proposals
        chosen = [f"proposals={method}", f"proposals.limit={limit}"]
        chosen += [f"backbone={self.backbone}"] if self.backbone else []
        found = composed(self.run, last_typed([f"task={self.reference}", *data, *chosen, *self.overrides]))
        network, proposals = (as_written(found[group], group) for group in ("backbone", "proposals"))
        network.pop("with_classifier", None)  # fc6 and fc7 belong to a system's head
        size = as_overrides("pipeline", found["pipeline"], keys=("size", "max_size", "keep_aspect"))
        return [*data, *as_overrides("backbone", network), *size], as_overrides("proposals", proposals)


def _is_given(config: Config) -> bool:
    return "proposals" in config["task"]["requires"]


def _proposals(run: StudyRun, config: Config) -> Result | None:
    """Computed before the first training, so that none has to wait for them."""
    keys = ("dataset", "proposals")
    settings = as_written({key: config[key] for key in keys})
    return run.part("proposals", lambda _: compute_proposals(config), settings=settings)


def _times(run: StudyRun, configs: Mapping[System, Config], **counts: int) -> dict[str, Result]:
    """How long each trained system takes. Those with the same proposals have the same seconds of them, measured once."""

    def part(name: str, measure: Callable[[], Result], **settings: Any) -> Result | None:
        return run.part(name, lambda _: measure(), settings=settings | counts)

    methods: list[tuple[Any, Result | None]] = []
    found: dict[str, Result] = {}
    for system, config in configs.items():
        seconds = None
        if _is_given(config):
            method = as_written(config["proposals"], "proposals")
            if method not in (known for known, _ in methods):
                timing = partial(time_proposals, config, **counts)
                methods.append((method, part(f"{system}_proposals_time", timing, proposals=method)))
            proposed = next(result for known, result in methods if known == method)
            if proposed is None:
                continue
            seconds = proposed["seconds"]
        timing = partial(time_prediction, config, run.parts / system, proposals=seconds, **counts)
        if (timed := part(f"{system}_time", timing)) is not None:
            found[system] = timed
    return found


def _findings(
    data: str,
    configs: Mapping[str, Config],
    results: Mapping[str, Result],
    times: Mapping[str, Result],
    proposed: Result | None,
) -> Findings:
    if not results:
        return Findings("The region-based lineage", {}, lambda _: None)
    measured = [_measured(system, result, times) for system, result in results.items() if system in NAMES]
    parts = [
        {"system": NAMES[system], **{part: timed[part] for part in PARTS}, "all": timed[WITH]}
        for system, timed in times.items()
    ]
    objectives = [
        {"objectives": told, **_training(results[name]), **_quality(results[name])}
        for name, told in {
            "rcnn": "three stages: softmax, SVMs, boxes",
            JOINT: "one loss: softmax and smooth L1",
        }.items()
        if name in results and JOINT in configs
    ]
    tables: dict[str, Sequence[Row]] = {
        f"Measured on {data}": measured,
        "Where the seconds of an image go": parts,
        "Ad hoc training objectives": objectives,
        "Published (not measured here)": [_published(each) for each in PUBLISHED.values()],
    }
    panels = _panels(measured, parts, objectives)
    text = _text(data, configs, times, proposed)
    return Findings("The region-based lineage", tables, partial(draw_bars, panels), text=text)


def _training(result: Result) -> dict[str, Any]:
    return {"training seconds": result["training_seconds"]}


def _quality(result: Result) -> dict[str, Any]:
    return {name: result["metrics"].get(metric) for name, metric in MEASURES.items()}


def _measured(system: str, result: Result, times: Mapping[str, Result]) -> Row:
    timed, first = times.get(system, {}), times.get(FIRST, {})
    return {
        "system": NAMES[system],
        **_training(result),
        WITH: timed.get(WITH),
        WITHOUT: timed.get(WITHOUT),
        **_speed_up(*((first.get(key), timed.get(key)) for key in (WITH, WITHOUT))),
        **_quality(result),
    }


def _published(each: Published) -> Row:
    first = PUBLISHED[FIRST]
    return {
        "system": each.system,
        "training hours": each.hours,
        WITH: each.seconds,
        WITHOUT: each.without,
        **_speed_up((first.seconds, each.seconds), (first.without, each.without)),
        "VOC07 mAP": each.map_07,
        "with VOC12": each.map_0712,
        "source": each.source,
    }


def _speed_up(
    with_proposals: tuple[float | None, float | None], without: tuple[float | None, float | None]
) -> dict[str, float | None]:
    """How many times as fast as R-CNN, from its seconds and the system's own."""
    names = ("times R-CNN's speed", "times, without proposals")
    pairs = zip(names, (with_proposals, without), strict=True)
    return {name: first / own if first and own else None for name, (first, own) in pairs}


def _text(
    data: str, configs: Mapping[str, Config], times: Mapping[str, Result], proposed: Result | None
) -> str:
    config = next(iter(configs.values()))
    precision = f", in {next(iter(times.values()))['precision']}" if times else ""
    backbone, size = config["backbone"]["name"], config["pipeline"]["size"]
    paragraphs = [
        f"""\
All systems have the backbone {backbone}, images of {size} pixels and the same training images of {data}, unless their own
settings say otherwise. Training seconds have neither proposals nor evaluations in them. Test times are medians of single
images that were read and resized before{precision}. What is published was measured by others, with other networks, on other
machines and data: it is there for its ratios."""
    ]
    if all(system in times for system in RATIO[:3]) and (faster := _faster(times)):
        ours = [times[system][WITH] for system in (*RATIO[:3], faster)]
        scaled = " : ".join(f"{PUBLISHED[FIRST].seconds * each / ours[0]:.2g}" for each in ours)  # type: ignore[operator]
        lecture = " : ".join(f"{PUBLISHED[system].seconds:g}" for system in RATIO)
        paragraphs.append(f"""\
**Test time.** The lecture, with proposals: R-CNN, SPP-net, Fast R-CNN and Faster R-CNN take {lecture} seconds. Measured:
{" : ".join(f"{each:.3g}" for each in ours)} seconds, which is {scaled} where R-CNN's is 49.""")
    if proposed is not None and proposed["val"]["seconds"] is not None:
        train, val = proposed["train"], proposed["val"]
        given = next(config for config in configs.values() if _is_given(config))
        paragraphs.append(f"""\
**Proposals.** {given["proposals"]["name"]} finds {train["proposals an image"]:.0f} of them in a training image; for all
{train["images"] + val["images"]} images of both splits it took {train["seconds"] + val["seconds"]:.0f} seconds of one core,
once for all systems.""")
    return "\n\n".join(textwrap.fill(each, 110) for each in paragraphs)


def _faster(times: Mapping[str, Result]) -> str | None:
    """The Faster R-CNN whose time is told: that of the paper, if it was timed."""
    return next((name for name in ("faster_rcnn_vgg16", "faster_rcnn") if name in times), None)


def _panels(measured: Sequence[Row], parts: Sequence[Row], objectives: Sequence[Row]) -> list[Panel]:
    published = [_published(each) for each in PUBLISHED.values()]
    timed = [row for row in measured if row[WITH] is not None]

    def panel(title: str, rows: Sequence[Row], *keys: str, **more: Any) -> Panel:
        bars = {
            next(iter(row.values())): {key: row[key] for key in keys if row[key] is not None} for row in rows
        }
        return Panel(title, {name: group for name, group in bars.items() if group}, **more)

    panels = [
        panel("MEASURED: seconds an image", timed, WITH, WITHOUT, log=True),
        panel("MEASURED: seconds of training", measured, "training seconds", log=True),
        panel("MEASURED: accuracy", measured, "VOC07 mAP", "AP", most=1.0),
        panel("PUBLISHED: seconds an image", published, WITH, WITHOUT, log=True),
        panel("PUBLISHED: hours of training", published, "training hours", log=True),
        panel("PUBLISHED: mAP on VOC2007", published, "VOC07 mAP", "with VOC12", most=100.0),
        panel("MEASURED: where an image's seconds go", parts, *PARTS, shares=True),
        panel("MEASURED: R-CNN's objectives", objectives, "VOC07 mAP", "AP", most=1.0),
    ]
    return [each for each in panels if each.bars]
