"""Runs jobs side by side, each in a process of its own, and keeps the ledger."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from cvtasks.config.multirun import Job, quoted
from cvtasks.engine.checkpoint import BEST, LAST, PREVIOUS
from cvtasks.engine.interrupt import Interrupt
from cvtasks.engine.progress import Progress, duration
from cvtasks.engine.run import lock
from cvtasks.errors import ConfigError, Interrupted
from cvtasks.sweeps.ledger import FAILURES, SIGNALS, Entry, Ledger, State
from cvtasks.sweeps.process import Process, environment

TICK = 0.1
"""Seconds between two looks at the running jobs"""
LOOK = 0.5
"""Seconds between two looks at what they have reached"""
PATIENCE = 60.0
"""Seconds that a job of a sweep that was killed may take to notice it"""
DIVERGED = 3
"""The exit code of a loss that is not a number"""
HASTE = 10.0
"""Seconds for a job to end after the second Ctrl-C"""


@dataclass
class Running:
    """A job that runs."""

    job: Job
    entry: Entry
    process: Process
    slot: int
    pruned: bool = False


Watch = Callable[[Job, Entry], bool]
"""Is asked of a running job now and then; whether it is hopeless, and to be ended"""
Ended = Callable[[Job, Entry], None]
"""Is told of a job that has ended, unless it was stopped to go on later"""


@dataclass(frozen=True)
class Runner:
    """How the jobs of a sweep are run. Can be pickled, for a launcher's own processes."""

    verb: str
    ledger: Ledger
    options: tuple[str, ...] = ()
    """What stands behind the verb, beside overrides: -cd DIR"""
    folder_key: str = ""
    """The key that says where a verb writes, if it has one"""
    folder: str | None = None
    """The sweep's folder as it is typed for a job: `${oc.env:NAME}` stays"""

    def run(
        self,
        jobs: Iterator[Job],
        *,
        at_once: int = 1,
        devices: Sequence[int | str] | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Run jobs as they come; the next one is asked for when there is room.

        Ctrl-C and SIGTERM are handed on: jobs save and stop, and Interrupted is raised when all have.
        """
        running: list[Running] = []
        waiting: Job | None = None
        exhausted, told, looked = False, False, 0.0

        def finish(each: Running, code: int, *, stopping: bool) -> None:
            running.remove(each)
            entry = self._finish(each, code, stopping=stopping)
            if progress is not None:
                progress.advance()
            if ended is not None and entry.state != "stopped":
                ended(each.job, entry)

        with Interrupt() as interrupt:
            try:
                while running or not exhausted:
                    while not exhausted and len(running) < at_once and not interrupt.received:
                        waiting = next(jobs, None)
                        exhausted = waiting is None
                        if waiting is not None:
                            slot = min(set(range(at_once)) - {each.slot for each in running})
                            given = environment(slot, at_once=at_once, devices=devices)
                            running.append(self._start(waiting, slot, given))
                    if interrupt.received:
                        exhausted = True
                        for each in running if not told else ():
                            each.process.signal(interrupt.received)
                        told = True
                    for each in list(running):
                        if (code := each.process.poll()) is not None:
                            finish(each, code, stopping=interrupt.received is not None)
                    if running and time.monotonic() > looked + LOOK:
                        looked = time.monotonic()
                        self._look(running, progress, watch if not interrupt.received else None)
                    time.sleep(TICK if running else 0)
            except KeyboardInterrupt:  # a second Ctrl-C
                for each in list(running):
                    each.process.signal(signal.SIGINT)
                    finish(each, each.process.end(HASTE), stopping=True)
            finally:
                for each in running:
                    each.process.signal(signal.SIGTERM)
        if interrupt.received:
            raise Interrupted("", exit_code=SIGNALS + interrupt.received)

    def work(self, job: Job) -> float | None:
        """Do one job, where a launcher of Hydra's has put it; returns its metric."""
        self.run(iter([job]))
        return self.ledger.entry(job).value

    def _start(self, job: Job, slot: int, given: Mapping[str, str]) -> Running:
        entry = self.ledger.entry(job)
        words = self._words(job, entry)
        again = " goes on" if words[0] == "resume" else " again" if entry.state != "waiting" else ""
        tqdm.write(f"job {job.number}{again}: {job.label}")
        entry = replace(entry, state="running", code=None, reason="", value=None)
        self.ledger.write(entry)
        return Running(job, entry, Process(words, self.ledger.log(entry), given), slot)

    def _words(self, job: Job, entry: Entry) -> list[str]:
        """The command line of a job: what was typed, or `resume` where it was cut short."""
        place = self.ledger.place(entry)
        inside = bool(self.folder_key) and entry.folder is None
        folder = quoted(f"{self.folder or self.ledger.folder}/{entry.name}") if inside else quoted(str(place))
        if self.verb == "train" and (place / "checkpoints").is_dir():
            wait_until_free(place)
            if self.ledger.resumable(entry):
                return ["resume", *self.options, f"run={folder}", f"plugins=[{','.join(job.plugins)}]"]
            for name in (LAST, PREVIOUS, BEST):  # of an attempt that failed by itself
                (place / "checkpoints" / name).unlink(missing_ok=True)
        own = [f"{self.folder_key}={folder}"] if inside else []
        return [self.verb, *self.options, *job.overrides, *own]

    def _finish(self, each: Running, code: int, *, stopping: bool) -> Entry:
        state: State = "failed"
        if code == 0:
            state = "done"
        elif each.pruned:
            state = "pruned"
        elif stopping and (code < 0 or code > SIGNALS):
            state = "stopped"
        elif code == DIVERGED:
            state = "diverged"
        failed = state in FAILURES
        entry = replace(
            each.entry,
            state=state,
            code=code,
            reason=each.process.why(code) if failed or state == "stopped" else "",
            value=self._value(each.entry) if state == "done" else None,
            seconds=each.entry.seconds + time.monotonic() - each.process.began,
        )
        self.ledger.write(entry)
        value = f", {entry.monitor} {entry.value:.4f}" if entry.value is not None else ""
        why = f": {failure(entry, self.ledger)}" if failed else ""
        tqdm.write(f"job {entry.number} {state} in {duration(entry.seconds)}{value}{why}")
        return entry

    def _value(self, entry: Entry) -> float | None:
        with contextlib.suppress(OSError, ValueError):
            metrics = json.loads((self.ledger.place(entry) / "metrics.json").read_text(encoding="utf-8"))
            return metrics.get(entry.monitor)
        return None

    def _look(self, running: Sequence[Running], progress: Progress | None, watch: Watch | None) -> None:
        for each in running:
            if watch is not None and not each.pruned and watch(each.job, each.entry):
                each.pruned = True
                each.process.signal(signal.SIGTERM)
        if progress is not None:
            told = [f"job {each.job.number}: {each.process.progress}" for each in running]
            progress.status("; ".join(line for line in told if not line.endswith(": ")), refresh=True)
            progress.advance(0)


def failure(entry: Entry, ledger: Ledger) -> str:
    """Why a job failed, in one line that names its log."""
    return f"exit code {entry.code}: {entry.reason}; log: {ledger.log(entry)}"


def wait_until_free(folder: Path, seconds: float = PATIENCE) -> None:
    """Until no process has the run's folder: one whose sweep was killed ends at the next line that it prints.

    Raises ConfigError if it does not.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return lock(folder).close()
        except ConfigError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK)
