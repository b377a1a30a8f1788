"""Composes a verb's configuration with Hydra and hands it out as a checked, plain dict.

Beyond what Hydra does: the recipe for the pair of task and data set is chosen (`recipe=auto`), `eval`,
`predict` and `resume` start from the trained model's own configuration, every composed configuration is checked,
and every error is one line. `Loader` stands in for Hydra's own loader (its public interface), so that this
holds for sweeps and `--cfg` as well.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import version as hydra_version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from cvtasks.config import environment, stored
from cvtasks.config.build import is_hydras
from cvtasks.config.locate import conf_dirs
from cvtasks.config.origins import Setting, flatten, settings, shown_path
from cvtasks.config.schema import GROUPS, VERBS, StoredConfig, TrainConfig, defaults
from cvtasks.config.yaml_text import check_size
from cvtasks.errors import ConfigError, CvtasksError

# Set up at import: a sweep's launcher may unpickle the loader in a process of its own.
OLD_HYDRA = hydra.__version__.startswith("1.3.")
if OLD_HYDRA:
    hydra_version.setbase("1.3")
setup_globals()


def _store(name: str, node: dict[str, Any], *, group: str | None = None, package: str) -> None:
    """Make an option that has no file."""
    replace: dict[str, Any] = {} if OLD_HYDRA else {"replace": True}
    ConfigStore.instance().store(name, node, group, package, **replace)


for _empty in ("auto", "none"):
    _store(_empty, {}, group="recipe", package="_global_")

SCALED = re.compile(r"\$\{(scale|scale_steps):(.*)\}")


def _images(config: DictConfig, batch_size: int | str, reference: int) -> int:
    """Images of an optimizer step, all processes and accumulated batches together."""
    if batch_size == "auto":  # it is not known yet, and what is computed now is not used
        return reference
    engine = config.get("engine") or {}
    return int(batch_size) * (engine.get("accumulate") or 1) * int(os.environ.get("WORLD_SIZE", "1"))


def _scale(value: int | float, batch_size: int | str, reference: int, *, _root_: DictConfig) -> float:
    """`${scale:0.02,${loader.batch_size},16}`: a rate for steps of 16 images, made for ours."""
    return value * _images(_root_, batch_size, reference) / reference


def _scale_steps(steps: int, reference: int, batch_size: int | str, *, _root_: DictConfig) -> int:
    """`${scale_steps:90000,16,${loader.batch_size}}`: as many images as in 90,000 steps of 16."""
    return math.ceil(steps * reference / _images(_root_, batch_size, reference))


def _choose(value: Any, options: Mapping[Any, Any]) -> Any:
    """`${choose:${task.training},{joint:3000,alternating:8000}}`: what stands beside the value."""
    return options[value]


_register_resolver: Any = OmegaConf.register_new_resolver if OLD_HYDRA else OmegaConf.register_resolver
_register_resolver("scale", _scale, replace=True)
_register_resolver("scale_steps", _scale_steps, replace=True)
_register_resolver("choose", _choose, replace=True)
_register_resolver("oc.env", environment.variable, replace=True)


def compose(
    verb: str, overrides: Sequence[str] = (), *, config_dir: str | None = None, checked: bool = True
) -> dict[str, Any]:
    """The verb's configuration: resolved, plain, and checked unless told not to.

    verb: train, eval, predict, study or resume; for the last, `run=FOLDER` is among the overrides.
    Raises ConfigError with one line that names the key and the nearest right one.
    """
    loader = Loader(verb, config_dir=config_dir, checked=checked)
    return plain(loader.load_configuration(verb, list(overrides), RunMode.RUN), verb)


def unresolved(config: DictConfig) -> dict[str, Any]:
    """As composed, with `${...}` where it stands in a file, and without Hydra's own node."""
    values = OmegaConf.to_container(_own(config), resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def plain(config: DictConfig, verb: str) -> dict[str, Any]:
    """Resolved, without Hydra's own node, and with the defaults of keys that an older configuration lacks.

    What it took from the environment is remembered (`redaction`), so that no file of a run holds it.
    """
    values = environment.resolve(_own(config))
    lacking = {key: value for key, value in defaults(VERBS[verb]).items() if key not in values}
    task = {"task": values.get("task") or None} if issubclass(VERBS[verb], TrainConfig) else {}
    return values | lacking | task


def scaled(config: DictConfig) -> dict[str, str]:
    """The keys computed for the batch size, each with its formula: {"optimizer.lr": "0.02 x 2 / 16"}."""
    found = {}
    for key, value in flatten(unresolved(config)):
        if isinstance(value, str) and (match := SCALED.fullmatch(value)):
            inner = re.sub(r"\$\{([\w.]+)\}", lambda m: str(_selected(config, m[1])), match[2])
            first, second, third = (part.strip() for part in inner.split(","))
            found[key] = f"{first} x {second} / {third}"
    return found


def _selected(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return _images(config, value, 0) if key == "loader.batch_size" else value


def as_typed(overrides: Any) -> list[str]:
    """Overrides that Hydra remembers, with the `${...}` that they may hold."""
    lines = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(lines, list)
    return lines


class _Composer(ConfigLoaderImpl):
    """Hydra's loader, which also remembers the files that it composed last."""

    defaults: Sequence[ResultDefault] = ()

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        self.defaults = defaults
        return super()._compose_config_from_defaults_list(defaults, repo)


class Loader(ConfigLoader):
    """Hydra's loader with recipes, stored configurations, the check, and messages of one line."""

    def __init__(self, verb: str, *, config_dir: str | None = None, checked: bool = True) -> None:
        ours, *users = conf_dirs(config_dir)
        path = create_config_search_path(f"file://{ours}")
        for folder in users:  # as Hydra's own --config-dir does
            path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
            for file in folder.rglob("*.yaml"):
                check_size(file.read_text(encoding="utf-8"), shown_path(file))
        self.verb = verb
        self.checked = checked
        self.inner = _Composer(path)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and check what is going to run. For a sweep: its first job, with the sweep's overrides."""
        from cvtasks.config import explain

        asked = overrides
        try:
            if run_mode is RunMode.MULTIRUN:
                overrides = self._first_job(overrides)
            self._register_stored(overrides)
            overrides = self.with_recipe(config_name, overrides)
            config = self.inner.load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
            _check_hydras_own(config)
            history = self.settings(config)
            _drop_what_was_for_another_choice(config, history)
            if self.checked and run_mode is RunMode.RUN:
                explain.check_composed(self, config, history)
        except CvtasksError:
            raise
        except Exception as error:
            raise explain.explained(error, self, config_name, overrides) from error
        # What a sweeper goes on with is what was typed.
        config.hydra.overrides.task = [
            o for o in asked if not o.lstrip("+~").startswith(("hydra.", "hydra/"))
        ]
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        hydras = as_typed(master_config.hydra.overrides.hydra)
        name = master_config.hydra.job.config_name
        config = self.load_configuration(name, hydras + sweep_overrides, RunMode.RUN)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> Any:
        self._register_stored(overrides)
        return self.inner.compute_defaults_list(
            config_name, self.with_recipe(config_name, overrides), run_mode
        )

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        return self.inner.get_group_options(group_name, results_filter, config_name, overrides)

    def get_search_path(self) -> ConfigSearchPath:
        return self.inner.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        return self.inner.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        return self.inner.list_groups(parent_name)

    def settings(self, config: DictConfig) -> dict[str, list[Setting]]:
        """Of the configuration just composed: for every key the files and overrides that set it, oldest first."""
        typed = self.parse(as_typed(config.hydra.overrides.task))
        keys = [o for o in typed if isinstance(o.value(), dict) or o.key_or_group not in self.list_groups("")]
        return settings(self.inner.defaults, self.inner.repository, config.hydra.runtime.choices, keys)

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self).parse_overrides(list(overrides))

    def _first_job(self, overrides: list[str]) -> list[str]:
        """A sweep's first job: Hydra composes a sweep without its swept keys, and refuses what they bring."""
        first = []
        for override in self.parse(overrides):
            if not override.is_sweep_override():
                first.append(override.input_line or "")
            elif override.is_discrete_sweep():
                value = next(override.sweep_string_iterator(), "")
                first.append(f"{override.get_key_element()}={value}")
        return first

    def with_recipe(self, config_name: str | None, overrides: list[str]) -> list[str]:
        """Choose recipe/<task>_<dataset> where the choice is `auto` and there is one.

        An interpolated default (`recipe: ${task}_${dataset}`) may not override groups; a choice may.
        """
        if any(o.startswith("recipe=") and o != "recipe=auto" for o in overrides):
            return overrides
        chosen = self.inner.compute_defaults_list(config_name, overrides, RunMode.MULTIRUN)
        choices = chosen.overrides.known_choices
        name = f"{choices.get('task')}_{choices.get('dataset')}"
        if choices.get("recipe") != "auto" or name not in self.inner.get_group_options("recipe"):
            return overrides
        return [*(o for o in overrides if o != "recipe=auto"), f"recipe={name}"]

    def _register_stored(self, overrides: Sequence[str]) -> None:
        """Offer the trained model's own configuration to Hydra as the choice `checkpoint` of every group."""
        if not issubclass(VERBS[self.verb], StoredConfig):
            return
        asked = {o.key_or_group: o.value() for o in self.parse(overrides) if not o.is_sweep_override()}
        if asked.get("predictions") and not asked.get("run") and not asked.get("checkpoint"):
            # Another tool's results need no model: the defaults of training, without a task. Label maps come as a folder,
            # classes as a table.
            path = Path(str(asked["predictions"]))
            kind = (
                "segmentation"
                if path.is_dir()
                else "classification"
                if path.suffix.lower() == ".csv"
                else None
            )
            evaluator = [f"evaluator={kind}"] if kind else []
            config = unresolved(self.inner.load_configuration("train", ["~task", *evaluator], RunMode.RUN))
        else:
            config = stored.load(self.verb, run=asked.get("run"), checkpoint=asked.get("checkpoint"))
        for group in GROUPS:
            _store(stored.OPTION, config.pop(group, {}), group=group, package=group)
        _store(stored.OPTION, config, package="_global_")


def _check_hydras_own(config: DictConfig) -> None:
    """Refuse what Hydra would build for itself and is not a plug-in of its own (callbacks, launchers, sweepers)."""
    for name in ("job_logging", "hydra_logging"):  # names classes, too; a run keeps its own train.log
        OmegaConf.update(config, f"hydra.{name}", {"root": None}, merge=False, force_add=True)
    node = OmegaConf.to_container(config.hydra, resolve=False)
    for key, value in environment.leaves(node, "hydra"):
        if key.endswith("._target_") and not is_hydras(str(value)):
            raise ConfigError(f"{key}: {value} is not allowed here: it may name one of Hydra's own plug-ins")


def _drop_what_was_for_another_choice(config: DictConfig, history: Mapping[str, list[Setting]]) -> None:
    """Give keys whose newest value was for an option that is not chosen the value before it (`origins`)."""
    for key, each in history.items():
        if not each[-1].only_for:
            continue
        holding = [setting.value for setting in each if not setting.only_for]
        if holding:
            OmegaConf.update(config, key, holding[-1])
            continue
        parent, _, name = key.rpartition(".")
        with open_dict(config):
            OmegaConf.select(config, parent).pop(name, None)


def _own(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
