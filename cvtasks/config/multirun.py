"""The jobs of a sweep: what stands behind `-m`, taken apart by Hydra's sweepers, each job composed and checked.

A job is one more command line, so whoever runs it needs no Hydra (`cvtasks.sweeps`). Hydra's own basic launcher, which runs
all jobs in one process, is never used; any other (`hydra/launcher=joblib`, `submitit_slurm`) gets the jobs to start them
elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from cvtasks.config.check import KeyConfigError, check
from cvtasks.config.compose import Loader, as_typed, plain
from cvtasks.config.launch import QUIET
from cvtasks.errors import ConfigError
from cvtasks.redaction import Taken, as_written, remember, taken

FOLDER_KEYS = {
    "train": "run_dir",
    "eval": "run_dir",
    "predict": "output",
    "study": "run_dir",
    "proposals": "run_dir",
}
"""The key that says where a verb writes; each job of a sweep gets a folder of its own."""
WORST = float("-inf")
"""The metric of a failed job: Hydra's sweepers refuse NaN and None."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep, composed and checked."""

    number: int
    overrides: tuple[str, ...]
    """All that is typed behind the verb, but where it writes"""
    changed: Mapping[str, str]
    """Of these, by key, those that nobody typed: what tells it from the other jobs"""
    hash: str
    """Of its configuration, but where it writes: equal jobs have one hash"""
    folder: str | None
    """Where it writes, if that was swept over; else its sweep says"""
    monitor: str | None
    """The metric that judges it, if it has one"""
    plugins: tuple[str, ...]

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.changed.items()) or "all as given"

    @property
    def name(self) -> str:
        """As a part of a path: short, and the same on every file system."""
        # Without "=", for which Hydra wants quotes: `cvtasks eval run=FOLDER` shall work as it stands.
        text = "_".join(f"{key.lstrip('+~')}-{value}" for key, value in self.changed.items())
        text = re.sub(r"[^A-Za-z0-9.-]+", "_", re.sub("[\"']", "", text))[:80].strip("_.")
        return f"{self.number}_{text}".rstrip("_")


class Jobs:
    """Composes and checks the jobs of one command."""

    def __init__(self, verb: str, flags: Namespace, overrides: Sequence[str]) -> None:
        """overrides: what is typed behind the verb; more than that is a job's own."""
        self.verb, self.overrides = verb, list(overrides)
        self.config_name = flags.config_name or verb
        self.loader = Loader(verb, config_dir=flags.config_dir)
        self.folder_key = FOLDER_KEYS.get(verb, "")
        own = [o for o in self.loader.parse(overrides) if o.key_or_group == self.folder_key]
        self.swept_folder = any(o.is_sweep_override() for o in own)
        self.folder: str | None = None
        """Where the sweep writes, as typed: `${oc.env:NAME}` stays"""
        if own and not self.swept_folder and own[-1].value() is not None:
            self.folder = str(own[-1].value())
        self.hash_without = None if self.swept_folder else self.folder_key
        self._given = _values(overrides)
        self._variables: dict[str, str] = {}

    def folder_path(self) -> Path | None:
        """`folder` as it is on this machine."""
        return None if self.folder is None else Path(OmegaConf.create({"folder": self.folder})["folder"])

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """Raises ConfigError with one line that names the key."""
        values, digest = self._composed([*self._searchpath(), *overrides])
        changed = [
            o for o in self.loader.parse(overrides) if not _values([o.input_line or ""]) <= self._given
        ]
        kept = [o for o in overrides if self.swept_folder or o.split("=")[0] != self.folder_key]
        return Job(
            number=number,
            overrides=(*self._searchpath(), *kept),
            changed={o.get_key_element(): _text(o.value()) for o in changed},
            hash=digest,
            folder=str(values[self.folder_key]) if self.swept_folder else None,
            monitor=(values.get("task") or {}).get("monitor"),
            plugins=tuple(values.get("plugins") or ()),
        )

    def _composed(self, overrides: list[str]) -> tuple[dict[str, Any], str]:
        config = self.loader.load_configuration(self.config_name, [*QUIET, *overrides], RunMode.RUN)
        values = plain(config, self.verb)
        digest = digest_of(self.verb, values, without=self.hash_without)
        # What any job took from the environment stays out of all that the sweep writes.
        self._variables |= taken().variables
        remember(Taken(variables=dict(self._variables)))
        return values, digest

    def _searchpath(self) -> list[str]:
        return [o for o in self.overrides if o.startswith("hydra.searchpath=")]


