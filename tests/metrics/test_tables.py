"""What people read of an evaluator's numbers."""

from __future__ import annotations

import math

from cvtasks.metrics.tables import MOST_ROWS, as_lines


def test_what_has_the_same_rows_stands_in_one_table() -> None:
    metrics = {"pose/PCK": 0.5, "pose/PCP": math.nan, "val/loss": 2.0, "val/loss/keypoints": 1.0}
    metrics |= {"pose/PCK/stage 1": 0.25, "pose/error/stage 1": 3.0}
    metrics |= {"pose/PCK/stage 2": 0.75, "pose/error/stage 2": math.nan, "pose/PCP/arm / hand": 1.0}
    assert [line.split() for line in as_lines(metrics)] == [
        ["pose/PCK", "0.5000"],
        ["pose/PCP", "-"],
        ["val/loss", "2.0000"],
        ["pose/PCP/arm", "/", "hand", "1.0000"],
        ["pose/PCK", "pose/error"],
        ["stage", "1", "0.2500", "3.0000"],
        ["stage", "2", "0.7500", "-"],
    ]


def test_columns_stand_below_each_other_whatever_the_names() -> None:
    names = ("cat", "a class with quite a long name")
    metrics = {f"box/{metric}/{name}": 0.5 for name in names for metric in ("AP", "AR")}
    assert len({len(line) for line in as_lines(metrics)}) == 1
    alone = {name: value for name, value in metrics.items() if "/AP/" in name}
    assert len({len(line) for line in as_lines(alone)}) == 1


def test_a_table_that_nobody_would_read_is_left_out_and_a_short_one_beside_it_stays() -> None:
    many = {f"box/AP/class {k}": 0.5 for k in range(MOST_ROWS + 1)}
    assert as_lines(many) == []
    assert as_lines(many | {"box/AR/cat": 0.5})[0].split() == ["box/AR/cat", "0.5000"]
