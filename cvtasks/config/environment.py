"""`${oc.env:NAME}` and `${oc.env:NAME,default}` in a configuration: the run gets the value, its files keep the text.

It may stand, alone or as a part, where a path or another text of the user's own is expected (`may_hold`). Anywhere else the
value would end up in a metric's name or a picture, and a stranger's configuration could ask for any variable there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvtasks.config.check import KeyConfigError
from cvtasks.errors import ConfigError
from cvtasks.redaction import Taken, remember

WHERE = "dataset.* (but classes), proposals' files, weights, backbone.weights, run_dir, predictions, source and output"
_PLACES = re.compile(
    r"dataset\.(?!(name|_target_)$|classes\b).+|proposals\.(cache|train|val)|"
    r"weights|backbone\.weights|run_dir|predictions|source|output"
)
_VARIABLE = re.compile(r"\$\{oc\.env:[A-Za-z_]\w*(,[^${}]*)?\}")
_BARE = re.compile(r"[A-Za-z_./][\w./-]*")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for `${` and `}` while texts are resolved, so that nothing resolves them again."""

_keep_text = False
_variables: dict[str, str] = {}


def may_hold(key: str, text: str) -> bool:
    """Whether the value of `key` may be this text with `${...}`: nothing but `oc.env`, in a place for it."""
    while (inner := _VARIABLE.sub("", text)) != text:
        text = inner
    return "${" not in text and _PLACES.fullmatch(key) is not None


def resolve(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; what it took from the environment is remembered (`redaction`).

    Raises KeyConfigError where a value from the environment stands in the wrong place, and OmegaConf's errors.
    """
    global _keep_text
    _variables.clear()
    values = _container(config)
    read = dict(_variables)
    try:
        _keep_text = True
        texts = {key: text for key, text in leaves(_container(config)) if _OPEN in str(text)}
    except OmegaConfBaseException as error:  # a formula that computes with the value
        raise _misplaced(error.full_key or "") from error
    finally:
        _keep_text = False
    for key, text in texts.items():
        if not isinstance(text, str) or not _PLACES.fullmatch(key):
            raise _misplaced(key)
    found = dict(leaves(values))
    written = {key: text.replace(_OPEN, "${").replace(_CLOSE, "}") for key, text in texts.items()}
    settings = {key: (found[key] or "", text) for key, text in written.items()}
    remember(Taken(settings, read))
    return values


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and value of everything that is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{key}[{number}]")
    else:
        yield key, value


def _container(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _misplaced(key: str) -> KeyConfigError:
    return KeyConfigError(
        key,
        f"{key}: ${{oc.env:...}} may stand only in {WHERE}, where a run's files can keep it as text; type the value itself",
    )


def variable(name: Any, *default: Any) -> str | None:
    """In place of OmegaConf's own resolver `oc.env`. Raises ConfigError for a variable that is not set."""
    name = str(name)
    if _keep_text:
        return f"{_OPEN}oc.env:{name}{''.join(',' + _literal(value) for value in default)}{_CLOSE}"
    if name in os.environ:
        _variables[name] = os.environ[name]
        return os.environ[name]
    if not default:
        raise ConfigError(
            f"the environment variable {name} is not set; type {name}=VALUE in front of the command, or another "
            "value for this setting"
        )
    return None if default[0] is None else str(default[0])


def _literal(value: Any) -> str:
    """A default as OmegaConf reads it."""
    if value is None:
        return "null"
    if not isinstance(value, str) or _OPEN in value:
        return str(value)
    if _BARE.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