def digest_of(verb: str, values: Mapping[str, Any], *, without: str | None) -> str:
    """The hash of the configuration composed last, in which what came from the environment counts as text."""
    written = as_written({key: value for key, value in values.items() if key != without})
    text = json.dumps({"verb": verb, **written}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


Start = Callable[[list[Job]], None]
"""Has a launcher of Hydra's do the work of jobs."""


def multirun(
    jobs: Jobs,
    folder: Path,
    run: Callable[[list[Job], Start | None], Mapping[str, float | None]],
    work: Callable[[Job], float | None],
) -> None:
    """Run all jobs of a sweep, as its sweeper (by default all combinations, in order) hands them out.

    run: is given jobs that are all composed and checked, and what starts them, where the user chose a launcher; returns
    the metrics by the jobs' hashes. work: does one job, in a process of such a launcher; it is pickled.
    """
    hydra = Hydra("cvtasks", jobs.loader)
    GlobalHydra.instance().initialize(hydra)
    place = [f"hydra.sweep.dir={quoted(str(folder))}", "hydra.sweep.subdir=.", "hydra.mode=MULTIRUN"]
    plugins = Plugins.instance()
    do = _Work(jobs.verb, jobs.hash_without, work)
    instantiate = plugins.instantiate_launcher

    def instantiate_launcher(**given: Any) -> Launcher:
        chosen = instantiate(**given)
        return _Launcher(jobs, run, do, None if _is_basic(given["config"].hydra.launcher) else chosen)

    try:
        config = hydra.compose_config(
            config_name=jobs.config_name,
            overrides=[*place, *QUIET, *jobs.overrides],
            run_mode=RunMode.MULTIRUN,
        )
        context = HydraContext(config_loader=jobs.loader, callbacks=Callbacks(config))
        plugins.instantiate_launcher = instantiate_launcher  # type: ignore[assignment, method-assign]
        sweeper = plugins.instantiate_sweeper(config=config, hydra_context=context, task_function=do)
        sweeper.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign]  # our launcher does that
        sweeper.sweep(arguments=as_typed(config.hydra.overrides.task))
    finally:
        plugins.__dict__.pop("instantiate_launcher", None)
        GlobalHydra.instance().clear()
        (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own


def _is_basic(node: DictConfig) -> bool:
    """Hydra's own launcher. By name: Hydra loads its plug-ins anew, as other classes than those that one imports."""
    return str(node._target_).endswith(".BasicLauncher")


class _Work:
    """What a launcher does with the configuration of a job: find the job, and do it. Can be pickled."""

    def __init__(self, verb: str, without: str | None, work: Callable[[Job], float | None]) -> None:
        self.verb, self.without, self.work = verb, without, work
        self.jobs: dict[str, Job] = {}

    def __call__(self, config: DictConfig) -> float:
        digest = digest_of(self.verb, plain(config, self.verb), without=self.without)
        value = self.work(self.jobs[digest])
        return WORST if value is None else value


class _Launcher(Launcher):
    """Composes and checks every job before the first one starts, and has them run."""

    def __init__(
        self,
        jobs: Jobs,
        run: Callable[[list[Job], Start | None], Mapping[str, float | None]],
        work: _Work,
        chosen: Launcher | None,
    ) -> None:
        """chosen: by the user; None: the jobs are ours to start."""
        self.jobs, self.run, self.work, self.chosen = jobs, run, work, chosen

    def setup(self, **given: Any) -> None:
        """The chosen one is set up already."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [self.jobs.job(initial_job_idx + n, overrides) for n, overrides in enumerate(job_overrides)]
        self.work.jobs |= {job.hash: job for job in jobs}
        metrics = self.run(jobs, None if self.chosen is None else self._start)
        returns = []
        for job, overrides in zip(jobs, job_overrides, strict=True):
            value = metrics.get(job.hash)
            returns.append(JobReturn(overrides=overrides, status=JobStatus.COMPLETED))
            returns[-1].return_value = WORST if value is None else value
        return returns

    def _start(self, jobs: list[Job]) -> None:
        assert self.chosen is not None
        typed = [[o for o in job.overrides if not o.startswith("hydra.")] for job in jobs]
        self.chosen.launch(typed, initial_job_idx=jobs[0].number)


def settings_of(words: Sequence[str], schema: type) -> tuple[dict[str, Any], list[str]]:
    """The sweep's own settings (`sweep.jobs=2`), checked by their schema; and the words that are the jobs'.

    Raises ConfigError.
    """
    own = {field.name for field in fields(schema)}
    values: dict[str, Any] = {}
    rest = []
    for word in words:
        first, _, inner = word.partition("=")[0].partition(".")
        if first not in own or "=" not in word:
            rest.append(word)
            continue
        value = OverridesParser.create().parse_override(word).value()
        values |= {first: {**values.get(first, {}), inner: value} if inner else value}
    try:
        check(values, schema)
    except KeyConfigError as error:
        raise ConfigError(str(error)) from None
    return values, rest


def _values(overrides: Sequence[str]) -> set[tuple[str, str]]:
    """What the words say: Hydra quotes what holds ${...}."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {(override.get_key_element(), str(override.value())) for override in parsed}


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def quoted(text: str) -> str:
    """A text as Hydra reads it as it stands."""
    return '"' + text.replace('"', '\\"') + '"'
