"""The pictures of studies, in the style of all plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvtasks.viz.colors import class_color
from cvtasks.viz.plots import STYLE

COLUMNS = 3
"""Panels beside each other"""
SERIES = tuple(tuple(part / 255 for part in class_color(index)) for index in (4, 0, 2, 6, 1))
"""Blue, orange, green, pink and light blue"""


@contextmanager
def figure(path: Path, *, width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure of so many inches, written to `path` at the end. No pyplot: it needs no display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height))
        yield drawn
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path)


@dataclass(frozen=True)
class Panel:
    """Bars in groups, each with its number.

    log: their lengths are logarithms, for numbers of many sizes. most: what they can reach, if that is known. shares: a
    group is one bar of full length, cut as its values share it.
    """

    title: str
    bars: Mapping[str, Mapping[str, float]]
    """Of each group, the value of each series, of which there are five at most"""
    log: bool = False
    most: float | None = None
    shares: bool = False


def draw_bars(panels: Sequence[Panel], path: Path) -> None:
    """Small multiples: a panel for each thing that is compared."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with figure(path, width=4.6 * columns, height=3.6 * rows) as drawn:
        for number, panel in enumerate(panels):
            axes = drawn.add_subplot(rows, columns, number + 1)
            (_shares if panel.shares else _bars)(axes, panel)


def _bars(axes: Any, panel: Panel) -> None:
    series = list(dict.fromkeys(name for group in panel.bars.values() for name in group))
    thick = 0.8 / len(series)
    numbers = [v for group in panel.bars.values() for v in group.values() if math.isfinite(v)] or [1.0]
    for i, name in enumerate(series):
        places = [row + (i - (len(series) - 1) / 2) * thick for row in range(len(panel.bars))]
        values = [group.get(name, math.nan) for group in panel.bars.values()]
        bars = axes.barh(places, values, height=0.9 * thick, color=SERIES[i], label=name)
        axes.bar_label(bars, [f"{v:.3g}" if math.isfinite(v) else "-" for v in values], padding=3, fontsize=8)
    if panel.log:
        axes.set_xscale("log")
        axes.set_xlim(min(n for n in numbers if n > 0) / 3, max(numbers) * 6)  # with room for the numbers
    else:
        axes.set_xlim(0, 1.15 * (panel.most or max(*numbers, 1e-6)))
    _label(axes, panel, columns=len(series))


def _shares(axes: Any, panel: Panel) -> None:
    series = list(dict.fromkeys(name for group in panel.bars.values() for name in group))
    whole = [sum(group.values()) or 1.0 for group in panel.bars.values()]
    ends = [0.0] * len(whole)
    for i, name in enumerate(series):
        values = [group.get(name, 0.0) / all_ for group, all_ in zip(panel.bars.values(), whole, strict=True)]
        axes.barh(range(len(whole)), values, left=ends, height=0.7, color=SERIES[i], label=name)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    _label(axes, panel, columns=3)


def _label(axes: Any, panel: Panel, *, columns: int) -> None:
    axes.set_yticks(range(len(panel.bars)), list(panel.bars))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title(panel.title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=columns)
