"""The verb `tune`: a search over ranges with Optuna (optional: `pip install 'cvtasks[tune]'`).

    cvtasks tune task=faster_rcnn 'optimizer.lr=interval(1e-4,1e-1)' trials=20 engine.max_steps=500

Each trial is a `cvtasks train` in a process of its own. It maximises the task's monitor (or minimises it:
`engine.direction`), with Optuna's tree-structured Parzen estimator (Bergstra et al., NIPS 2011) and median pruner. The
search lies in the sweep's folder as an Optuna journal, so that the same command, and one with more `trials=`, go on.
"""

from __future__ import annotations

import json
import math
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cvtasks.config.multirun import Job, Jobs, settings_of
from cvtasks.config.ranges import Range, ranges
from cvtasks.config.schema import TuneConfig
from cvtasks.engine.direction import lower_is_better
from cvtasks.errors import ConfigError, CvtasksError
from cvtasks.studies.pictures import SERIES, figure
from cvtasks.sweeps.ledger import Entry
from cvtasks.sweeps.sweep import Sweep

JOURNAL = "optuna.journal"
STARTUP = 5
"""Trials that must have ended before one is pruned"""
SETTLED = ("COMPLETE", "PRUNED")
"""What Optuna calls a trial that is not run again"""


def tune(flags: Namespace) -> None:
    """Search. Raises CvtasksError, when all is written, if a trial failed otherwise than by diverging."""
    settings, words = settings_of(flags.overrides, TuneConfig)
    optuna = _optuna()
    jobs = Jobs("train", flags, words)
    space, fixed = ranges(jobs)
    if not space:
        raise ConfigError(
            "tune needs a range: type KEY=interval(LOW,HIGH), as 'optimizer.lr=interval(1e-4,1e-1)'"
        )
    first = _check(jobs, space, fixed)
    # More trials are still the same search.
    with Sweep("train", jobs, flags, ["tune", *words], settings) as this:
        this.plan([])
        search = Search(optuna, this, space, fixed, monitor=first.monitor or "", **_own(settings))
        search.run()
        this.conclude(search.best(), forgiven=("pruned", "diverged"))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "cvtasks tune needs Optuna, which is not installed: pip install 'cvtasks[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _own(settings: dict[str, Any]) -> dict[str, Any]:
    given = TuneConfig(**{key: value for key, value in settings.items() if key != "sweep"})
    return {"trials": given.trials, "pruning": given.pruning}


def _check(jobs: Jobs, space: Sequence[Range], fixed: Sequence[str]) -> Job:
    """Compose with either end, and every choice, of each range, before the first trial starts; returns the first job."""
    low = {each.key: each.word(each.bounds()[0]) for each in space}
    first = jobs.job(0, [*fixed, *low.values()])
    for each in space:
        for value in each.bounds()[1:]:
            jobs.job(0, [*fixed, *(low | {each.key: each.word(value)}).values()])
    return first


