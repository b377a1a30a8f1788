"""Trainings as parts of a study: `cvtasks train` for each, and `cvtasks resume` for one that was stopped."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cvtasks import app, judge
from cvtasks.batch_size import largest
from cvtasks.config.build import locate
from cvtasks.config.compose import compose
from cvtasks.config.origins import flatten
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

    A result has the run's `metrics`, the `seconds` until its last step or solved stage (evaluations in between and those
    before a resume included), of these the `training_seconds` without any evaluation, and its `peak_memory` in bytes, None
    where it is not known (`engine.memory.peak_of`). All parts are checked before the first is trained: ConfigError.
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
        judge.evaluate(judged(run, folder, [f'run_dir="{_quoted(folder / "evaluation")}"', plugins]))
        file = folder / "evaluation" / "metrics.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    last = checkpoints.load(folder / "checkpoints" / checkpoints.LAST)
    seconds = {"seconds": last["seconds"], "training_seconds": last.get("training")}
    return {"metrics": metrics, **seconds, "peak_memory": peak}


def composed(run: StudyRun, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a training with these overrides, in which `{parts}` is the folder of the parts."""
    folder = _quoted(run.parts.absolute())
    return compose("train", [o.replace(PARTS, folder) for o in overrides], config_dir=run.config_dir)


def judged(run: StudyRun, folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration in which the run of `folder` is judged: its own, with these overrides."""
    return compose("eval", [f'run="{_quoted(folder)}"', *overrides], config_dir=run.config_dir)


def last_typed(overrides: Sequence[str]) -> list[str]:
    """Each key once, with what is typed last for it: Hydra takes none twice."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


def as_overrides(group: str, node: Mapping[str, Any], keys: Collection[str] | None = None) -> list[str]:
    """What is typed for a node of a configuration: the choice of its group, and its keys (None: all of them).

    Where the name is the constructor's (`backbone=timm backbone.name=resnet50`), the choice is the constructor.
    """
    constructor = locate(node["_target_"])
    named = "name" in inspect.signature(constructor).parameters
    left_out = ("_target_",) if named else ("name", "_target_")
    values = {key: node[key] for key in node if key not in left_out and (keys is None or key in keys)}
    typed = [f"{group}.{key}={_typed(value)}" for key, value in flatten(values) if value != {}]
    return [f"{group}={constructor.__name__ if named else node['name']}", *typed]


def _typed(value: Any) -> str:
    """A plain value as Hydra reads it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        # A backslash is one, but in front of a quotation mark.
        return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + m[2].replace('"', '\\"'), value) + '"'
    return repr(value)


def _quoted(path: Path) -> str:
    """A path as it stands between quotes."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
