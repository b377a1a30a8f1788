"""An evaluator's numbers for people: one line each, and a table where each joint or stage has several."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

MOST_ROWS = 30
"""A longer table is left out; metrics.json has it all."""


def as_lines(metrics: Mapping[str, float]) -> list[str]:
    """`family/name` as a line; `family/name/row` too, or in a table with the other names that have the same rows.

    The losses' terms, `val/...`, are left out.
    """
    single = [(name, value) for name, value in metrics.items() if name.count("/") == 1]
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        if name.count("/") > 1 and not name.startswith("val/"):
            family, column, row = name.split("/", 2)
            rows[row][f"{family}/{column}"] = value
    tables: dict[tuple[str, ...], dict[str, dict[str, float]]] = defaultdict(dict)
    for row, values in rows.items():
        tables[tuple(values)][row] = values
    short = {columns: table for columns, table in tables.items() if len(table) <= MOST_ROWS}
    for columns, table in short.items():
        if len(columns) == 1:
            single += [(f"{columns[0]}/{row}", values[columns[0]]) for row, values in table.items()]
    width = max((24, *(len(name) for name, _ in single)))
    lines = [f"  {name:<{width}} {_shown(value)}" for name, value in single]
    for columns, table in short.items():
        if len(columns) > 1:
            width = max(24, *map(len, table))
            lines.append("  " + " " * width + "".join(f"{column:>17}" for column in columns))
            for row, values in table.items():
                lines.append(f"  {row:<{width}}" + "".join(f"{_shown(v):>17}" for v in values.values()))
    return lines


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