class Search:
    """A study of Optuna whose trials are the jobs of a sweep."""

    def __init__(
        self,
        optuna: Any,
        sweep: Sweep,
        space: Sequence[Range],
        fixed: Sequence[str],
        *,
        monitor: str,
        trials: int,
        pruning: bool,
    ) -> None:
        self.optuna, self.sweep, self.space, self.fixed = optuna, sweep, space, list(fixed)
        self.monitor, self.trials, self.pruning = monitor, trials, pruning
        seed = [o for o in self.fixed if o.startswith("seed=")]
        self.seed = int(seed[-1].removeprefix("seed=")) if seed else 0
        backend = optuna.storages.journal.JournalFileBackend(str(sweep.folder / JOURNAL))
        self.study = optuna.create_study(
            study_name="tune",
            storage=optuna.storages.JournalStorage(backend),
            direction="minimize" if lower_is_better(monitor) else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
            load_if_exists=True,
        )
        self.distributions = {each.key: self._distribution(each) for each in space}
        self.running: dict[str, Any] = {}
        """Optuna's trials, by the hashes of their jobs"""
        self.reported: dict[str, int] = {}
        """The last step that Optuna was told of"""

    def run(self) -> None:
        settled = self._of(*SETTLED)
        self._again(settled)
        self.sweep.plan([self._job(trial) for trial in settled])  # for the table
        self.sweep.run_here(
            self._jobs(len(settled)),
            total=self.trials,
            done=len(settled),
            watch=self._hopeless,
            ended=self._tell,
        )
        _draw(self.study, self.space, self.monitor, self.sweep.folder / "search.png")

    def best(self) -> str:
        """The best trial, and the command that trains it again. Raises CvtasksError where none came to its end."""
        done = [entry for entry in self.sweep.entries() if self.sweep.ledger.done(entry)]
        if not done or done[0].value is None:
            self.sweep.write()
            raise CvtasksError(
                f"none of {len(self.sweep.planned)} trials has a {self.monitor}; {self.sweep.folder} holds their logs"
            )
        words = self.sweep.planned[done[0].hash].overrides
        command = shlex.join(["cvtasks", "train", *self.sweep.runner.options, *words])
        return (
            f"The best, job {done[0].number}, reached {self.monitor} {done[0].value:.4f}:\n\n    {command}\n"
        )

    def _distribution(self, each: Range) -> Any:
        kinds = self.optuna.distributions
        if each.kind == "choice":
            return kinds.CategoricalDistribution(each.choices)
        if each.kind == "int":
            return kinds.IntDistribution(int(each.low), int(each.high), log=each.log)
        return kinds.FloatDistribution(each.low, each.high, log=each.log)

    def _of(self, *states: str) -> list[Any]:
        return [trial for trial in self.study.trials if trial.state.name in states]

    def _again(self, settled: Sequence[Any]) -> None:
        """Trials that were stopped, or failed by themselves, come first again, with what they had chosen."""
        known = [trial.params for trial in settled]
        known += [trial.system_attrs["fixed_params"] for trial in self._of("WAITING")]
        for trial in self._of("RUNNING", "FAIL"):
            if trial.state.name == "RUNNING":
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            if trial.params not in known:
                known.append(trial.params)
                self.study.enqueue_trial(trial.params)

    def _jobs(self, begun: int) -> Iterator[Job]:
        while begun < self.trials:
            # A function of the seed and of how many there were: a search that is gone on with draws nothing twice.
            draw = (self.seed * 100_003 + begun) % 2**32
            liar = self.sweep.at_once > 1
            self.study.sampler = self.optuna.samplers.TPESampler(seed=draw, constant_liar=liar)
            trial = self.study.ask(self.distributions)
            begun += 1
            job = self._job(trial)
            self.running[job.hash] = trial
            self.sweep.plan([job])
            entry = self.sweep.ledger.entry(job)
            if self.sweep.ledger.done(entry):  # the same choices once more
                self._tell(job, entry)
                continue
            yield job

    def _job(self, trial: Any) -> Job:
        words = [each.word(trial.params[each.key]) for each in self.space]
        return self.sweep.jobs.job(trial.number, [*self.fixed, *words])

    def _hopeless(self, job: Job, entry: Entry) -> bool:
        return self._report(job, entry) and self.pruning and self.running[job.hash].should_prune()

    def _report(self, job: Job, entry: Entry) -> bool:
        """Tell Optuna of new evaluations; whether there were any."""
        new = False
        for step, value in evaluations(self.sweep.ledger.place(entry), self.monitor):
            if step > self.reported.get(job.hash, -1):
                self.running[job.hash].report(value, step)
                self.reported[job.hash], new = step, True
        return new

    def _tell(self, job: Job, entry: Entry) -> None:
        states = self.optuna.trial.TrialState
        self._report(job, entry)
        trial = self.running.pop(job.hash)
        if entry.state == "done" and entry.value is not None and not math.isnan(entry.value):
            self.study.tell(trial, entry.value)
        elif entry.state in ("done", "pruned", "diverged"):  # a loss without end is an answer, too
            self.study.tell(trial, state=states.PRUNED)
        else:
            self.study.tell(trial, state=states.FAIL)


def evaluations(folder: Path, monitor: str) -> Iterator[tuple[int, float]]:
    """The step and the monitored metric of each evaluation of a run, also of one that goes on."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # half a line
            continue
        if isinstance(record, dict) and isinstance(value := record.get(monitor), int | float):
            yield record["step"], float(value)


def _draw(study: Any, space: Sequence[Range], monitor: str, path: Path) -> None:
    """The metric of every trial that came to its end, in their order, and over each range."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not done:
        return
    with figure(path, width=3.4 * (1 + len(space)), height=3.2) as drawn:
        history = drawn.add_subplot(1, 1 + len(space), 1)
        history.scatter([t.number for t in done], [t.value for t in done], color=SERIES[0])
        history.set(title=monitor, xlabel="trial")
        for column, each in enumerate(space):
            axes = drawn.add_subplot(1, 1 + len(space), 2 + column, sharey=history)
            axes.scatter([t.params[each.key] for t in done], [t.value for t in done], color=SERIES[0])
            axes.set(xlabel=each.key)
            if each.log:
                axes.set_xscale("log")
