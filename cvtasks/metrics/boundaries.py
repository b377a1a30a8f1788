"""How well the boundaries of two label maps agree (Csurka et al., What is a good evaluation measure for semantic
segmentation?, BMVC 2013).

A boundary pixel of a class is one with a neighbour (up, down, left, right) of another class. It is found if the other
map has a boundary pixel of the same class nearer than the tolerance. The picture's border is no boundary. Void pixels
belong to no class in either map, so a class ends at them in both, as in the evaluation of DAVIS (Perazzi et al., 2016):
where void lines the objects, as in VOC, boundaries could not be judged at all otherwise.

No distance transform is needed, as only boundary pixels are looked at: for all classes at once, and ring by ring
outwards, each goes on until it is found. 4 ms for 480 x 360 pixels, 30 ms for 2048 x 1024, on one core.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

VOID = 255
_NOISE = 4
"""So many times the other map's boundary pixels are more likely noise than outlines."""


def tolerance(shape: tuple[int, int], fraction: float) -> float:
    """A fraction of the diagonal of an image [H, W], in pixels."""
    return fraction * math.hypot(*shape)


def count_boundaries(
    truth: np.ndarray, found: np.ndarray, *, num_classes: int, tolerance: float
) -> np.ndarray:
    """Boundary pixels of each class, int64 [K, 4]: in truth, of these found; in `found`, of these true.

    truth, found: label maps, uint8 [H, W]; where truth is 255 nothing counts. tolerance: pixels; nearer than this
        is near enough.
    """
    assert truth.shape == found.shape, (truth.shape, found.shape)
    maps = [_boundaries(truth), _boundaries(np.where(truth == VOID, np.uint8(VOID), found))]
    counts = np.zeros((num_classes, 4), np.int64)
    for column, (own, other) in enumerate((maps, maps[::-1])):
        labels, matched = _matched(own, other, tolerance)
        counts[:, 2 * column] = np.bincount(labels, minlength=num_classes)[:num_classes]
        counts[:, 2 * column + 1] = np.bincount(labels[matched], minlength=num_classes)[:num_classes]
    return counts


def f1_of_boundaries(counts: np.ndarray) -> np.ndarray:
    """F1 of each row of `count_boundaries`, float64 [K]; NaN where neither map has a boundary of the class."""
    in_truth, recalled, in_found, correct = counts.T.astype(np.float64)
    # A side without boundaries has no share of its own; what the other side has is missed or made up: 0.
    recall = np.divide(recalled, in_truth, out=np.zeros_like(in_truth), where=in_truth > 0)
    precision = np.divide(correct, in_found, out=np.zeros_like(in_found), where=in_found > 0)
    both = recall + precision
    f1 = np.divide(2 * recall * precision, both, out=np.zeros_like(both), where=both > 0)
    return np.where(in_truth + in_found > 0, f1, np.nan)


def _boundaries(labels: np.ndarray) -> np.ndarray:
    """The label map with 255 wherever there is no boundary."""
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return np.where(edge, labels, np.uint8(VOID))


def _matched(own: np.ndarray, other: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """The class of each boundary pixel of `own` [P], and whether `other` has one near it [P]."""
    margin = math.ceil(tolerance)
    # Flat, with room around it, so that an offset is one number, and leads nowhere else.
    own, other = (np.pad(each, margin, constant_values=VOID) for each in (own, other))
    steps = [offsets @ (own.shape[1], 1) for offsets in _rings(tolerance)]
    own, other = own.reshape(-1), other.reshape(-1)
    places, others = np.flatnonzero(own != VOID), np.flatnonzero(other != VOID)
    labels = own[places]
    if len(places) <= _NOISE * len(others):
        return labels, _looked_for(places, labels, other, steps)
    return labels, _reached(places, labels, others, other[others], steps, len(own))


def _looked_for(
    places: np.ndarray, labels: np.ndarray, other: np.ndarray, steps: list[np.ndarray]
) -> np.ndarray:
    """From each place outwards, until its label is met."""
    found = np.zeros(len(places), bool)
    # A class that the other map has no boundary of would be looked for in vain.
    left = np.flatnonzero(np.bincount(other, minlength=256)[labels] > 0)
    for step in steps:
        near = (other[places[left, None] + step] == labels[left, None]).any(axis=1)
        found[left[near]] = True
        left = left[~near]
        if not len(left):
            break
    return found


def _reached(
    places: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    labels_of_others: np.ndarray,
    steps: list[np.ndarray],
    size: int,
) -> np.ndarray:
    """From the other map's boundaries outwards: for noise, 20 times as fast at 2048 x 1024."""
    found = np.zeros(len(places), bool)
    for label in np.unique(labels_of_others):
        near, chosen = np.zeros(size, bool), others[labels_of_others == label]
        for step in steps:
            near[chosen[:, None] + step] = True
        own = labels == label
        found[own] = near[places[own]]
    return found


@lru_cache(maxsize=256)
def _rings(tolerance: float) -> tuple[np.ndarray, ...]:
    """Offsets (dy, dx) nearer than `tolerance`, int64 [R, 2], grouped by their distance, from 0 outwards."""
    reach = math.ceil(tolerance)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squared = dy**2 + dx**2
    distances = np.unique(squared[squared < tolerance**2])
    return tuple(np.stack([dy, dx], axis=1)[squared == distance] for distance in distances)
