"""Runs a verb's job through Hydra, so that `--cfg` and `--info` work. A sweep of jobs: `config.multirun`.

Hydra's classes are called here as `hydra.main` calls them, but with our loader, our reading of the command line,
and exceptions that reach us. Hydra itself writes nothing: no log, no `.hydra` folder.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from cvtasks.config.compose import Loader, plain, scaled

Job = Callable[[dict[str, Any], dict[str, str]], float | None]
"""Does a verb's work: takes the configuration and its scaled keys, returns the monitored metric."""

Measure = Callable[[dict[str, Any]], int]
"""Finds what `loader.batch_size=auto` stands for on this machine."""

QUIET = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


def launch(verb: str, flags: Namespace, job: Job, measure: Measure) -> None:
    """Do what the command line says: show the configuration, or run the job. Raises what the job raises."""
    name = flags.config_name or verb
    loader = Loader(verb, config_dir=flags.config_dir, checked=not (flags.cfg or flags.info))
    hydra = Hydra("cvtasks", loader)
    GlobalHydra.instance().initialize(hydra)
    overrides = [*QUIET, *flags.overrides]
    try:
        if flags.cfg:
            shown = {"cfg_type": flags.cfg, "package": flags.package, "resolve": flags.resolve}
            hydra.show_cfg(config_name=name, overrides=overrides, **shown)
        elif flags.info:
            hydra.show_info(flags.info, config_name=name, overrides=overrides)
        else:
            _run(hydra, name, overrides, verb, job, measure)
    finally:
        GlobalHydra.instance().clear()


def _run(hydra: Hydra, name: str, overrides: list[str], verb: str, job: Job, measure: Measure) -> None:
    raised: list[Exception] = []

    def one(config: DictConfig) -> float | None:
        try:
            return job(_measured(config, verb, measure), scaled(config))
        except Exception as error:  # Hydra would print a line of its own
            raised.append(error)
            return None

    hydra.run(config_name=name, task_function=one, overrides=[*overrides, "hydra.mode=RUN"])
    if raised:
        raise raised[0]


def _measured(config: DictConfig, verb: str, measure: Measure) -> dict[str, Any]:
    """Resolved, with a batch size: rates and lengths are computed from it, so it is found first."""
    values = plain(config, verb)
    if values.get("loader", {}).get("batch_size") == "auto":
        OmegaConf.update(config, "loader.batch_size", measure(values))
        values = plain(config, verb)
    return values
