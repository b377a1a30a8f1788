"""One object for each image: what a task that asks for `label` learns from, where images may have several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from cvtasks.data.annotations import Annotations, Findings
from cvtasks.types import Sample, Truth

Select: TypeAlias = Literal["one", "largest"]
"""Of an image with several objects: none, as it is an error; or the one with the largest area."""


def of_one_object(fields: frozenset[str]) -> bool:
    """Whether these fields are of one object, and not of a list of objects."""
    return "label" in fields and "labels" not in fields


@dataclass
class SingleObjects:
    """Labels with exactly one object in each image."""

    annotations: Annotations
    boxed: bool = True
    """Whether samples have its box; a task that wants the label alone may cut the image anyhow."""

    def __len__(self) -> int:
        return len(self.annotations)

    def sample(self, index: int, folder: Path) -> Sample:
        """The decoded image with `label` and perhaps `boxes` [1, 4]. Raises DataError as `read_image` does."""
        sample = self.annotations.sample(index, folder)
        kept = ("image", "image_id", "orig_size", *["boxes"] * self.boxed)
        return {k: sample[k] for k in kept} | {"label": sample["labels"][0]}

    def truth(self, index: int, folder: Path | None) -> Truth:
        truth = self.annotations.truth(index, folder)
        kept = {k: truth[k] for k in ("image_id", "file", "orig_size", "boxes", "area")}
        return kept | {"label": int(truth["labels"][0])}


def choose_objects(
    annotations: Annotations,
    select: Select,
    findings: Findings,
    source: object,
    record: Callable[[int], str],
    *,
    fields: frozenset[str],
) -> SingleObjects:
    """One object of each image; those that are `ignore` do not count. An image with none is an error, and with
    select=one also one with several.

    source: names the data. record: names image i. fields: those that the task wants. Raises DataError.
    """
    images, objects = [], []
    for i in range(len(annotations)):
        start, end = annotations.ends[i : i + 2].tolist()
        here = start + np.flatnonzero(~annotations.ignore[start:end])
        if len(here) == 1 or (len(here) and select == "largest"):
            images.append(i)
            objects.append(here[annotations.area[here].argmax()])
        elif len(here):
            several = f"has {len(here)} objects, and this task takes one: set dataset.select=largest"
            findings.error(record(i), several)
        else:
            findings.error(record(i), "has no object, and this task takes one")
    if not images:
        hint = "; if images have several, set dataset.select=largest" if select == "one" else ""
        raise findings.fatal(f"{source}: there is no image with one object{hint}")
    chosen = annotations.one_each(np.array(images), np.array(objects))
    return SingleObjects(chosen, boxed="boxes" in fields)
