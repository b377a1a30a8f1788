"""A study's folder, and the parts of a study: each is done once, and a failing one does not take the others with it.

parts/<name>/part.json    its settings and, once it is done, its result
parts/<name>/             what else it leaves; for a training, the run's folder
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from cvtasks.engine.run import RUNS, lock, new_folder, write_json
from cvtasks.errors import ConfigError, CvtasksError, Interrupted, OutOfDiskError

Result = dict[str, Any]
"""What a part found: plain values that JSON can hold"""


class StudyRun:
    """A study's folder, open for this process alone, and what every study is told. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        device: str = "auto",
        config_dir: str | None = None,
    ) -> None:
        """config_dir: the user's own folder of YAML files, for the configurations of trainings."""
        self.folder, self.seed, self.device, self.config_dir = folder, seed, device, config_dir
        self.failed: dict[str, str] = {}
        """The parts without a result, and why"""
        self.parts = folder / "parts"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(folder)

    @classmethod
    def create(cls, run_dir: str | Path | None, name: str, **told: Any) -> StudyRun:
        """The folder of the study `name`, new or gone on with. Raises ConfigError where a training lives in it."""
        if run_dir is None:
            return cls(new_folder(RUNS / "studies" / name), **told)
        if (Path(run_dir) / "checkpoints").exists():
            raise ConfigError(f"run_dir={run_dir} holds a training; choose another run_dir for the study")
        return cls(Path(run_dir), **told)

    def __enter__(self) -> StudyRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def say(self, line: str) -> None:
        """A line for the terminal, above a progress bar."""
        tqdm.write(line)

    def part(
        self, name: str, work: Callable[[Path], Result], *, settings: Mapping[str, Any]
    ) -> Result | None:
        """The result of `work(folder)`, which is done only if the folder does not have it; None if it failed.

        settings: plain values, all that the result depends on; `seconds` in the result is what the work took, unless
        it says so itself. Raises ConfigError where the folder's settings are others.
        """
        folder = self.parts / name
        file = folder / "part.json"
        wanted = json.loads(json.dumps(settings))
        known = _read(file) if file.is_file() else {"settings": wanted}
        if (other := difference(known["settings"], wanted)) is not None:
            raise ConfigError(
                f"{folder} was begun with other settings ({other}); choose another run_dir, or type the same again"
            )
        if "result" in known:
            self.say(f"{name}: done before ({folder})")
            return known["result"]
        self.say(f"{name}: begins")
        write_json(file, known)
        began = time.perf_counter()
        try:
            result = work(folder)
        except Interrupted as error:
            line = f"stopped in {name}; the same command with run_dir={self.folder} goes on"
            raise Interrupted(line, exit_code=error.exit_code) from None
        except OutOfDiskError:
            raise
        except Exception as error:
            if not isinstance(error, CvtasksError):
                traceback.print_exception(error)
            self.failed[name] = str(error) if isinstance(error, CvtasksError) else repr(error)
            self.say(f"{name}: failed: {self.failed[name]}")
            return None
        result = {"seconds": time.perf_counter() - began, **result}
        write_json(file, known | {"result": result})
        return _read(file)["result"]  # what a later call will be told


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise ConfigError(f"{file}: damaged; delete {file.parent}, and the part is done again")
    return found


def difference(before: Any, now: Any, key: str = "") -> str | None:
    """The first key that differs: `engine.max_steps: 20, and now 30`."""
    if isinstance(before, dict) and isinstance(now, dict):
        dot = f"{key}." if key else ""
        both = ((k, before.get(k, "absent"), now.get(k, "absent")) for k in before | now)
        return next((d for k, old, new in both if (d := difference(old, new, dot + k)) is not None), None)
    return None if before == now else f"{key}: {before}, and now {now}"
