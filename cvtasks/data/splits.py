"""Which images belong to a split: those in a list file, or a part that their names draw."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cvtasks.data.annotations import Findings
from cvtasks.errors import ConfigError
from cvtasks.types import Split


def source_of(split: Split, val_fraction: float | None, *, val_given: bool) -> Split:
    """The split whose files are read: with `dataset.val_fraction`, both are parts of the training data.

    val_given: whether `dataset.val` names any files. Raises ConfigError where both say what to validate on.
    """
    if val_fraction is None:
        return split
    if val_given:
        raise ConfigError(
            "dataset.val and dataset.val_fraction both say what to validate on; set one to null"
        )
    return "train"


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
