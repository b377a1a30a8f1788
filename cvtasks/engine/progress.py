"""How far it is: a bar on a terminal; where there is none, a line at the start, every so often, and at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts `total` units of work done. Use as a context manager.

    unit: one word, in the singular.

    say: where lines go when there is no terminal; by default they are printed. shown: whether there is a bar at all.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str,
        initial: int = 0,
        say: Callable[[str], None] = print,
        terminal: bool | None = None,
        shown: bool = True,
    ) -> None:
        self.total, self.title, self.unit, self.done, self.initial = total, title, unit, initial, initial
        self._say = say
        self._status = ""
        self._started, self._next_line = time.monotonic(), 0.0
        on_terminal = shown and (sys.stderr.isatty() if terminal is None else terminal)
        self._bar: tqdm | None = None
        if on_terminal:
            self._bar = tqdm(
                total=total, initial=initial, desc=title, unit=f" {unit}", dynamic_ncols=True, leave=False
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.done >= self.total or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            self._say(self.line())

    def status(self, text: str, *, refresh: bool = False) -> None:
        """What stands behind the count: the losses, say. refresh: show it now, and not with the next unit."""
        self._status = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=refresh)

    def line(self) -> str:
        """`train 120/1000 steps, 3 min left, loss 0.41`"""
        elapsed = time.monotonic() - self._started
        finished = max(self.done - self.initial, 1)
        left = duration(elapsed / finished * (self.total - self.done))
        parts = [f"{self.title} {self.done}/{self.total} {self.unit}s"]
        if self.done >= self.total:
            parts.append(duration(elapsed))
        elif self.done > self.initial:
            parts.append(f"{left} left")
        return ", ".join([*parts, self._status]).rstrip(", ")


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
