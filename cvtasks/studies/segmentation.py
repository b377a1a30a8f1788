"""What the lecture argues with on semantic segmentation, measured: four comparisons, each a table and a panel or more.

sliding_window    a classifier of patches, slid over the image, against the same weights run densely
full_resolution   convolutions that never down-sample against networks that do, and up-sample again
fcn               FCN-32s, FCN-16s and FCN-8s, trained in stages as in their paper (Long et al., CVPR 2015)
upsampling        the six up-sampling layers in the same U-Net

    cvtasks study segmentation

Costs are measured in fp32, so that multiply-adds and kept bytes are the same on every machine; trainings have the precision
that their configuration says.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, Literal, TypeAlias, get_args

from cvtasks.assembly import Config, open_reader
from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.upsample import UpsampleKind
from cvtasks.studies.findings import Findings, Row
from cvtasks.studies.networks import untrained
from cvtasks.studies.parts import Result, StudyRun
from cvtasks.studies.pictures import Panel, draw_bars
from cvtasks.studies.segmentation_costs import Way, label_both_ways, training_steps
from cvtasks.studies.trainings import composed, train_parts
from cvtasks.types import ClassInfo

Argument: TypeAlias = Literal["sliding_window", "full_resolution", "fcn", "upsampling"]
Count = Annotated[int, Range(min=1)]

FULL, UNET, FCN8 = "full resolution", "U-Net", "FCN-8s"
COMPARED = {FULL: "full_resolution", UNET: "unet", FCN8: "fcn8s"}
"""The systems whose training steps are measured, and their trainings; the first two learn from the same images"""
STAGES = {
    "FCN-32s": ("fcn32s", None, 1),
    "FCN-16s": ("fcn16s", "fcn32s", 2),
    "FCN-8s": ("fcn8s", "fcn16s", 3),
    "FCN-32s, as long": ("fcn32s_longer", "fcn32s", 3),
}
"""Training, whose weights it begins with, and how many times `fcn_steps` it has then learnt. The last one tells what the
finer maps owe to more steps."""


def segmentation(
    *,
    run: StudyRun,
    arguments: Sequence[Argument] = get_args(Argument),
    steps: Count = 1000,
    fcn_steps: Count = 1500,
    sizes: Sequence[Annotated[int, Range(min=32)]] = (64, 128, 256),
    batch_size: Count = 4,
    images: Count = 4,
    repeats: Count = 5,
    overrides: Sequence[str] = (),
) -> Findings:
    """arguments: those to look into. steps, fcn_steps: of each training. sizes, batch_size: of the training steps that
    are measured. images: labelled in both ways. repeats: of which the median time is given. overrides: of all trainings.

    Raises ConfigError for empty lists, sizes that are no multiples of 32, and wrong overrides.
    """
    for name, values in (("arguments", arguments), ("sizes", sizes)):
        if not values:
            raise ConfigError(f"study.{name}: expected one at least")
    for size in sizes:
        if size % 32:  # no batch of data has others
            raise ConfigError(f"study.sizes: expected multiples of 32, not {size}")
    plan = _trainings(run, steps, fcn_steps, overrides)
    wanted = [argument for argument in get_args(Argument) if argument in arguments]
    results = train_parts(run, {name: own for a in wanted for name, own in plan[a].items()})
    study = _Study(run, {name: own for parts in plan.values() for name, own in parts.items()}, results)
    tell: dict[Argument, Callable[[], _Told]] = {
        "sliding_window": lambda: _sliding_window(study, images, repeats),
        "full_resolution": lambda: _full_resolution(study, sorted(set(sizes)), batch_size, repeats),
        "fcn": lambda: _fcn(study, fcn_steps),
        "upsampling": lambda: _upsampling(study),
    }
    told = [tell[argument]() for argument in wanted]
    return Findings(
        "Semantic segmentation",
        {heading: rows for each in told for heading, rows in each.tables.items()},
        draw=partial(draw_bars, [panel for each in told for panel in each.panels]),
        text="\n\n".join(textwrap.fill(each.text, 110) for each in told),
    )


def _trainings(
    run: StudyRun, steps: int, fcn_steps: int, overrides: Sequence[str]
) -> dict[Argument, dict[str, list[str]]]:
    """The overrides of each training that an argument needs."""

    def training(task: str, *own: str, steps: int = steps) -> list[str]:
        # Judged once, at the end: nothing is chosen by what it is judged by.
        return [
            f"task={task}",
            f"engine.max_steps={steps}",
            f"engine.eval_every={steps}",
            *own,
            *overrides,
        ]

    full = training("fcn_full_res")
    fcn = {}
    learnt = {None: 0} | {name: times for name, _, times in STAGES.values()}
    for name, before, times in STAGES.values():
        own = [] if before is None else [f'weights="{{parts}}/{before}"']
        fcn[name] = training(name.removesuffix("_longer"), *own, steps=(times - learnt[before]) * fcn_steps)
    return {
        "sliding_window": {"sliding_window": training("sliding_window_seg")},
        "full_resolution": {
            "full_resolution": full,
            "unet": training("unet", *_same_images(composed(run, full))),
        },
        "fcn": fcn,
        "upsampling": {
            f"unet_{kind}": training("unet", f"task.upsample={kind}") for kind in get_args(UpsampleKind)
        },
    }


def _same_images(config: Config) -> list[str]:
    """Overrides for the images, and as many of them in a step, that another configuration has."""
    keys = (
        ("dataset", "scene"),
        ("dataset", "image_size"),
        ("pipeline", "size"),
        ("loader", "batch_size"),
    )
    return [f"{group}.{key}={config[group][key]}" for group, key in keys if key in config[group]]


@dataclass
class _Told:
    """An argument: the claim and what was found, its tables, and its panels of the picture."""

    text: str = ""
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    panels: Sequence[Panel] = ()


@dataclass
class _Study:
    """The trainings, with their overrides and their results, if they have any."""

    run: StudyRun
    overrides: Mapping[str, Sequence[str]]
    results: Mapping[str, Result]

    @cached_property
    def classes(self) -> ClassInfo:
        return open_reader(self.config(COMPARED[FULL]), "train").classes

    def config(self, name: str) -> Config:
        """A training's configuration, for measurements. Weights of the classes are counted for training alone."""
        typed = [f"device={self.run.device}", *self.overrides[name]]
        return composed(self.run, [*typed, "engine.precision=fp32", "task.class_weights=null"])

    def parameters(self, name: str) -> int:
        return sum(p.numel() for p in untrained(self.config(name), self.classes).model.parameters())

    def metric(self, name: str, metric: str) -> float:
        """NaN where there is none."""
        value = self.results[name]["metrics"].get(f"seg/{metric}") if name in self.results else None
        return math.nan if value is None else value

    def quality(self, name: str) -> dict[str, float]:
        return {"mIoU": self.metric(name, "mIoU"), "boundary F1": self.metric(name, "boundary_F1")}


