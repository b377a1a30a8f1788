"""The pictures of studies, in the style of all plots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cvtasks.viz.plots import STYLE


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
