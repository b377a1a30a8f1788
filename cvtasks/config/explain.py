"""Every way in which composing can fail, as one line: what is wrong, where, and the nearest right names.

Hydra's own messages have no suggestions, and advise `+key`, which turns a typo into a dead key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from cvtasks.config.build import use_plugins
from cvtasks.config.check import NOT_SET, KeyConfigError, UnknownKeyError, check
from cvtasks.config.compose import Loader, plain, unresolved
from cvtasks.config.origins import COMMAND_LINE, Setting, flatten
from cvtasks.config.schema import CHOICES, GROUPS, STUDY, VERBS
from cvtasks.config.suggest import did_you_mean
from cvtasks.errors import ConfigError

INTERNAL = ("auto", "checkpoint")
"""Options that nobody types."""
NO_SUCH_GROUP = re.compile(
    r"(?:In '([^']+)': )?(?:Could not override|Invalid Defaults List override) '/?([^':]+)"
    r".*(?:defaults list|Did you mean|Group Default)",
    re.DOTALL,
)
"""As Hydra 1.3 and 1.4 say it."""


def check_composed(loader: Loader, config: DictConfig, history: Mapping[str, list[Setting]]) -> None:
    """Check a composed configuration (`config.check`); an error says which file the key came from."""
    schema = VERBS[loader.verb]
    raw = unresolved(config)
    plugins = raw.get("plugins")
    names = [str(plugin) for plugin in plugins] if isinstance(plugins, list) else []
    use_plugins(names, studies=loader.verb == STUDY)
    # Judging another tool's results needs no model.
    without = ("task",) if raw.get("predictions") else ()
    try:
        try:
            values = plain(config, loader.verb)
        except OmegaConfBaseException:
            # A formula failed: the wrong value that it uses explains more than the formula.
            check(raw, schema, without=without)
            _check_interpolations(config, raw)
            raise
        check(values, schema, without=without)
        _check_loss_weights(history)
    except UnknownKeyError as error:
        owner = _in_other_option(loader, error.key)
        message = f"there is no setting {error.key}{owner}" if owner else str(error)
        raise ConfigError(_place(error.key, history) + message) from error
    except KeyConfigError as error:
        raise ConfigError(_place(error.key, history) + str(error)) from error


def explained(
    error: Exception, loader: Loader, config_name: str | None, overrides: Sequence[str]
) -> Exception:
    """A ConfigError for what the user can cause; any other exception comes back as it is."""
    if isinstance(error, RecursionError):
        return ConfigError("the configuration is nested too deeply")
    if isinstance(error, OverrideParseException):
        return ConfigError(_unreadable(error.override))
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        place = f"{mark.name}:{mark.line + 1}: " if mark else ""
        return ConfigError(f"{place}not readable as YAML: {error.problem}")
    wrong = _wrong_override(loader, config_name, overrides)
    if wrong is not None:
        return ConfigError(wrong)
    text = str(error)
    if isinstance(error, MissingConfigException):
        return ConfigError(_missing_option(error, loader, overrides))
    if found := re.match(r"(?:In '[^']+': )?You must specify '([^']+)'", text):
        options = ", ".join(_options(loader, found[1]))
        return ConfigError(f"choose a {found[1]}: {found[1]}=NAME, one of {options}")
    if found := NO_SUCH_GROUP.match(text):
        place = f"{found[1]}.yaml: " if found[1] else ""
        near = did_you_mean(found[2], _known_groups(loader, config_name))
        return ConfigError(f"{place}override {found[2]}: there is no such group{near}")
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        key, values = found[1], found[2]
        return ConfigError(
            f"{key}={values} has several values: add -m to run each; {key}=[{values}] is a list"
        )
    if found := re.match(r"Sweep parameters '(.+)' requires --multirun", text):
        return ConfigError(f"{found[1]} has several values: add -m to run each")
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        near = did_you_mean(cause.full_key, _known_keys(loader, config_name, []))
        return ConfigError(f"there is no setting {cause.full_key}{near}")
    if isinstance(cause, OmegaConfBaseException):
        key = f"{cause.full_key}: " if cause.full_key else ""
        first = (cause.msg or str(cause)).splitlines()[0]
        return ConfigError(first if first.startswith(key) else key + first)
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf") or isinstance(error, ValueError):
        return ConfigError(" ".join((text or repr(error)).split()))
    return error


def _place(key: str, history: Mapping[str, list[Setting]]) -> str:
    """`file:line: ` of the file that set the key; empty if the command line did."""
    key = key.partition("[")[0]  # of an item: its list
    inside = (each[-1] for name, each in history.items() if name.startswith(key + "."))
    newest = history[key][-1] if key in history else next(inside, None)
    if newest is None or newest.where.startswith(COMMAND_LINE) or newest.value == NOT_SET:
        return ""
    return f"{newest.where}: "


def _check_interpolations(config: DictConfig, raw: Mapping[str, Any]) -> None:
    for key, value in flatten(raw):
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
            raise KeyConfigError(key, f"{key}={value}: {reason}") from error


def _check_loss_weights(history: Mapping[str, list[Setting]]) -> None:
    """Only the task's own file, and what it builds on, says which losses there are; no other weight would do anything."""
    weights = {key: each for key, each in history.items() if key.startswith("task.loss_weights.")}
    known = [k for k, each in weights.items() if each[0].config.partition("/")[0] not in ("", *CHOICES)]
    for key in weights.keys() - set(known):
        raise KeyConfigError(key, f"there is no loss {key.split('.')[-1]}" + did_you_mean(key, known))


