"""Groups of edge pixels that go one way, and how well one continues another (Zitnick and Dollár, ECCV 2014, section 3.1).

Letters: G groups of an image of H x W pixels.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from cvtasks.proposals.edges import Edges

FAINTEST = 0.1
"""Magnitude from which on a pixel is of an edge"""
TURN = np.pi / 2
"""A group ends where the changes of its direction add up to more."""
SMALLEST = 0.5
"""A group with magnitudes of a smaller sum is shared out to its neighbours."""
REACH = 2
"""Groups further apart, in pixels, do not continue each other."""
WEAKEST = 0.05
"""A smaller affinity, or product of affinities, counts as none."""


class Groups(NamedTuple):
    of_pixel: np.ndarray
    """int32 [H, W]; -1 where there is no edge"""
    mass: np.ndarray
    """float32 [G]: the sum of the pixels' magnitudes"""
    x: np.ndarray
    y: np.ndarray
    """float32 [G]: the mean position, as indices of a pixel"""
    orientation: np.ndarray
    """float32 [G]: the mean, 0 to pi"""


def edge_groups(edges: Edges) -> Groups:
    """Each edge pixel's group; positions and orientations are means weighted by magnitude."""
    of_pixel = _share_out_small(_grow(edges), edges)
    y, x = np.nonzero(of_pixel >= 0)
    weight, doubled = edges.magnitude[y, x], 2 * edges.orientation[y, x]  # doubled, 0 and pi are the same

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(of_pixel[y, x], weights=values).astype(np.float32)

    mass = total(weight)
    orientation = np.arctan2(total(weight * np.sin(doubled)), total(weight * np.cos(doubled))) / 2 % np.pi
    return Groups(of_pixel, mass, total(weight * x) / mass, total(weight * y) / mass, orientation)


def _grow(edges: Edges) -> np.ndarray:
    """Groups int32 [H, W], greedily: of the free neighbours the one that turns least joins, until it is `TURN` in all."""
    height, width = edges.magnitude.shape
    row = width + 2
    free, none = -1, -2
    # In lists, with a border of no edges: twenty thousand pixels, one by one, in 30 ms.
    group = np.pad(np.where(edges.magnitude > FAINTEST, free, none), 1, constant_values=none).ravel().tolist()
    angle = np.pad(edges.orientation, 1).ravel().tolist()
    around = (-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1)
    number = 0
    for seed in range(len(group)):
        if group[seed] != free:
            continue
        pixel, turned = seed, 0.0
        waiting: list[tuple[float, int]] = []
        while turned <= TURN:
            group[pixel] = number
            for neighbour in [pixel + step for step in around if group[pixel + step] == free]:
                turn = abs(angle[pixel] - angle[neighbour])
                heappush(waiting, (min(turn, np.pi - turn), neighbour))
            while waiting and group[waiting[0][1]] != free:
                heappop(waiting)
            if not waiting:
                break
            turn, pixel = heappop(waiting)
            turned += turn
        number += 1
    return np.array(group, dtype=np.int32).reshape(height + 2, row)[1:-1, 1:-1].clip(min=-1)


def _share_out_small(of_pixel: np.ndarray, edges: Edges) -> np.ndarray:
    """The same without groups below `SMALLEST`: their pixels, from the outside in, join the neighbour that turns least.

    Where no larger group is a neighbour they are no edge.
    """
    y, x = np.nonzero(of_pixel >= 0)
    mass = np.bincount(of_pixel[y, x], weights=edges.magnitude[y, x])
    number = np.append(np.where(mass >= SMALLEST, np.cumsum(mass >= SMALLEST) - 1, -1), -1).astype(np.int32)
    joined = np.pad(number[of_pixel], 1, constant_values=-1)
    angle = np.pad(edges.orientation, 1)
    left = number[of_pixel[y, x]] < 0
    y, x = y[left] + 1, x[left] + 1
    around = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx])
    while len(y):
        beside = y[:, None] + around[:, 0], x[:, None] + around[:, 1]
        turn = np.abs(angle[beside] - angle[y, x][:, None])
        turn = np.where(joined[beside] >= 0, np.minimum(turn, np.pi - turn), np.inf)
        best = turn.argmin(1)[:, None]
        joins = np.isfinite(np.take_along_axis(turn, best, 1)[:, 0])
        if not joins.any():
            break
        joined[y[joins], x[joins]] = np.take_along_axis(joined[beside], best, 1)[joins, 0]
        y, x = y[~joins], x[~joins]
    return joined[1:-1, 1:-1]


def affinities(groups: Groups, *, gamma: float) -> sparse.csr_array:
    """[G, G], symmetric: |cos(o_i - o_ij) cos(o_j - o_ij)| ** gamma, with o_ij the direction from mean to mean position.

    0 between groups more than `REACH` pixels apart, and of a group with itself.
    """
    number = len(groups.mass)
    y, x = np.nonzero(groups.of_pixel >= 0)
    own = groups.of_pixel[y, x].astype(np.int64)
    padded = np.pad(groups.of_pixel, REACH, constant_values=-1)
    pairs = []
    for dy in range(REACH + 1):  # the other half of the neighbours sees the same pairs
        for dx in range(-REACH, REACH + 1):
            other = padded[y + dy + REACH, x + dx + REACH]
            pair = np.minimum(own, other) * number + np.maximum(own, other)
            pairs.append(pair[(other >= 0) & (other != own)])
    i, j = np.divmod(np.unique(np.concatenate(pairs)), number)
    between = np.arctan2(groups.y[i] - groups.y[j], groups.x[i] - groups.x[j])
    value = np.abs(np.cos(groups.orientation[i] - between) * np.cos(groups.orientation[j] - between)) ** gamma
    i, j, value = i[value >= WEAKEST], j[value >= WEAKEST], value[value >= WEAKEST]
    both = np.concatenate([i, j]), np.concatenate([j, i])
    return sparse.csr_array((np.concatenate([value, value]), both), shape=(number, number))


def continuations(affinity: sparse.csr_array) -> sparse.csr_array:
    """[G, G]: the largest product of affinities on any path from group to group; 1 from each to itself.

    That is the shortest path, if an affinity a is a way of length -log a.
    """
    ways = affinity.copy()
    # Rounding may leave a bit more than 1, and no way is below zero.
    ways.data = -np.log(ways.data.clip(max=1))
    groups, rows = affinity.shape[0], []
    for start in range(0, groups, 1024):  # a thousand rows at once, for they are dense
        some = np.arange(start, min(start + 1024, groups))
        lengths = csgraph.dijkstra(ways, indices=some, limit=-np.log(WEAKEST))
        rows.append(sparse.csr_array(np.exp(-lengths).astype(np.float32)))
    return sparse.vstack(rows, format="csr")
