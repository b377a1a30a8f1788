"""`cvtasks config --why KEY`: which file or override set a key, and what that replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hydra.types import RunMode

from cvtasks.config import stored
from cvtasks.config.compose import Loader, plain
from cvtasks.config.locate import conf_dir
from cvtasks.config.origins import COMMAND_LINE, Setting, file_of, flatten, shown_path
from cvtasks.config.suggest import did_you_mean
from cvtasks.errors import ConfigError


def why(verb: str, overrides: Sequence[str], key: str, *, config_dir: str | None = None) -> str:
    """The key's value and who set it, newest first; for a group also who chose it, and each key in it."""
    loader = Loader(verb, config_dir=config_dir)
    config = loader.load_configuration(verb, list(overrides), RunMode.RUN)
    values = dict(flatten(plain(config, verb)))
    history = loader.settings(config)
    chosen = _choices(loader, verb, overrides)
    inside = [k for k in values if k == key or k.startswith(key + ".")]
    if not inside and key not in chosen:
        nodes = {k[:i] for k in values for i in range(len(k)) if k[i] == "."}
        raise ConfigError(f"there is no setting {key}" + did_you_mean(key, {*values, *nodes, *chosen}))
    lines = [f"{key}={chosen[key][0]}  chosen by {chosen[key][1]}"] if key in chosen else []
    for each in inside:
        lines.append(f"{each}: {_shown(values[each])}")
        lines += _history(history.get(each, []))
    return "\n".join(lines)


def _history(settings: list[Setting]) -> list[str]:
    if not settings:
        return ["    cvtasks' own default"]
    used = [s for s in reversed(settings) if not s.only_for]
    lines = [f"    {'replaces ' if i else ''}{s.where}: {_shown(s.value)}" for i, s in enumerate(used)]
    dropped = [s for s in reversed(settings) if s.only_for]
    return lines + [f"    not used {s.where}: {_shown(s.value)} (only with {s.only_for})" for s in dropped]


def _choices(loader: Loader, verb: str, overrides: Sequence[str]) -> dict[str, tuple[str, str]]:
    """For every group its chosen option, and the file or override that chose it."""
    decided = loader.compute_defaults_list(verb, list(overrides), RunMode.MULTIRUN).overrides
    typed = {o.key_or_group for o in loader.parse(overrides)}
    found = {}
    for group, option in decided.known_choices.items():
        if group.startswith("hydra/"):
            continue
        metadata = decided.override_metadata.get(group)
        if metadata is None:
            by = shown_path(conf_dir() / f"{verb}.yaml")
        elif metadata.containing_config_path is not None:
            loaded = loader.inner.repository.load_config(metadata.containing_config_path)
            file = file_of(loaded, metadata.containing_config_path) if loaded is not None else None
            by = shown_path(file) if file is not None else metadata.containing_config_path
        else:
            by = COMMAND_LINE if group in typed else "the pair of task and dataset"
        found[group] = ("the run's own" if option == stored.OPTION else str(option), by)
    return found


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return str(text).removesuffix("\n").removesuffix("\n...")