def _sliding_window(study: _Study, images: int, repeats: int) -> _Told:
    if "sliding_window" not in study.results:
        return _Told()
    found = study.run.part(
        "sliding_against_dense",
        lambda _: label_both_ways(
            study.config("sliding_window"),
            study.classes,
            study.run.parts / "sliding_window",
            images=images,
            repeats=repeats,
        ),
        settings={"images": images, "repeats": repeats},
    )
    if found is None:
        return _Told()
    ways = {way: found[way] for way in get_args(Way)}
    rows: list[dict[str, Any]] = [{"way": way, **costs} for way, costs in ways.items()]
    ratio = {key: ways["sliding"][key] / ways["dense"][key] for key in ways["dense"]}
    rows.append({"way": "sliding / dense", **ratio})
    rows[1] |= {"labels as sliding": found["equal"], "logits differ by": found["difference"]}
    seconds, operations = ratio["seconds an image"], ratio["10^9 multiply-adds an image"]
    share = "all" if found["equal"] == 1 else f"a share of {found['equal']:.6f} of the"
    text = f"""\
**Sliding window.** The lecture: to slide a window over the image is very inefficient, as overlapping patches do not
share what is computed for them. Measured with the same weights (mIoU {study.metric("sliding_window", "mIoU"):.3f}) on
{found["images"]} images of {found["size"]}: {share} labels are equal to those of a dense run (logits differ by
{found["difference"]:.1g} at most), and sliding takes {operations:.3g} times the multiply-adds and {seconds:.3g} times
the seconds."""
    panel = Panel(
        f"A window slid, or run densely:\n{operations:.3g} times the multiply-adds an image",
        {key.removesuffix(" an image"): {way: c[key] for way, c in ways.items()} for key in ratio},
        log=True,
    )
    return _Told(text, {"Sliding window against dense evaluation": rows}, [panel])


