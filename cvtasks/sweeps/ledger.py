"""What became of the jobs of a sweep: one small file each, by the hash of its configuration.

`ledger/<hash>.json` in the sweep's folder. A file for each job, because a launcher may run them on several machines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cvtasks.config.multirun import Job
from cvtasks.engine.checkpoint import LAST, PREVIOUS
from cvtasks.engine.run import write_json

LEDGER = "ledger"
State = Literal["waiting", "running", "done", "stopped", "pruned", "diverged", "failed"]
"""diverged: its loss is not a number. failed: any other end but a stop that was asked for."""
FAILURES: tuple[State, ...] = ("failed", "diverged")
OUT_OF_DISK, SIGNALS = 5, 128
"""Exit codes: of a full disk, and those above which a signal ended the job"""


@dataclass(frozen=True)
class Entry:
    """A job, and how it stands."""

    hash: str
    number: int
    name: str
    changed: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    """Where it writes, if that is not the sweep's folder"""
    monitor: str | None = None
    state: State = "waiting"
    code: int | None = None
    """Its exit code; minus a signal's number if that ended it"""
    reason: str = ""
    """Why it failed, in one line"""
    value: float | None = None
    """Of `monitor`"""
    seconds: float = 0.0
    """Of all its attempts"""

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.changed.items()) or "all as given"


class Ledger:
    """The entries below a sweep's folder. Plain enough to be pickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry(self, job: Job) -> Entry:
        """What is known of a job; a new one gets a folder's name that no other job has."""
        known = self._read(self._file(job.hash))
        if known is not None:
            return replace(known, number=job.number, changed=dict(job.changed))
        names = {entry.name for entry in self.entries()}
        name = next(
            n for k in range(len(names) + 1) if (n := f"{job.name}_{k + 1}" if k else job.name) not in names
        )
        return Entry(job.hash, job.number, name, dict(job.changed), folder=job.folder, monitor=job.monitor)

    def write(self, entry: Entry) -> None:
        file = self._file(entry.hash)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, vars(entry))

    def entries(self) -> list[Entry]:
        found = map(self._read, sorted((self.folder / LEDGER).glob("*.json")))
        return [entry for entry in found if entry is not None]

    def place(self, entry: Entry) -> Path:
        """The folder that a job writes into."""
        return self.folder / entry.name if entry.folder is None else Path(entry.folder)

    def log(self, entry: Entry) -> Path:
        """What a job printed."""
        return self.folder / f"{entry.name}.log"

    def done(self, entry: Entry) -> bool:
        """Whether it need not be run (again): it ended well, and what it left is still there."""
        return entry.state == "done" and self.place(entry).is_dir()

    def resumable(self, entry: Entry) -> bool:
        """Whether a training was cut short, and can go on. One that ended by itself would end there again."""
        cut = entry.code is None or entry.code < 0 or entry.code > SIGNALS or entry.code == OUT_OF_DISK
        checkpoints = self.place(entry) / "checkpoints"
        return cut and any((checkpoints / name).exists() for name in (LAST, PREVIOUS))

    def _file(self, digest: str) -> Path:
        return self.folder / LEDGER / f"{digest}.json"

    def _read(self, file: Path) -> Entry | None:
        """None where there is none, or a damaged one: its job then counts as new."""
        try:
            return Entry(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
