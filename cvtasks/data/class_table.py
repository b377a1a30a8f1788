"""The names of a data set's classes and the colours of its label images, from the configuration or a text file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cvtasks.data.annotations import Findings
from cvtasks.data.label_images import MAX_CLASSES, Color
from cvtasks.data.paths import is_name, quoted
from cvtasks.data.splits import read_list
from cvtasks.data.transforms import VOID
from cvtasks.errors import ConfigError

_COLOR_FIRST = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.*\S)")
_NAME_FIRST = re.compile(r"(.*?\S)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)")


def read_names(path: Path, findings: Findings) -> list[str]:
    """The names in a text file, one a line. Raises ConfigError where there is no such file, DataError."""
    return list(_lines(path, "classes", findings).values())


def read_colors(path: Path, findings: Findings) -> dict[str, Color]:
    """The colours in a text file with lines `r g b name` or `name,r,g,b`, by name. Raises as `read_names`."""
    found: dict[str, Color] = {}
    for number, line in _lines(path, "colors", findings).items():
        if re.sub(r"[\s,]", "", line).lower() in ("namergb", "rgbname"):
            continue  # the table's head
        first, last = _COLOR_FIRST.fullmatch(line), _NAME_FIRST.fullmatch(line)
        if first:
            red, green, blue, name = first.groups()
        elif last:
            name, red, green, blue = last.groups()
        else:
            raise findings.fatal(
                f"{path.name}: line {number} is {quoted(line)}; expected `r g b name` or `name,r,g,b`"
            )
        color = (int(red), int(green), int(blue))
        if max(color) > 255:
            raise findings.fatal(f"{path.name}: line {number}: {quoted(line)} has a value above 255")
        if name in found:
            raise findings.fatal(f"{path.name}: line {number}: the name {quoted(name)} is there twice")
        found[name] = color
    return found


class Colors(NamedTuple):
    """What the colours of label images mean."""

    names: list[str] | None
    """Of the classes, if they are known."""
    meaning: dict[Color, int]
    """The class of each colour; 255 is void."""
    shown: tuple[Color, ...]
    """The colour of each class; nothing if there are none."""


def class_colors(
    colors: Sequence[Sequence[int]] | Mapping[str, Sequence[int]] | None,
    names: list[str] | None,
    ignore_color: Sequence[int] | None,
    findings: Findings,
) -> Colors:
    """Bring colours and names together. Raises ConfigError where they do not fit.

    colors: in the order of the classes, or by name; then those of other names are void, with a note.
    """
    if colors is None:
        if ignore_color is not None:
            raise ConfigError("dataset.ignore_color is void among colours; set dataset.colors too")
        return Colors(names, {}, ())
    if not isinstance(colors, Mapping):
        if names is None:
            names = [f"class_{k}" for k in range(len(colors))]
        if len(colors) != len(names):
            raise ConfigError(f"dataset.colors has {len(colors)} colours for {len(names)} classes")
        colors = dict(zip(names, colors, strict=True))
    if names is None:
        names = list(colors)
    if len(names) > MAX_CLASSES:
        raise ConfigError(f"dataset.colors: {len(names)} classes; a label map has at most {MAX_CLASSES}")
    lacking = [name for name in names if name not in colors]
    if lacking or not names:
        raise ConfigError(
            f"dataset.colors has no colour for {quoted(lacking[0]) if lacking else 'any class'}"
        )
    others = [name for name in colors if name not in names]
    if others:
        findings.note(f"void are the classes that dataset.classes leaves out: {', '.join(others)}")
    meaning: dict[Color, int] = {}
    owner: dict[Color, str] = {}
    for name, label in [(name, names.index(name)) for name in names] + [(name, VOID) for name in others]:
        color = _color(colors[name])
        if meaning.setdefault(color, label) != label:
            raise ConfigError(
                f"dataset.colors: {list(color)} is the colour of {quoted(owner[color])} and {quoted(name)}"
            )
        owner.setdefault(color, name)
    if ignore_color is not None and meaning.setdefault(_color(ignore_color), VOID) != VOID:
        of = quoted(owner[_color(ignore_color)])
        raise ConfigError(f"dataset.ignore_color={list(ignore_color)} is the colour of {of}")
    return Colors(names, meaning, tuple(_color(colors[name]) for name in names))


def _color(values: Sequence[int]) -> Color:
    red, green, blue = values
    return red, green, blue


def _lines(path: Path, key: str, findings: Findings) -> dict[int, str]:
    if not path.is_file():
        raise ConfigError(f"dataset.{key}={path}: there is no such file; expected a list, or a text file")
    lines = read_list(path, findings)
    if not lines:
        raise findings.fatal(f"{path.name}: is empty; expected a class on each line")
    for number, line in lines.items():
        if not is_name(line) or (not line.isprintable() and "\t" not in line):
            raise findings.fatal(f"{path.name}: line {number} is {quoted(line)}, not the name of a class")
    return lines
