"""Accuracy against time: which points nothing else beats, and their picture, as Huang et al. (CVPR 2017) drew it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvtasks.studies.pictures import figure
from cvtasks.viz.plots import line_color

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")


@dataclass(frozen=True)
class Point:
    """A detector in the picture."""

    seconds: float
    """The median"""
    quartiles: tuple[float, float]
    accuracy: float
    detector: str
    backbone: str
    size: int
    """Of its images, in pixels"""
    label: str = ""
    """Written beside it where it is on the front"""


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """The points that none beats, cheapest first: one that costs no more and is worth no less beats, if it is not equal.

    A point with a NaN is on no front. O(N log N).
    """
    points = [(cost, -value, i) for i, (cost, value) in enumerate(zip(costs, values, strict=True))]
    front, last = list[int](), (-math.inf, math.inf)
    for cost, loss, index in sorted(p for p in points if not any(map(math.isnan, p))):
        if loss < last[1] or (cost, loss) == last:
            front.append(index)
            last = (cost, loss)
    return front


def draw_tradeoff(points: Sequence[Point], path: Path, *, title: str) -> None:
    """Detectors by colour, backbones by marker, sizes of images by the marker's; the front as a line of stairs."""
    from matplotlib.ticker import LogLocator, NullLocator

    detectors, backbones, sizes = (
        list(dict.fromkeys(each))
        for each in zip(*((p.detector, p.backbone, p.size) for p in points), strict=True)
    )
    sizes.sort()
    area = {size: 30 + 90 * i / max(1, len(sizes) - 1) for i, size in enumerate(sizes)}
    marker = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(backbones)}
    color = {name: line_color(i) for i, name in enumerate(detectors)}
    front = [points[i] for i in pareto_front([p.seconds for p in points], [p.accuracy for p in points])]
    with figure(path, width=8.6, height=5.2) as drawn:
        axes = drawn.add_subplot()
        axes.set_xscale("log")
        if front:
            xs, ys = [p.seconds * 1e3 for p in front], [p.accuracy for p in front]
            axes.plot(
                xs, ys, drawstyle="steps-post", color="#222222", linewidth=1.2, linestyle="--", zorder=1
            )
        for point in points:
            x, on_front = point.seconds * 1e3, point in front
            low, high = (1e3 * quartile for quartile in point.quartiles)
            axes.plot([low, high], [point.accuracy] * 2, color=color[point.detector], linewidth=1, alpha=0.6)
            axes.scatter(
                [x], [point.accuracy], s=area[point.size], marker=marker[point.backbone],
                color=color[point.detector], edgecolors="#222222" if on_front else "white",
                linewidths=1.4 if on_front else 0.5, zorder=3 if on_front else 2,
            )  # fmt: skip
            if on_front and point.label:  # up and to the left, where nothing is
                place: Any = {
                    "xytext": (-6, 5),
                    "textcoords": "offset points",
                    "ha": "right",
                    "fontsize": 7.5,
                }
                axes.annotate(point.label, (x, point.accuracy), color="#222222", zorder=4, **place)
        axes.set(title=title, xlabel="milliseconds an image (median; bar: quartiles)", ylabel="AP")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        _legend(axes, color, marker, area, front=bool(front))


def _legend(
    axes: Any, colors: dict[str, str], markers: dict[str, str], areas: dict[int, float], *, front: bool
) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D(
            [], [], **({"linestyle": "none", "marker": "o", "color": "#888888"} | style), label=label
        )

    entries = [entry(name, color=color) for name, color in colors.items()]
    entries += [entry(name, marker=marker) for name, marker in markers.items()]
    entries += [entry(f"{size} pixels", markersize=math.sqrt(area)) for size, area in areas.items()]
    if front:
        entries.append(entry("the front", linestyle="--", marker="", color="#222222"))
    axes.legend(handles=entries, loc="center left", bbox_to_anchor=(1.0, 0.5))
