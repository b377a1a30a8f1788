"""Label maps made of objects: class 0 is the ground, and each object's pixels are its class, counted from 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cvtasks.data.label_images import MAX_CLASSES
from cvtasks.data.transforms import INSTANCE_FIELDS, VOID
from cvtasks.errors import ConfigError
from cvtasks.types import ClassInfo

BACKGROUND = "background"


def of_pixels_only(fields: frozenset[str]) -> bool:
    """Whether a reader with these fields gives label maps and no objects; its first class is then the ground."""
    return "segmentation" in fields and fields.isdisjoint({*INSTANCE_FIELDS, "label"})


def of_objects(classes: Sequence[str] | None) -> Sequence[str] | None:
    """The asked-for classes without the ground, which a model's own classes begin with."""
    return classes[1:] if classes and classes[0] == BACKGROUND else classes


def with_background(info: ClassInfo) -> ClassInfo:
    """The same classes behind that of the ground. Raises ConfigError where they have one, or are too many."""
    if BACKGROUND in info.names:
        raise ConfigError(
            f"dataset.classes: one of the classes is called {BACKGROUND}, as the ground is; name those to use without it"
        )
    if len(info) >= MAX_CLASSES:
        raise ConfigError(
            f"dataset.classes: {len(info)} classes and the ground; a label map has at most {MAX_CLASSES} classes"
        )
    ids = (min(0, *(i - 1 for i in info.category_ids)), *info.category_ids)
    colors = ((0, 0, 0), *info.colors) if info.colors else ()
    return dataclasses.replace(info, names=(BACKGROUND, *info.names), category_ids=ids, colors=colors)


def drawn(masks: np.ndarray, labels: np.ndarray, ignore: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The label map of objects, uint8 [H, W]. Smaller objects lie on larger ones, and crowds, which are void, below all.

    masks: bool [N, H, W]. labels: [N], from 0. ignore: bool [N]. area: [N].
    """
    result = np.zeros(masks.shape[1:], np.uint8)
    for n in np.lexsort((-area, ~ignore)).tolist():
        result[masks[n]] = VOID if ignore[n] else labels[n] + 1
    return result
