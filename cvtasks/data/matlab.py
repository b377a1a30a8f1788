"""MATLAB's files (version 5), in which several data sets of poses keep their labels; scipy reads them.

What is read is arrays, text and structures; nothing in a file is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from cvtasks.data.annotations import Findings

_HEADS = (b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")


def read_mat(path: Path, names: Sequence[str], findings: Findings, *, simple: bool = False) -> dict[str, Any]:
    """The variables `names` of a file.

    simple: structures as dictionaries, their arrays as lists, and dimensions of 1 left out; else all is arrays.

    Raises DataError naming the file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_HEADS[0]))
    except OSError as error:
        raise findings.fatal(f"{path}: cannot be read ({error.strerror})") from None
    if head == _HEADS[1]:
        raise findings.fatal(
            f"{path.name}: is MATLAB 7.3's format; save it anew in MATLAB: save(FILE, '-v7')"
        )
    if head != _HEADS[0]:
        raise findings.fatal(f"{path.name}: is not a MATLAB file (version 5)")
    try:
        found: dict[str, Any] = loadmat(path, variable_names=list(names), simplify_cells=simple)
    except Exception as error:  # scipy lets whatever a damaged file causes through
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise findings.fatal(f"{path.name}: is truncated or damaged ({reason})") from None
    for name in names:
        if name not in found:
            raise findings.fatal(f"{path.name}: has no variable {name}")
    return {name: found[name] for name in names}


def structures(value: Any) -> list[Any]:
    """What stands in an array of structures, read simply: one alone comes as itself, and none as an empty array."""
    if isinstance(value, dict):
        return [value]
    return list(value) if isinstance(value, list) or getattr(value, "ndim", 0) == 1 else []


def array_of(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """A value as float64 of this shape; None if it is anything else."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiub" and array.shape == shape else None
