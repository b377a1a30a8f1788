"""Plots of a run, as PNG files: curves over steps from `metrics.jsonl`, and what evaluators hand over.

Every function takes plain data and the path to write. Numbers that are missing or null leave a gap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from cvtasks.viz.colors import class_color, luminance

Record: TypeAlias = Mapping[str, Any]
"""One line of metrics.jsonl: `step`, and flat names of numbers."""

STYLE: Any = {
    "figure.dpi": 150, "savefig.dpi": 150, "figure.constrained_layout.use": True,
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#666666", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.8,
    "xtick.color": "#444444", "ytick.color": "#444444", "axes.labelcolor": "#222222",
    "lines.linewidth": 1.6, "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip
_BLACK = "#222222"
_HEADLINES = (
    "AP", "AP50", "AP75", "mIoU", "pixel_accuracy", "accuracy", "class_accuracy",
    "PCK@0.2", "PCP", "PCKh@0.5", "OKS_AP",
)  # fmt: skip
_MOST_CURVES = 12
"""More lines than this in one plot cannot be told apart."""
_MOST_NUMBERS = 25
"""More rows and columns of numbers than this cannot be read."""
_MOST_ROWS = 60
"""More bars of several parts than this make a picture that nobody scrolls through."""
_VERDICTS = {"right": "#009e73", "box": "#56b4e9", "class": "#e69f00", "both": "#9a3f00"}


def losses(records: Sequence[Record], path: Path) -> None:
    """The total loss of training and validation, and beside it each term (validation dashed)."""
    with _figure(path, columns=2, width=9) as (total, terms):
        _curve(total, records, "loss", smooth=True, label="training", color=_BLACK)
        _curve(total, records, "val/loss", label="validation", color=_BLACK, linestyle="--")
        names = [*dict.fromkeys(key.split("loss/", 1)[1] for r in records for key in r if "loss/" in key)]
        for i, name in enumerate(names[:_MOST_CURVES]):
            _curve(terms, records, f"loss/{name}", smooth=True, label=name, color=line_color(i))
            _curve(terms, records, f"val/loss/{name}", color=line_color(i), linestyle="--")
        _stage_borders((total, terms), records)
        total.set(title="Loss", xlabel="step", ylabel="weighted sum")
        terms.set(title="Terms (validation dashed)", xlabel="step", ylabel="loss")
        total.set_ylim(bottom=0)
        terms.set_yscale("log" if names else "linear")


def metrics(records: Sequence[Record], path: Path, *, names: Sequence[str] | None = None) -> None:
    """The metrics `names` over steps; by default each family's headline numbers (`box/AP`, `seg/mIoU`, …)."""
    if names is None:
        keys = dict.fromkeys(key for r in records for key in r if key.count("/") == 1)
        names = [key for key in keys if key.split("/")[1] in _HEADLINES]
    with _figure(path) as (axes,):
        for i, name in enumerate(names[:_MOST_CURVES]):
            _curve(axes, records, name, label=name, color=line_color(i), marker="o", markersize=3)
        _stage_borders((axes,), records)
        axes.set(title="Metrics on the validation split", xlabel="step", ylabel="value", ylim=(0, 1))


def pace(records: Sequence[Record], path: Path) -> None:
    """Learning rate and throughput over steps."""
    with _figure(path, columns=2, width=9) as (rate, throughput):
        _curve(rate, records, "lr", color=line_color(0))
        _curve(throughput, records, "images_per_s", smooth=True, color=line_color(2))
        _stage_borders((rate, throughput), records)
        rate.set(title="Learning rate", xlabel="step", ylabel="lr", ylim=(0, None))
        throughput.set(title="Throughput", xlabel="step", ylabel="images / s", ylim=(0, None))


