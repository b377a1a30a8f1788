"""Which file (and line) or override sets each key, in the order in which they win.

A file that chooses a group's option (`override /optimizer: sgd`) sets that group's keys for this option: if another one
is chosen in the end, on the command line or by an experiment, what the file says of that group is dropped. So a recipe's
learning rate for SGD never reaches AdamW, nor its milestones another schedule, where no such key exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from cvtasks.config.locate import conf_dir

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Setting:
    """One file or override that sets a key."""

    where: str
    """File and line, or the override as typed."""
    config: str
    """Hydra's name of the file ("optimizer/sgd"); empty on the command line."""
    value: Any
    """As it is written there, not resolved."""
    only_for: str = ""
    """It was dropped: it holds only with this choice ("optimizer=sgd")."""


def settings(
    defaults: Sequence[ResultDefault],
    repository: IConfigRepository,
    choices: Mapping[str, Any],
    overrides: Sequence[Override],
) -> dict[str, list[Setting]]:
    """For every key with a value: the files and overrides that set it, oldest first.

    defaults: the files in the order of composing. choices: the option that each group has in the end.
    overrides: those that set keys, not those that choose options.
    """
    found: dict[str, list[Setting]] = {}
    for default in defaults:
        config_path = default.config_path or ""
        loaded = repository.load_config(config_path)
        if loaded is None or config_path.startswith("hydra/"):
            continue
        file = file_of(loaded, config_path)
        lines = dict(_lines(yaml.compose(file.read_text(encoding="utf-8")))) if file else {}
        assumed = {
            (item.group or "").lstrip("/"): item.value
            for item in loaded.defaults_list or []
            if isinstance(item, GroupDefault) and item.is_override()
        }
        prefix = f"{default.package}." if default.package else ""
        values = OmegaConf.to_container(loaded.config, resolve=False)
        for inner, value in flatten(values if isinstance(values, dict) else {}):
            key = prefix + inner
            group = key.split(".")[0]
            if group in ("defaults", "hydra"):
                continue
            where = f"{shown_path(file)}:{lines.get(inner, 1)}" if file else "the run's own configuration"
            other = group in assumed and assumed[group] != choices.get(group)
            only_for = f"{group}={assumed[group]}" if other else ""
            found.setdefault(key, []).append(Setting(where, config_path, value, only_for))
    for override in overrides:
        for key, value in flatten({override.key_or_group: override.value()}):
            found.setdefault(key, []).append(Setting(f"{COMMAND_LINE} {override.input_line}", "", value))
    return found


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and value of every leaf; an empty mapping is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def file_of(loaded: ConfigResult, config_path: str) -> Path | None:
    """The file of one of Hydra's configurations; None for one that was made in the process."""
    if not loaded.path.startswith("file://"):
        return None
    return Path(loaded.path.removeprefix("file://")) / f"{config_path}.yaml"


def shown_path(file: Path) -> str:
    """Short: `conf/...` for our own files, and relative to the current folder for those below it."""
    if file.is_relative_to(conf_dir()):
        return f"conf/{file.relative_to(conf_dir()).as_posix()}"
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The dotted key of every value of a YAML file, and its line."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        yield f"{prefix}{key.value}", key.start_mark.line + 1
        yield from _lines(value, f"{prefix}{key.value}.")
