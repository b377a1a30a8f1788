"""What a search may vary, in Hydra's syntax for sweeps: `optimizer.lr=interval(1e-4,1e-1)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override

from cvtasks.config.multirun import Jobs
from cvtasks.errors import ConfigError

DECADES = 100.0
"""An interval whose upper bound is so many times its lower one is searched by its logarithm."""
TAGS = {"log", "linear"}


@dataclass(frozen=True)
class Range:
    """What a search may choose from, for one key."""

    key: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def word(self, value: Any) -> str:
        return f"{self.key}={value}"

    def bounds(self) -> tuple[Any, ...]:
        """Of numbers both ends; of choices all."""
        ends = (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)
        return self.choices or ends


def ranges(jobs: Jobs) -> tuple[list[Range], list[str]]:
    """What a search varies, in Hydra's syntax for sweeps, and the overrides that stay.

    `interval(a,b)` is numbers from a to b, `int(interval(a,b))` whole ones; by logarithm where a > 0 and b >= 100 a, and
    wherever it is `tag(log,interval(a,b))`, never where it is `tag(linear,interval(a,b))`. `range(a,b,step)` and
    `choice(a,b)`, also `a,b`, are their values. Raises ConfigError.
    """
    parsed = jobs.loader.parse(jobs.overrides)
    found = [_range(o) for o in parsed if o.is_sweep_override() and o.key_or_group != jobs.folder_key]
    return found, [o.input_line or "" for o in parsed if not o.is_sweep_override()]


def _range(override: Override) -> Range:
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        low, high = float(value.start), float(value.end)
        if unknown := value.tags - TAGS:
            raise ConfigError(
                f"{override.input_line}: there is no tag {unknown.pop()}; there are log and linear"
            )
        if not low < high or ("log" in value.tags and low <= 0):
            above = ", and both above 0" if "log" in value.tags else ""
            raise ConfigError(
                f"{override.input_line}: expected interval(LOW,HIGH) with LOW below HIGH{above}"
            )
        log = "log" in value.tags or (low > 0 and high >= DECADES * low and "linear" not in value.tags)
        kind: Literal["int", "float"] = "float"
        if isinstance(value.start, int) and isinstance(value.end, int):
            kind = "int"
        return Range(key, kind, low, high, log=log)
    if override.is_discrete_sweep():
        choices = tuple(override.sweep_string_iterator())
        if not choices:
            raise ConfigError(f"{override.input_line}: there is nothing to choose from")
        return Range(key, "choice", choices=choices)
    raise ConfigError(f"{override.input_line}: not a range that can be searched")
