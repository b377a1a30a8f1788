"""The nearest right names for a wrong one. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable

MISPLACED = 0.5
"""Distance of a name that is right, but under another parent: less than one wrong letter."""


def did_you_mean(typed: str, names: Iterable[str], *, otherwise: str = "") -> str:
    """`; did you mean a, b or c?`, or `otherwise` where nothing is near."""
    near = closest(typed, names)
    if not near:
        return otherwise
    *first, last = near
    return f"; did you mean {', '.join(first)} or {last}?" if first else f"; did you mean {last}?"


def closest(typed: str, names: Iterable[str], *, at_most: int = 3) -> list[str]:
    """The names nearest to what was typed, nearest first; those much farther than the first are left out.

    Names are dotted keys or plain words. A right last part under a wrong parent is near (`lr` is
    `optimizer.lr`), and so is a longer form of it (`optimizer.learning_rate`, `loader.num_workers`).
    """
    ranked = sorted((_distance(typed.lower(), name.lower()), name.count("."), name) for name in set(names))
    return [name for distance, _, name in ranked[:at_most] if distance <= ranked[0][0] + 1 < math.inf]


def _distance(typed: str, name: str) -> float:
    """Edits between the two, of the whole or of the last parts; infinite if they are too many for its length."""
    typed_parent, _, typed_last = typed.rpartition(".")
    parent, _, last = name.rpartition(".")
    misplaced = 0.0 if typed_parent == parent else MISPLACED
    whole = _edits(typed, name)
    inner = _edits(typed_last, last)
    words = typed_last.split("_")
    if len(words) > 1 and (last in words or last == "".join(word[:1] for word in words)):
        inner = min(inner, 1.0)
    return min(
        whole if whole <= max(2, len(typed) / 3) else math.inf,
        inner + misplaced if inner <= max(1, len(typed_last) / 3) else math.inf,
    )


def _edits(a: str, b: str) -> float:
    """Letters to insert, drop, change, or swap with their neighbour (optimal string alignment)."""
    if abs(len(a) - len(b)) > 6:  # far in any case
        return float(abs(len(a) - len(b)))
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, before, row = before, row, [i + 1]
        for j, y in enumerate(b):
            cost = min(before[j] + (x != y), before[j + 1] + 1, row[j] + 1)
            if i and j and x == b[j - 1] and a[i - 1] == y:
                cost = min(cost, last[j - 1] + 1)
            row.append(cost)
    return float(row[-1])
