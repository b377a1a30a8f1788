"""Which images belong to a split: those in a list file, or a part that their names draw."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cvtasks.data.annotations import Findings
from cvtasks.types import Split


def read_list(path: Path, findings: Findings) -> dict[int, str]:
    """The lines of a text file that hold something, stripped, by their number from 1. Raises DataError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise findings.fatal(f"{path.name}: cannot be read as a list of names ({error})") from None
    return {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}


def part(names: list[str], split: Split, fraction: float, seed: int) -> list[str]:
    """The training or the validation part, in the order of `names`; neither is empty if there are two.

    Whether a name is in it depends on the name and the seed, and little on how many there are.
    """
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode(errors="replace")).digest())
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    val = set(drawn[:count])
    return [name for name in names if (name in val) == (split == "val")]