def precision_recall(data: Mapping[str, Any], path: Path) -> None:
    """`recall` [R], `classes` {name: precision [R]} and `mean` [R], at IoU 0.5."""
    classes = data["classes"]
    many = len(classes) > _MOST_CURVES
    with _figure(path, width=6.4 if many else 7.2) as (axes,):
        for i, (name, precision) in enumerate(classes.items()):
            faint = {"alpha": 0.35, "linewidth": 0.8} if many else {"label": name}
            axes.plot(data["recall"], precision, color=_on_white(i), **faint)
        if data["mean"]:
            label = f"mean of {len(classes)} classes"
            axes.plot(data["recall"], data["mean"], color=_BLACK, linewidth=2.4, label=label)
        title = "Precision and recall at IoU 0.5"
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def per_class_ap(data: Mapping[str, float], path: Path) -> None:
    _per_class(data, path, title="AP of each class", xlabel="AP (IoU 0.50:0.95)")


def per_class_iou(data: Mapping[str, float], path: Path) -> None:
    _per_class(data, path, title="IoU of each class", xlabel="IoU")


def confusion_matrix(data: Mapping[str, Any], path: Path) -> None:
    """`classes` (K names) and `shares` [K, K]: of the pixels of a class (row), the part found as each (column).

    `of`: what it is a share of, "images" for one. The row of a class that truth does not have is empty (NaN).
    """
    import matplotlib

    names, shares = data["classes"], data["shares"]
    count = len(names)
    side = 2.2 + min(max(count, 4) * 0.42, 9)
    size = max(3.0, min(8.0, 260 / max(count, 1)))
    with _figure(path, width=side + 0.8, height=side) as (axes,):
        image = axes.imshow(
            shares, cmap=matplotlib.colormaps["Blues"].with_extremes(bad="#eeeeee"), vmin=0, vmax=1
        )
        axes.figure.colorbar(image, shrink=0.7, label=f"share of the true class's {data.get('of', 'pixels')}")
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.grid(visible=False)
        axes.set(title="Confusion of classes", xlabel="found", ylabel="truth")
        if count <= _MOST_NUMBERS:
            for row, values in enumerate(shares):
                for column, share in enumerate(values):
                    if share >= 0.005:  # NaN is not
                        color = "white" if share > 0.6 else _BLACK
                        axes.text(
                            column, row, f"{share:.2f}", ha="center", va="center", fontsize=6, color=color
                        )