def _unreadable(override: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"{override} is not a setting: type key=value"
    key, _, value = override.partition("=")
    return f"{override} cannot be read: if the value holds special characters, type '{key}=\"{value}\"'"


def _missing_option(error: MissingConfigException, loader: Loader, overrides: Sequence[str]) -> str:
    """An option that a file's defaults list names, and the file: Hydra names the list that it overrides."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = [o for o in error.options or [] if o not in INTERNAL]
    near = did_you_mean(option, options, otherwise=f"; there are {', '.join(options)}" if options else "")
    typed = {o.key_or_group: o.value() for o in loader.parse(overrides)}
    for file in (f"{g}/{typed[g]}" for g in ("debug", "experiment", "recipe", "task") if g in typed):
        loaded = loader.inner.repository.load_config(file)
        for item in loaded.defaults_list or [] if loaded is not None else []:
            if item.get_name() == option:
                return f"{file}.yaml: there is no {group} {option}{near}"
    return f"there is no {group or 'configuration'} {option}{near}"


def _wrong_override(loader: Loader, config_name: str | None, overrides: Sequence[str]) -> str | None:
    """What is wrong with the first override that names no option or no key."""
    try:
        parsed = [o for o in loader.parse(overrides) if not o.is_hydra_override()]
    except OverrideParseException:
        return None
    groups = [o for o in parsed if o.key_or_group in loader.list_groups("")]
    for override in groups:
        if (wrong := _wrong_option(loader, override)) is not None:
            return wrong
    keys = _known_keys(loader, config_name, [o.input_line or "" for o in groups if not o.is_add()])
    for override in sorted(parsed, key=lambda o: o.key_or_group.count(".")):
        key = override.key_or_group
        if override.is_add() and key in keys:
            return f"{override.input_line}: {key} is a setting; type it without +"
        if (
            key not in keys
            and override not in groups
            and not override.is_add()
            and not override.is_force_add()
        ):
            near = did_you_mean(key, keys, otherwise="; see cvtasks config")
            return f"there is no setting {key}" + (_in_other_option(loader, key) or near)
    return None


def _wrong_option(loader: Loader, override: Override) -> str | None:
    group, value = override.key_or_group, override.value()
    if override.is_delete() or isinstance(value, dict | Sweep):
        return None
    options = _options(loader, group)
    if not isinstance(value, str) or not value:
        return f"{override.input_line}: choose one of {', '.join(options) or 'none'}, or leave it out"
    if value in options or value in INTERNAL:
        return None
    near = did_you_mean(value, options, otherwise=f"; there are {', '.join(options) or 'none yet'}")
    return f"{group}={value}: there is no {group} {value}{near}"


def _in_other_option(loader: Loader, key: str) -> str:
    """Options of the key's group that do have the key: `; scheduler=multi_step has it`."""
    group, _, inner = key.partition(".")
    owners = []
    for option in _options(loader, group) if group in GROUPS and group != "task" else ():
        loaded = loader.inner.repository.load_config(f"{group}/{option}")
        if loaded is not None and OmegaConf.select(loaded.config, inner, throw_on_missing=False) is not None:
            owners.append(f"{group}={option}")
    return f"; {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} it" if owners else ""


def _options(loader: Loader, group: str) -> list[str]:
    return [o for o in loader.get_group_options(group) if o not in INTERNAL]


def _known_groups(loader: Loader, config_name: str | None) -> list[str]:
    chosen = loader.inner.compute_defaults_list(config_name, [], RunMode.MULTIRUN)
    return [group for group in chosen.overrides.known_choices if not group.startswith("hydra/")]


def _known_keys(loader: Loader, config_name: str | None, choices: list[str]) -> set[str]:
    """All groups, and all dotted keys, nodes included, of the configuration with these choices alone."""
    for attempt in (choices, []):
        try:
            completed = loader.with_recipe(config_name, attempt)
            config = loader.inner.load_configuration(config_name, completed, RunMode.MULTIRUN)
        except Exception:  # the choices themselves do not go together: none of them may
            continue
        return _nodes(unresolved(config)) | {g for g in config.hydra.runtime.choices if "/" not in g}
    return set()


def _nodes(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        found.add(f"{prefix}{key}")
        if isinstance(value, dict):
            found |= _nodes(value, f"{prefix}{key}.")
    return found
