"""Turns a name from a configuration into code: the only place that does, and only for names on its lists.

A configuration may come out of a foreign checkpoint, so `_target_` can name no more than public classes and
functions that are defined in the rooms below, in the listed parts of torch, or in modules that the user named
with `plugins=[...]`. Arguments are checked against the constructor's signature beforehand (`config.check`).
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from cvtasks.errors import ConfigError

ROOMS = ("models", "nn", "data", "metrics", "proposals", "engine.optim", "engine.schedules")
OPTIMIZERS = (
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "AdamW",
    "ASGD",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)
SCHEDULERS = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "StepLR",
)
STUDIES = "studies"
"""A room for `cvtasks study` alone: a study trains what its settings say, and they are never a checkpoint's."""
NOT_ROOMS = ("nn.zoo", "metrics.results", "metrics.class_table")
"""One fetches files and one writes them, wherever a configuration that a stranger wrote says."""
HYDRAS = ("hydra._internal.core_plugins.", "hydra.experimental.", "hydra_plugins.", "optuna.samplers.")
"""Where Hydra's own plug-ins live, and what one of them builds."""
_TORCH = {f"torch.optim.{n}" for n in OPTIMIZERS} | {f"torch.optim.lr_scheduler.{n}" for n in SCHEDULERS}
_plugins: set[str] = set()
_rooms = set(ROOMS)


def use_plugins(modules: Iterable[str], *, studies: bool = False) -> None:
    """Allow these modules, and no others of the user's, as targets. Found from the current folder, too.

    studies: whether our own studies may be named. Raises ConfigError if there is no such module; it is imported only
    when a target names it.
    """
    _rooms.clear()
    _rooms.update(ROOMS, [STUDIES] if studies else [])
    _plugins.clear()
    _plugins.update(modules)
    if _plugins and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in sorted(_plugins):
        if not all(part.isidentifier() for part in name.split(".")) or find_spec(name.split(".")[0]) is None:
            raise ConfigError(
                f"plugins: there is no module {name} here ({os.getcwd()}) or among the installed"
            )


def locate(target: str) -> Callable[..., Any]:
    """The class or function that `package.module.name` names.

    Raises ConfigError if it is not on the lists, or does not exist. Nothing is imported that is not allowed.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(
            f"_target_: expected the dotted name of a constructor, not {target!r}; it is not allowed here"
        )
    module_name, _, name = target.rpartition(".")
    if not (target in _TORCH or _is_ours(module_name) or _is_plugin(module_name)):
        ours = ", ".join(f"cvtasks.{room}" for room in sorted(_rooms))
        root = target.split(".")[0]
        hint = f"; if it is yours, add plugins=[{root}]" if root not in ("cvtasks", "torch") else ""
        raise ConfigError(
            f"{target} is not allowed here: targets come from {ours} and torch.optim's classes{hint}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{target}: {error}") from error
    found = getattr(module, name, None)
    home = getattr(found, "__module__", "")
    # Defined there, not imported there: a module's `os` or `torch.load` is no target.
    if (
        name.startswith("_")
        or not callable(found)
        or not (target in _TORCH or _is_ours(home) or _is_plugin(home))
    ):
        raise ConfigError(f"{target}: {module_name} defines no {name}")
    return found


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """Call the constructor that `node["_target_"]` names with the rest of the node; `name` is left out unless it takes one.

    `supplied` adds what only the application knows; a constructor is given those of them that it asks for, and
    torch's optimizers the `params` of a supplied `model`. Nodes inside the node are built first.
    """
    target = locate(node["_target_"])
    takes = inspect.signature(target).parameters
    if "params" in takes and "model" in supplied:
        supplied["params"] = supplied["model"].parameters()
    left_out = {"_target_", "name"} - takes.keys()
    arguments = {key: _built(value) for key, value in node.items() if key not in left_out}
    arguments |= {key: value for key, value in supplied.items() if key in takes}
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{node['_target_']}: {error}") from error
    try:
        return target(**arguments)
    except ValueError as error:
        if node["_target_"] in _TORCH:  # torch checks its arguments itself; ours raise CvtasksError
            raise ConfigError(f"{node['_target_']}: {error}") from error
        raise


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value)
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_built(item) for item in value]
    return value


def is_hydras(target: str) -> bool:
    """Whether Hydra may build this for itself: a class of one of its own plug-ins, defined there."""
    module_name, _, name = target.rpartition(".")
    if not f"{module_name}.".startswith(HYDRAS):
        return False
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and f"{found.__module__}.".startswith(HYDRAS)


def _is_ours(module: str) -> bool:
    return _is_in(module, _rooms) and not _is_in(module, NOT_ROOMS)


def _is_in(module: str, rooms: Iterable[str]) -> bool:
    return any(module == f"cvtasks.{room}" or module.startswith(f"cvtasks.{room}.") for room in rooms)


def _is_plugin(module: str) -> bool:
    return any(module == plugin or module.startswith(plugin + ".") for plugin in _plugins)
