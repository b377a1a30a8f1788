"""Runs a verb's job, or a sweep of jobs, through Hydra, so that its sweepers, launchers and `--cfg`, `--info` work.

Hydra's classes are called here as `hydra.main` calls them, but with our loader, our reading of the command line,
and exceptions that reach us. Hydra itself writes nothing: no log, no `.hydra` folder.
"""

from __future__ import annotations

import gc
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cvtasks.config.compose import Loader, as_typed, plain, scaled
from cvtasks.errors import CvtasksError
from cvtasks.redaction import hide

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
FOLDER_KEYS = {
    "train": "run_dir",
    "eval": "run_dir",
    "predict": "output",
    "study": "run_dir",
    "proposals": "run_dir",
}
"""The key that says where a verb writes; each job of a sweep gets a folder of its own."""
FAILED = "failed.txt"
"""In a sweep's folder: the jobs that failed. A file, because a launcher may run jobs in other processes."""
WORST = float("-inf")
"""The metric of a failed job: sweepers refuse NaN and None."""


def launch(
    verb: str, flags: Namespace, job: Job, measure: Measure, failure: Callable[[Exception], str]
) -> None:
    """Do what the command line says: show the configuration, run the job, or sweep.

    job: the verb's work. failure: the line that reports an exception of a sweep's job (its traceback, if it is a
    bug of ours, is printed by it). Raises what the job raises, and CvtasksError if jobs of a sweep failed.
    """
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
        elif flags.multirun:
            _sweep(hydra, name, overrides, verb, flags.overrides, job, measure, failure)
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


def _sweep(
    hydra: Hydra,
    name: str,
    overrides: list[str],
    verb: str,
    typed: list[str],
    job: Job,
    measure: Measure,
    failure: Callable[[Exception], str],
) -> None:
    key = FOLDER_KEYS.get(verb, "")
    asked = {o.key_or_group: o for o in hydra.config_loader.parse(typed)}  # type: ignore[attr-defined]
    swept_folder = key in asked and asked[key].is_sweep_override()
    parent = asked[key].value() if key in asked and not swept_folder else None
    if isinstance(parent, str) and "${" in parent:
        parent = OmegaConf.create({key: parent})[key]
    folder = _new_folder(Path(str(parent)) if parent is not None else None)

    def one(config: DictConfig) -> float | None:
        sweep = HydraConfig.get()
        given = _values(typed)  # Hydra quotes what holds ${...}: compare what the words say
        changed = [o for o in as_typed(sweep.overrides.task) if not _values([o]) <= given]
        label = " ".join(changed) or "all as given"
        print(f"job {sweep.job.num}: {label}", flush=True)
        try:
            values = _measured(config, verb, measure)
            if key and not swept_folder:
                values[key] = str(folder / f"{sweep.job.num}_{_file_name(changed)}".rstrip("_"))
            return job(values, scaled(config))
        except Exception as error:
            with (folder / FAILED).open("a", encoding="utf-8") as file:
                file.write(hide(f"job {sweep.job.num} ({label}): {failure(error)}\n"))
            return WORST
        finally:
            _free_memory()

    place = ["hydra.sweep.dir=" + _quoted(str(folder)), "hydra.sweep.subdir=."]
    try:
        hydra.multirun(
            config_name=name, task_function=one, overrides=[*place, *overrides, "hydra.mode=MULTIRUN"]
        )
    finally:
        (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own
        if not any(folder.iterdir()):
            folder.rmdir()
    if (folder / FAILED).is_file():
        lines = (folder / FAILED).read_text(encoding="utf-8").splitlines()
        raise CvtasksError(f"{len(lines)} of the sweep's jobs failed: " + "; ".join(lines))


def _measured(config: DictConfig, verb: str, measure: Measure) -> dict[str, Any]:
    """Resolved, with a batch size: rates and lengths are computed from it, so it is found first."""
    values = plain(config, verb)
    if values.get("loader", {}).get("batch_size") == "auto":
        OmegaConf.update(config, "loader.batch_size", measure(values))
        values = plain(config, verb)
    return values


def _values(overrides: list[str]) -> set[tuple[str, str]]:
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {(override.get_key_element(), str(override.value())) for override in parsed}


def _new_folder(given: Path | None) -> Path:
    """The sweep's folder: the given one, or runs/sweeps/<date>_<time>, which no other sweep has."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given
    stamp = Path("runs", "sweeps", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    stamp.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        folder = stamp if number == 0 else stamp.with_name(f"{stamp.name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise CvtasksError(f"{stamp}: there are a thousand sweeps of this second")


def _file_name(overrides: list[str]) -> str:
    """Overrides as part of a folder's name: short, and the same on every file system."""
    # Without "=", for which Hydra wants quotes: `cvtasks eval run=FOLDER` shall work as it stands.
    text = "_".join(override.lstrip("+~").replace("=", "-") for override in overrides)
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)[:80].strip("_.")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _free_memory() -> None:
    """All jobs share one process: leave the next one the device's memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
