"""What a study found, and the files that tell it: JSON for programs, CSV for tables, Markdown for people, and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""Column: value; a value may be missing, and None is shown as a dash"""


@dataclass(frozen=True)
class Findings:
    """What a study returns."""

    title: str
    tables: Mapping[str, Sequence[Row]]
    """The rows under each heading"""
    draw: Callable[[Path], None]
    """Writes the picture."""
    text: str = ""
    """Markdown, between the title and the tables"""


def as_markdown(findings: Findings, picture: str, *, failed: Mapping[str, str]) -> str:
    """The page. failed: the parts that have no results, and why."""
    parts = [f"# {findings.title}", findings.text.strip()]
    for heading, rows in findings.tables.items():
        if rows:
            parts += [f"## {heading}", _table(rows)]
    if failed:
        parts += ["## What failed", "\n".join(f"- {name}: {why}" for name, why in failed.items())]
    parts += [f"![{findings.title}]({picture})"]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_csv(findings: Findings) -> str:
    """All tables in one, with their headings in the first column; numbers in full."""
    rows = [{"table": heading, **row} for heading, rows in findings.tables.items() for row in rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _table(rows: Sequence[Row]) -> str:
    """Padded, so that it reads as well in a terminal; numbers at the right."""
    columns = _columns(rows)
    cells = [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]

    def line(words: Sequence[str]) -> str:
        aligned = zip(words, widths, right, strict=True)
        return "| " + " | ".join(w.rjust(n) if r else w.ljust(n) for w, n, r in aligned) + " |"

    rule = ["-" * (n - 1) + (":" if r else "-") for n, r in zip(widths, right, strict=True)]
    return "\n".join([line(columns), line(rule), *map(line, cells)])


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _shown(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
