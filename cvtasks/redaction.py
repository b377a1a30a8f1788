"""What a configuration took from the environment (`${oc.env:NAME}`): the run has the value, no file of it does.

Configurations are written `as_written`, with the text in place of the value, so whoever uses them later gets the value from
their own environment. Lines and names that quote a value are written through `hide`. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHORTEST = 4
"""`hide` leaves shorter values alone: they are no secrets, and occur in any text by chance."""


@dataclass(frozen=True)
class Taken:
    """What one configuration took from the environment."""

    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """For each key ("dataset.root", "dataset.roots[0]") the value, and the text that stands for it"""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The values of the variables that were read, by name"""


_taken = Taken()


def remember(taken: Taken) -> None:
    """From now on this is what the configuration in use took; a process runs one at a time."""
    global _taken
    _taken = taken


def taken() -> Taken:
    """What the configuration in use took."""
    return _taken


def as_written(value: Any, key: str = "") -> Any:
    """A copy of the configuration in use for a file: the text `${oc.env:NAME}` wherever a value came from there."""
    if isinstance(value, Mapping):
        return {name: as_written(item, f"{key}.{name}" if key else name) for name, item in value.items()}
    if isinstance(value, list):
        return [as_written(item, f"{key}[{number}]") for number, item in enumerate(value)]
    if key not in _taken.settings:
        return value
    resolved, text = _taken.settings[key]
    if resolved and str(value).endswith(resolved):
        return str(value).removesuffix(resolved) + text  # a relative path, made absolute meanwhile
    return text


def hide(line: str) -> str:
    """The line with `${oc.env:NAME}` in place of the values that came from the environment."""
    for name, value in sorted(_taken.variables.items(), key=lambda item: -len(item[1])):
        if len(value) >= SHORTEST:
            line = line.replace(value, f"${{oc.env:{name}}}")
    return line