def _full_resolution(study: _Study, sizes: Sequence[int], batch_size: int, repeats: int) -> _Told:
    def measure(size: int) -> Result:
        configs = {system: study.config(name) for system, name in COMPARED.items()}
        return training_steps(
            configs,
            study.classes,
            size=size,
            batch_size=batch_size,
            repeats=repeats,
            seed=study.run.seed,
        )

    found = {}
    for size in sizes:
        result = study.run.part(
            f"training_step_{size}",
            lambda _, size=size: measure(size),  # type: ignore[misc]
            settings={"batch_size": batch_size, "repeats": repeats},
        )
        if result is not None:
            found[size] = result
    quality = [
        {
            "system": system,
            **study.quality(name),
            "parameters": study.parameters(name),
            "training seconds": study.results[name]["seconds"],
        }
        for system, name in COMPARED.items()
        if name in ("full_resolution", "unet") and name in study.results
    ]
    heading = "Full resolution against down- and up-sampling"
    costs = [
        {"pixels": size, "system": system, **result[system]}
        for size, result in found.items()
        for system in COMPARED
    ]
    tables = {heading: quality, f"{heading}: a training step of {batch_size} images": costs}
    panels = [_quality_panel("Learnt in the same steps from the same images", quality)] if quality else []
    if not found:
        return _Told(tables=tables, panels=panels)
    largest = max(found)
    times = {key: value / found[largest][UNET][key] for key, value in found[largest][FULL].items()}
    seconds, kept, operations = times.values()

    def panel(title: str, key: str) -> Panel:
        bars = {f"{size} pixels": {s: result[s][key] for s in COMPARED} for size, result in found.items()}
        return Panel(f"{title}:\n{times[key]:.3g} times U-Net's at {largest} pixels", bars, log=True)

    panels = [
        panel("MB kept an image for its gradients", "MB kept an image"),
        panel(f"Seconds a training step of {batch_size} images", "seconds a step"),
        *panels,
    ]
    quantities = f"""\
**Full resolution.** The lecture: convolutions at the image's resolution are very expensive, so down-sample inside the
network, and up-sample again. Measured at {largest} pixels: full resolution keeps {kept:.3g} times as much memory for its
gradients as U-Net, and takes {operations:.3g} times the multiply-adds and {seconds:.3g} times the seconds of a training
step."""
    if len(quality) < 2:
        return _Told(quantities, tables, panels)
    full, unet = quality
    text = f"""{quantities} Full resolution has {full["parameters"]:,} parameters and U-Net {unet["parameters"]:,}; as many
steps with the same images gave mIoU {full["mIoU"]:.3f} and {unet["mIoU"]:.3f}."""
    return _Told(text, tables, panels)


def _fcn(study: _Study, fcn_steps: int) -> _Told:
    rows = [
        {
            "system": system,
            "begins with": before or "nothing",
            "steps in all": times * fcn_steps,
            **study.quality(name),
            "training seconds": study.results[name]["seconds"],
        }
        for system, (name, before, times) in STAGES.items()
        if name in study.results
    ]
    if not rows:
        return _Told()
    stages = " -> ".join(list(STAGES)[:3])
    numbers = {
        key: " -> ".join(f"{study.quality(name)[key]:.3f}" for name, *_ in list(STAGES.values())[:3])
        for key in ("mIoU", "boundary F1")
    }
    longer = study.quality("fcn32s_longer")
    text = f"""\
**Skips.** The paper: one prediction for 32 x 32 pixels is coarse; scores of finer maps, added stage by stage, sharpen it.
Measured ({stages}): mIoU {numbers["mIoU"]}, boundary F1 {numbers["boundary F1"]}. FCN-32s without finer maps, trained as
long as all three: {longer["mIoU"]:.3f} and {longer["boundary F1"]:.3f}."""
    return _Told(
        text, {"FCN-32s, FCN-16s, FCN-8s": rows}, [_quality_panel("Finer maps, stage by stage", rows)]
    )


def _upsampling(study: _Study) -> _Told:
    rows = [
        {
            "layer": kind,
            **study.quality(f"unet_{kind}"),
            "parameters": study.parameters(f"unet_{kind}"),
            "training seconds": study.results[f"unet_{kind}"]["seconds"],
        }
        for kind in get_args(UpsampleKind)
        if f"unet_{kind}" in study.results
    ]
    if not rows:
        return _Told()
    worst, best = (choose(rows, key=lambda row: row["mIoU"]) for choose in (min, max))
    text = f"""\
**Up-sampling layers.** The lecture: the way back to the resolution may be fixed or learnt. Measured in the same U-Net,
whose skips bring the details whatever the layer is: from mIoU {worst["mIoU"]:.3f} ({worst["layer"]}) to {best["mIoU"]:.3f}
({best["layer"]}). Each was trained once, so a small difference may be chance."""
    return _Told(
        text,
        {"Six up-sampling layers in one U-Net": rows},
        [_quality_panel("The same U-Net, six layers", rows)],
    )


def _quality_panel(title: str, rows: Sequence[Row]) -> Panel:
    bars = {next(iter(row.values())): {key: row[key] for key in ("mIoU", "boundary F1")} for row in rows}
    return Panel(title, bars, most=1.0)
