"""`-m`: every combination of what is typed, each a process of its own, with a ledger, and one table at the end.

    cvtasks train -m task=faster_rcnn optimizer.lr=0.01,0.02 seed=1,2 sweep.jobs=2

The same command finds its own sweep again: what is done is skipped, what was cut short goes on, what failed begins anew.
"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cvtasks.config.multirun import Job, Jobs, Start, multirun, settings_of
from cvtasks.config.schema import SweepConfig, SweepNode
from cvtasks.engine.progress import Progress, duration
from cvtasks.engine.run import RUNS, lock, new_folder, write_json
from cvtasks.errors import ConfigError, CvtasksError, Interrupted
from cvtasks.sweeps.ledger import Entry, Ledger
from cvtasks.sweeps.runner import Ended, Runner, Watch, failure
from cvtasks.sweeps.table import NAME, best_first, write_table


def sweep(verb: str, flags: Namespace) -> None:
    """Run all jobs of a verb. Raises CvtasksError, when all is written, if any failed; Interrupted when it was stopped."""
    settings, words = settings_of(flags.overrides, SweepConfig)
    with Sweep(verb, Jobs(verb, flags, words), flags, [verb, "-m", *words], settings) as this:
        multirun(this.jobs, this.folder, this.run, this.runner.work)
        this.conclude()


class Sweep:
    """A sweep's folder, new or gone on with, open for this process alone. Use as a context manager."""

    def __init__(
        self, verb: str, jobs: Jobs, flags: Namespace, command: Sequence[str], settings: dict[str, Any]
    ) -> None:
        """verb: of the jobs. command: what tells this sweep from another one."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("a sweep starts its jobs itself: start it without torchrun")
        options = [o for name in ("config_dir", "config_name") for o in _option(name, getattr(flags, name))]
        self.jobs, self.command = jobs, [*command, *options]
        self.settings = SweepNode(**settings.get("sweep", {}))
        self.at_once = self.settings.jobs or len(self.settings.devices or [None])
        self.began = time.perf_counter()
        self.folder, known = _folder(jobs.folder_path(), self.command)
        self.ledger = Ledger(self.folder)
        self.runner = Runner(verb, self.ledger, tuple(options), jobs.folder_key, jobs.folder)
        self.known = known
        self.planned: dict[str, Job] = {}
        """By their hashes, in order"""

    def __enter__(self) -> Sweep:
        self._lock = lock(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()
        if not self.planned and not self.known:  # a mistake in the command: nothing was begun
            (self.folder / ".lock").unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def run(self, jobs: list[Job], start: Start | None = None) -> dict[str, float | None]:
        """Run those of the jobs that are not done; returns the metrics of all by their hashes."""
        self.plan(jobs)
        entries = [self.ledger.entry(job) for job in {job.hash: job for job in jobs}.values()]
        left = [self.planned[entry.hash] for entry in entries if not self.ledger.done(entry)]
        if len(left) < len(entries):
            print(f"{self.folder}: {len(entries) - len(left)} of {len(entries)} jobs are done", flush=True)
        if left and start is not None:
            for job in left:  # so that no two of them choose one name
                self.ledger.write(self.ledger.entry(job))
            start(left)
        elif left:
            self.run_here(iter(left), total=len(entries), done=len(entries) - len(left))
        return {entry.hash: self.ledger.entry(self.planned[entry.hash]).value for entry in entries}

    def plan(self, jobs: Sequence[Job]) -> None:
        """From now on the sweep has these jobs, and the command finds it."""
        self.planned |= {job.hash: job for job in jobs if job.hash not in self.planned}
        if not (self.folder / f"{NAME}.json").exists():
            write_json(self.folder / f"{NAME}.json", {"command": self.command, "jobs": []})

    def run_here(
        self,
        jobs: Iterator[Job],
        *,
        total: int,
        done: int = 0,
        watch: Watch | None = None,
        ended: Ended | None = None,
    ) -> None:
        """In processes of this machine. Raises Interrupted, with the table written."""
        try:
            with Progress(total, title="sweep", unit="job", initial=done, say=_say) as progress:
                self.runner.run(
                    jobs,
                    at_once=self.at_once,
                    devices=self.settings.devices,
                    progress=progress,
                    watch=watch,
                    ended=ended,
                )
        except Interrupted as error:
            self.write()
            finished = sum(self.ledger.done(entry) for entry in self.entries())
            line = f"stopped: {finished} of {total} jobs are done; the same command goes on: {self.folder}"
            raise Interrupted(line, exit_code=error.exit_code) from None

    def entries(self) -> list[Entry]:
        return best_first([self.ledger.entry(job) for job in self.planned.values()])

    def write(self, text: str = "") -> str:
        entries = self.entries()
        title = f"{sum(map(self.ledger.done, entries))} of {len(entries)} jobs done"
        return write_table(entries, self.ledger, title=title, command=self.command, text=text)

    def conclude(self, text: str = "", *, forgiven: Sequence[str] = ()) -> None:
        """Write and print the table. Raises CvtasksError if jobs failed.

        forgiven: states that are no failure.
        """
        print(self.write(text))
        print(
            f"done in {duration(time.perf_counter() - self.began)}: {self.folder / NAME}.json, .csv, .md, .png"
        )
        print(f"  afresh        the same with {self.jobs.folder_key or 'run_dir'}=FOLDER", flush=True)
        failed = [e for e in self.entries() if e.state not in ("done", *forgiven)]
        if failed:
            failed.sort(key=lambda entry: entry.number)
            lines = "; ".join(f"job {e.number} ({e.label}): {failure(e, self.ledger)}" for e in failed)
            raise CvtasksError(
                f"{len(failed)} of the sweep's jobs failed: {lines}; the same command runs only these again"
            )


def _say(line: str) -> None:
    print(line, flush=True)


def _option(name: str, value: str | None) -> list[str]:
    return [] if value is None else [f"--{name.replace('_', '-')}", value]


def _folder(given: Path | None, command: list[str]) -> tuple[Path, bool]:
    """The sweep's folder, and whether it was there: the given one, the newest of the same command, or a new one."""
    if given is not None:
        if (given / "checkpoints").exists():
            raise ConfigError(f"{given} holds a training; choose another folder for the sweep")
        known = given.exists()
        given.mkdir(parents=True, exist_ok=True)
        return given, known
    for folder in sorted((RUNS / "sweeps").glob("*/"), reverse=True):
        try:
            found = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("command") == command:
            return folder, True
    return new_folder(RUNS / "sweeps"), False
