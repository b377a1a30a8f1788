"""A run's folder: everything that a training leaves behind, and the only place that writes it.

config.yaml  metrics.jsonl  metrics.json  train.log  checkpoints/  predictions/  plots/  events.out.*
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from cvtasks.engine.checkpoint import BEST, LAST, PREVIOUS, is_disk_full, write_atomically
from cvtasks.engine.events import EventFile
from cvtasks.errors import ConfigError, OutOfDiskError
from cvtasks.redaction import hide

RUNS = Path("runs")


class Run:
    """One run's folder, open for writing by this process alone. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("checkpoints", "plots"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._log = (folder / "train.log").open("a", encoding="utf-8")
        self._purge: int | None = None
        self._events: EventFile | None = None
        self._events_failed = False

    @classmethod
    def create(cls, run_dir: str | Path | None, *, task: str, dataset: str) -> Run:
        """A folder without a run. Raises ConfigError where `run_dir` holds one already.

        A run that was stopped before its first checkpoint is none: `fit` begins it anew.
        """
        if run_dir is None:
            return cls(new_folder(RUNS / task / dataset))
        folder = Path(run_dir)
        if any((folder / "checkpoints" / name).exists() for name in (BEST, LAST, PREVIOUS)):
            raise ConfigError(
                f"run_dir={folder} holds a run already; go on with it by: cvtasks resume {folder}; "
                "or choose another run_dir"
            )
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The folder of a run that exists. Raises ConfigError where there is none, or another process has it."""
        if not (folder / "config.yaml").exists():
            raise ConfigError(
                f"{folder} holds no run (there is no config.yaml in it); give the folder of a run"
            )
        return cls(folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.folder / "plots"

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that ended the run
            if error is not None:
                self._log.write(hide(f"{type(error).__name__}: {error}\n"))
            self._log.flush()
        for file in (self._events, self._metrics, self._log, self._lock):
            with contextlib.suppress(OSError):
                if file is not None:
                    file.close()
        if isinstance(error, OutOfDiskError) or is_disk_full(error):
            path = getattr(error, "path", None) or getattr(error, "filename", None) or self.folder
            begun = (self.folder / "config.yaml").exists()
            then = f"cvtasks resume {self.folder}" if begun else "type the same again"
            raise OutOfDiskError(path, then=then) from None

    def say(self, line: str) -> None:
        """One line for the terminal (above a progress bar) and train.log."""
        tqdm.write(line)
        self._log.write(hide(line) + "\n")
        self._log.flush()

    def log(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, with its numbers in TensorBoard too. NaN is written as null."""
        self._metrics.write(json.dumps(_json(record)) + "\n")
        self._metrics.flush()
        self.scalars(record["step"], {k: v for k, v in record.items() if k not in ("step", "stage")})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers for TensorBoard alone: what depends on the machine is kept out of metrics.jsonl."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._to_tensorboard(lambda events: events.scalars(step, finite))

    def picture(self, name: str, image: Any, step: int) -> None:
        """A uint8 image [3, H, W] for TensorBoard."""
        self._to_tensorboard(lambda events: events.picture(step, name, image))

    def rewind(self, step: int, *, later: Sequence[str] = ()) -> None:
        """Drop what metrics.jsonl and TensorBoard hold beyond a step: it was written after the last checkpoint.

        later: stages whose lines go, too; one without steps begins and ends at the step of the one before it.
        """
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = "".join(line + "\n" for line in text.splitlines() if _step(line, later) <= step)
        if kept != text:
            self._metrics.close()
            write_atomically(path, kept.encode())
            self._metrics = path.open("a", encoding="utf-8")
        self._purge = step + 1

    def write_json(self, name: str, values: Any) -> None:
        """A JSON file in the run's folder."""
        write_json(self.folder / name, values)

    def write_text(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text.encode())

    def _to_tensorboard(self, write: Callable[[EventFile], None]) -> None:
        """Its curves are a copy of metrics.jsonl: that they cannot be written is no reason to end a run."""
        if self._events_failed:
            return
        try:
            if self._events is None:
                self._events = EventFile(self.folder, purge=self._purge)
            write(self._events)
        except OSError as error:
            self._events_failed = True
            self.say(f"TensorBoard's file cannot be written ({error.strerror}); the run goes on without it")


class Follower(Run):
    """What the other processes of a training hold: it knows the folder, and writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __exit__(self, *error: object) -> None: ...

    def say(self, line: str) -> None: ...

    def log(self, record: Mapping[str, Any]) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, name: str, image: Any, step: int) -> None: ...

    def rewind(self, step: int, *, later: Sequence[str] = ()) -> None: ...

    def write_json(self, name: str, values: Any) -> None: ...

    def write_text(self, name: str, text: str) -> None: ...


def write_json(path: Path, values: Any) -> None:
    """A JSON file, whole or not there. NaN is written as null."""
    write_atomically(path, (json.dumps(_json(values), indent=2) + "\n").encode())


def new_folder(parent: Path) -> Path:
    """`parent/<date>_<time>`, with a number behind it for the second run that starts in the same second."""
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError(f"10,000 runs in one second below {parent}")


def lock(folder: Path) -> Any:
    """Hold the folder until the process ends, however it ends. Raises ConfigError where another one holds it.

    A record lock, not flock: forked loader workers do not inherit it, so it ends with this process even if they live
    on for some seconds.
    """
    file = (folder / ".lock").open("w")
    if os.name == "posix":
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ConfigError(
                f"{folder} is in use by another process; wait for it, or choose another run_dir"
            ) from None
    return file


def _step(line: str, later: Sequence[str]) -> float:
    """The step of a line of metrics.jsonl; infinity for a later stage's, and for half a line, as a kill leaves it."""
    try:
        record = json.loads(line)
        return math.inf if record.get("stage") in later else float(record["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf


def _json(value: Any) -> Any:
    """NaN and infinity become null: JSON has neither. What came from the environment is hidden."""
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return hide(value) if isinstance(value, str) else value
