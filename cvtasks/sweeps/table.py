"""All jobs of a sweep in one table, best first: on the terminal, and as sweep.json, .csv, .md and .png."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvtasks.engine.checkpoint import write_atomically
from cvtasks.engine.direction import lower_is_better
from cvtasks.engine.progress import duration
from cvtasks.engine.run import write_json
from cvtasks.studies.findings import Findings, as_markdown
from cvtasks.studies.pictures import SERIES, figure
from cvtasks.sweeps.ledger import FAILURES, Entry, Ledger
from cvtasks.sweeps.runner import failure

NAME = "sweep"
"""Of the files"""
MOST_BARS = 40
"""More of them make a picture that nobody scrolls through."""


def best_first(entries: Sequence[Entry]) -> list[Entry]:
    """By metric, those of one monitor together; then the others, in their order."""
    monitors = list(dict.fromkeys(entry.monitor for entry in entries))

    def rank(entry: Entry) -> tuple[Any, ...]:
        if entry.state != "done" or entry.value is None or math.isnan(entry.value):
            return (1, entry.state != "done", entry.number)
        sign = 1 if lower_is_better(entry.monitor or "") else -1
        return (0, monitors.index(entry.monitor), sign * entry.value)

    return sorted(entries, key=rank)


def write_table(
    entries: Sequence[Entry], ledger: Ledger, *, title: str, command: Sequence[str], text: str = ""
) -> str:
    """Write the four files; returns the table as a text. entries: best first. text: Markdown below the title."""
    rows = [_row(entry) for entry in entries]
    failed = {f"job {e.number} ({e.label})": failure(e, ledger) for e in entries if e.state in FAILURES}
    ranked = [entry for entry in entries if entry.value is not None and entry.state == "done"]
    told = f"`cvtasks {shlex.join(command)}`\n\n{text}"
    table = {"Jobs, best first": [_readable(row) for row in rows]}
    findings = Findings(title, table, lambda path: _draw(ranked[:MOST_BARS], path), told)
    listed = [{**vars(e), "place": str(ledger.place(e)), "log": str(ledger.log(e))} for e in entries]
    write_json(ledger.folder / f"{NAME}.json", {"command": list(command), "jobs": listed})
    write_atomically(ledger.folder / f"{NAME}.csv", _csv(rows).encode())
    page = as_markdown(findings, f"{NAME}.png", failed=failed)
    write_atomically(ledger.folder / f"{NAME}.md", page.encode())
    findings.draw(ledger.folder / f"{NAME}.png")
    return as_markdown(Findings(title, table, findings.draw, text), "", failed={}).rpartition("\n![")[0]


def _row(entry: Entry) -> dict[str, Any]:
    judged = {entry.monitor: entry.value} if entry.monitor else {}
    return {
        "job": entry.number,
        **entry.changed,
        **judged,
        "seconds": entry.seconds,
        "state": entry.state,
        "folder": entry.folder or entry.name,
    }


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    return {
        ("time" if key == "seconds" else key): duration(value) if key == "seconds" else value
        for key, value in row.items()
    }


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _draw(entries: Sequence[Entry], path: Path) -> None:
    """A bar for each job, best at the top."""
    monitors = list(dict.fromkeys(entry.monitor or "" for entry in entries))
    with figure(path, width=7, height=0.9 + 0.26 * max(1, len(entries))) as drawn:
        axes = drawn.add_subplot()
        values = [entry.value or 0.0 for entry in entries]
        colors = [SERIES[monitors.index(entry.monitor or "") % len(SERIES)] for entry in entries]
        bars = axes.barh(range(len(entries)), values, height=0.7, color=colors)
        axes.bar_label(bars, [f"{value:.4g}" for value in values], padding=3, fontsize=8)
        axes.set_yticks(range(len(entries)), [f"{e.number}  {e.label}"[:60] for e in entries])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_title(", ".join(monitors))