def error_breakdown(data: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Of all images, and of each class's, the shares that are right, and that have the box, the class or both wrong."""
    shown = dict(list(data.items())[:_MOST_ROWS])
    names = {"right": "right", "box": "box wrong", "class": "class wrong", "both": "both wrong"}
    with _figure(path, width=7.2, height=1.4 + 0.24 * max(len(shown), 4), most_inside=0) as (axes,):
        rows = [row + 0.5 * (row > 0) for row in range(len(shown))]  # all images stand apart
        left = [0.0] * len(shown)
        for verdict, color in _VERDICTS.items():
            shares = [group[verdict] for group in shown.values()]
            axes.barh(rows, shares, left=left, color=color, height=0.75, label=names[verdict])
            for row, start, share in zip(rows, left, shares, strict=True):
                if share >= 0.06:  # NaN is not
                    ink = "white" if verdict in ("right", "both") else _BLACK
                    middle = start + share / 2
                    axes.text(middle, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=ink)
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axes.set_yticks(rows, shown)
        axes.set_ylim((rows or [0])[-1] + 0.6, -0.6)
        axes.grid(visible=False, axis="y")
        more = f" (the first {_MOST_ROWS - 1} classes)" if len(data) > _MOST_ROWS else ""
        axes.set(title=f"First guesses{more}", xlabel="share of images", xlim=(0, 1))


def pdj(data: Mapping[str, Any], path: Path) -> None:
    _detection_rates(
        data, path, title="Detected joints (PDJ)", xlabel="distance, as a part of the torso", marked=0.2
    )


def pckh(data: Mapping[str, Any], path: Path) -> None:
    _detection_rates(data, path, title="PCKh", xlabel="distance, as a part of the head's size", marked=0.5)


def per_joint_pck(data: Mapping[str, float], path: Path) -> None:
    _per_class(data, path, title="PCK@0.2 of each joint", xlabel="share of people")


def per_limb_pcp(data: Mapping[str, float], path: Path) -> None:
    _per_class(data, path, title="PCP of each limb", xlabel="share of people")


def stages(data: Mapping[str, Sequence[float]], path: Path) -> None:
    """`mean_error` after each stage of a cascade, and beside it what is found: `PCK@0.2` and `PCP`."""
    numbers = range(1, len(data["mean_error"]) + 1)
    with _figure(path, columns=2, width=9) as (errors, rates):
        drawn = {"mean_error": (errors, 5, 6), "PCK@0.2": (rates, 4, 6), "PCP": (rates, 2, -12)}
        for name, (axes, color, above) in drawn.items():
            values = data[name]
            axes.plot(numbers, values, marker="o", color=_on_white(color), label=name)
            for number, value in zip(numbers, values, strict=True):
                if not math.isnan(value):
                    place = {"xytext": (0, above), "textcoords": "offset points", "ha": "center"}
                    axes.annotate(f"{value:.3f}", (number, value), fontsize=7.5, color=_BLACK, **place)
        errors.set(title="Mean error after each stage", ylabel="part of the person box's diagonal")
        rates.set(title="Found after each stage", ylabel="share", ylim=(0, 1.05))
        errors.set_ylim(0, 1.2 * max([v for v in data["mean_error"] if not math.isnan(v)], default=1))
        for axes in (errors, rates):
            axes.set(xlabel="stage", xlim=(0.5, len(numbers) + 0.5))
            axes.set_xticks(numbers)


def recall_at_iou(data: Mapping[str, Any], path: Path) -> None:
    """`iou` [T] and `recall` {number of proposals: [T]}."""
    with _figure(path) as (axes,):
        for i, (count, recall) in enumerate(data["recall"].items()):
            label = f"best {count}"
            axes.plot(data["iou"], recall, label=label, color=line_color(i), marker="o", markersize=3)
        axes.set(title="Objects that proposals find", xlabel="IoU", ylabel="recall")
        axes.set(xlim=(data["iou"][0], data["iou"][-1]), ylim=(0, 1.02))


def recall_of_proposals(data: Mapping[str, Any], path: Path) -> None:
    """`proposals` [C], their numbers, and `recall` at IoU 0.5 {size of the objects: [C]}."""
    with _figure(path) as (axes,):
        for i, (size, recall) in enumerate(data["recall"].items()):
            style = {"color": _BLACK, "linewidth": 2.4} if size == "all" else {"color": line_color(i)}
            axes.plot(data["proposals"], recall, label=size, **style)
        axes.set_xscale("log")
        axes.set(
            title="Objects found at IoU 0.5", xlabel="proposals an image", ylabel="recall", ylim=(0, 1.02)
        )


RECORD_PLOTS: dict[str, Callable[[Sequence[Record], Path], None]] = {
    "losses": losses,
    "metrics": metrics,
    "pace": pace,
}
"""What can be drawn from metrics.jsonl."""

PLOTS: dict[str, Callable[[Any, Path], None]] = {
    "precision_recall": precision_recall,
    "per_class_ap": per_class_ap,
    "per_class_iou": per_class_iou,
    "confusion_matrix": confusion_matrix,
    "error_breakdown": error_breakdown,
    "pdj": pdj,
    "pckh": pckh,
    "per_joint_pck": per_joint_pck,
    "per_limb_pcp": per_limb_pcp,
    "stages": stages,
    "recall_at_iou": recall_at_iou,
    "recall_of_proposals": recall_of_proposals,
}
"""What can be drawn of an evaluator's `plot_data`, by its names."""


def _detection_rates(data: Mapping[str, Any], path: Path, *, title: str, xlabel: str, marked: float) -> None:
    """`fractions` [F], `parts` {name: rates [F]} and `mean` [F]. marked: the fraction that has a metric of its own."""
    fractions, parts = data["fractions"], data["parts"]
    styles = ("-", "--", "-.", ":")
    with _figure(path, width=7.2) as (axes,):
        axes.axvline(marked, color="#999999", linewidth=1)
        for i, (name, rates) in enumerate(parts.items()):
            axes.plot(fractions, rates, label=name, color=line_color(i % 7), linestyle=styles[i // 7 % 4])
        axes.plot(fractions, data["mean"], label="mean", color=_BLACK, linewidth=2.4)
        axes.set(title=title, xlabel=xlabel, ylabel="share of joints found")
        axes.set(xlim=(0, fractions[-1]), ylim=(0, 1.02))


def _per_class(data: Mapping[str, float], path: Path, *, title: str, xlabel: str) -> None:
    """A bar for each class that has a number, best first."""
    index = {name: i for i, name in enumerate(data)}
    defined = [(name, value) for name, value in data.items() if not math.isnan(value)]
    ordered = sorted(defined, key=lambda item: item[1], reverse=True)
    with _figure(path, height=1.2 + 0.2 * max(len(ordered), 4)) as (axes,):
        names, values = [name for name, _ in ordered], [value for _, value in ordered]
        rows = range(len(ordered))
        many = len(ordered) > _MOST_CURVES
        colors = [line_color(0) if many else _on_white(index[name]) for name in names]
        axes.barh(rows, values, color=colors, height=0.75)
        for row, value in zip(rows, values, strict=True):
            axes.text(value + 0.008, row, f"{value:.3f}", va="center", fontsize=7.5, color=_BLACK)
        axes.set_yticks(rows, names)
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(title=title, xlabel=xlabel, xlim=(0, 1.08))


@contextmanager
def _figure(
    path: Path, *, columns: int = 1, width: float = 6.4, height: float = 3.8, most_inside: int = 4
) -> Iterator[Sequence[Any]]:
    """Axes in one style, written to `path` at the end. No pyplot: no display, no figures kept in memory.

    most_inside: a legend of more entries stands beside the axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield axes
        for one in axes:
            entries = len(one.get_legend_handles_labels()[0])
            if entries > most_inside:
                one.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            elif entries:
                one.legend(loc="best")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _curve(axes: Any, records: Sequence[Record], key: str, *, smooth: bool = False, **style: Any) -> None:
    """One number over the steps; if `smooth`, its running mean over a twentieth, with the numbers faint."""
    points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    if not points:
        return
    steps, values = map(list, zip(*points, strict=True))
    window = len(values) // 20
    if smooth and window > 1:
        axes.plot(steps, values, color=style["color"], alpha=0.25, linewidth=1)
        starts = [max(0, i + 1 - window) for i in range(len(values))]
        values = [sum(values[s : i + 1]) / (i + 1 - s) for i, s in enumerate(starts)]
    axes.plot(steps, values, **style)


def _stage_borders(figure: Sequence[Any], records: Sequence[Record]) -> None:
    """A dotted line at the last step of each stage of a model that trains in stages, with the name of the next."""
    for before, after in itertools.pairwise(records):
        if before.get("stage") != after.get("stage"):
            for axes in figure:
                axes.axvline(before["step"], color="#888888", linestyle=":", linewidth=1)
                axes.text(
                    before["step"], 1, after.get("stage", ""), transform=axes.get_xaxis_transform(),
                    rotation=90, ha="left", va="top", fontsize=6.5, color="#888888",
                )  # fmt: skip


def line_color(index: int) -> str:
    """For curves without a class: those that stand out most on white come first."""
    return _on_white((4, 5, 2, 6, 0, 1, 3)[index] if index < 7 else index)


def _on_white(index: int) -> str:
    """The colour of a class, darker where it would fade on white paper."""
    color = class_color(index)
    dim = 0.8 if luminance(color) > 0.5 else 1.0
    return "#" + "".join(f"{round(dim * part):02x}" for part in color)
