"""Trainings as parts of a study: `cvtasks train` for each, and `cvtasks resume` for one that was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cvtasks import app, judge
from cvtasks.batch_size import largest
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.memory import peak_of
from cvtasks.engine.precision import choose_device
from cvtasks.redaction import as_written
from cvtasks.studies.parts import Result, StudyRun

PARTS = "{parts}"
"""In an override, the folder of the parts: `weights="{parts}/fcn32s"` starts from the part fcn32s."""


def train_parts(
    run: StudyRun, parts: Mapping[str, Sequence[str]], *, common: Sequence[str] = ()
) -> dict[str, Result]:
    """Train each part with its overrides, behind those that all share; the results of those that ended well.

    A result has the run's `metrics`, the `seconds` until its last step (evaluations in between and those before a resume
    included) and its `peak_memory` in bytes, None where it is not known (`engine.memory.peak_of`). All parts are
    checked before the first is trained: ConfigError.
    """
    typed = {name: [f"seed={run.seed}", f"device={run.device}", *common, *own] for name, own in parts.items()}
    for overrides in typed.values():
        composed(run, overrides)
    found = {}
    for name, overrides in typed.items():
        # Composed anew: only the configuration that was composed last can be written without its secrets.
        config = composed(run, overrides)
        settings = json.dumps(as_written({k: v for k, v in config.items() if k != "run_dir"}))
        settings = settings.replace(json.dumps(str(run.parts.absolute()))[1:-1], PARTS)  # it may be moved
        work = partial(_train, run, config, overrides)
        result = run.part(name, work, settings=json.loads(settings))
        if result is not None:
            found[name] = result
    return found


def _train(run: StudyRun, config: dict[str, Any], overrides: list[str], folder: Path) -> Result:
    if config["loader"]["batch_size"] == "auto":
        config = composed(run, [*overrides, f"loader.batch_size={largest(config)}"])

    plugins = f"plugins=[{','.join(config['plugins'])}]"

    def work() -> None:
        if (folder / "checkpoints" / checkpoints.LAST).exists():
            stored = compose("resume", [f'run="{_quoted(folder)}"', plugins], config_dir=run.config_dir)
            app.resume(folder, stored)
        else:
            app.train(config | {"run_dir": str(folder)})

    _, peak = peak_of(work, choose_device(config["device"]))
    if not (file := folder / "metrics.json").exists():  # it was stopped behind the last step
        own = [f'run="{_quoted(folder)}"', f'run_dir="{_quoted(folder / "evaluation")}"', plugins]
        judge.evaluate(compose("eval", own, config_dir=run.config_dir))
        file = folder / "evaluation" / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    seconds = checkpoints.load(folder / "checkpoints" / checkpoints.LAST)["seconds"]
    return {"metrics": metrics, "seconds": seconds, "peak_memory": peak}


def composed(run: StudyRun, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a training with these overrides, in which `{parts}` is the folder of the parts."""
    folder = _quoted(run.parts.absolute())
    return compose("train", [o.replace(PARTS, folder) for o in overrides], config_dir=run.config_dir)


def _quoted(path: Path) -> str:
    """A path as it stands between quotes."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
