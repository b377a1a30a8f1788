"""What readers have in common whose images have one label and no box: which classes there are, and whose images stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cvtasks.data.annotations import Findings, choose_classes, note_left_out
from cvtasks.types import ClassInfo, Split


class Chosen(NamedTuple):
    """The images of the chosen classes."""

    classes: ClassInfo
    images: np.ndarray
    """int64 [M]: their positions among all"""
    labels: np.ndarray
    """int64 [M]"""


def choose_images(
    names: Sequence[str], labels: np.ndarray, asked: Sequence[str] | None, split: Split, findings: Findings
) -> Chosen:
    """The images of the classes `asked` (None: all of `names`), with their labels among these; the others make a note.

    labels: positions in `names`, int64 [N]. Raises ConfigError for a class that there is not, DataError where no image is
    left.
    """
    chosen = choose_classes(names, asked, split, findings)
    position = {name: k for k, name in enumerate(chosen)}
    new = np.array([position.get(name, -1) for name in names], np.int64)[labels]
    counts = np.bincount(labels[new < 0], minlength=len(names)).tolist()
    note_left_out(
        Counter({name: count for name, count in zip(names, counts, strict=True) if count}), findings
    )
    images = np.flatnonzero(new >= 0)
    if not len(images):
        raise findings.fatal("no image is left")
    return Chosen(ClassInfo(tuple(chosen)), images, new[images])
