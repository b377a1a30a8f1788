"""The verb `study`: what a YAML below conf/study/ names is run, and what it found is written.

A study is a function of its settings and of a `StudyRun`, which returns `Findings`. One Python file here and one YAML
file make a new one; `train_parts` runs the trainings of one that compares systems.
"""

from __future__ import annotations

import inspect
import os
import platform
import time
from datetime import datetime
from typing import Any

import torch

from cvtasks import __version__
from cvtasks.assembly import Config, as_yaml
from cvtasks.config.build import build, locate
from cvtasks.engine.checkpoint import write_atomically
from cvtasks.engine.progress import duration
from cvtasks.engine.run import write_json
from cvtasks.errors import ConfigError, CvtasksError
from cvtasks.redaction import as_written
from cvtasks.studies.findings import Findings, as_csv, as_markdown
from cvtasks.studies.parts import StudyRun


def conduct(cfg: Config, *, config_dir: str | None = None) -> None:
    """Run a study into its folder: NAME.json, NAME.csv, NAME.md and NAME.png.

    config_dir: the user's own folder of YAML files. Raises CvtasksError, when all is written, if parts of it failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("cvtasks study runs in one process: start it without torchrun")
    name, began = cfg["study"]["name"], time.perf_counter()
    dataset = _dataset(cfg)
    told = {"seed": cfg["seed"], "device": cfg["device"], "config_dir": config_dir}
    with StudyRun.create(cfg["run_dir"], name, **told) as run:
        # Before trainings are composed: it is written without what it took from the environment.
        write_atomically(run.folder / "config.yaml", as_yaml(cfg).encode())
        findings = build(cfg["study"], run=run, **dataset)
        _write(run, name, findings, about=_about(cfg, time.perf_counter() - began))
        run.say(f"done in {duration(time.perf_counter() - began)}: {run.folder / name}.json, .csv, .md, .png")
        if run.failed:
            lines = "; ".join(f"{part}: {why}" for part, why in run.failed.items())
            raise CvtasksError(
                f"{len(run.failed)} of the study's parts failed: {lines}; the same command with "
                f"run_dir={run.folder} tries them again"
            )


def _dataset(cfg: Config) -> dict[str, Any]:
    """The argument `dataset` of a study that has it: the node, with `${oc.env:NAME}` where that was typed.

    Raises ConfigError where a data set is given to a study without one, and the other way round.
    """
    parameters = inspect.signature(locate(cfg["study"]["_target_"])).parameters
    takes = "dataset" in parameters
    if cfg["dataset"] is None and takes and parameters["dataset"].default is None:
        return {}
    if takes and cfg["dataset"] is None:
        raise ConfigError(
            f"study {cfg['study']['name']} needs a data set: type dataset=shapes, or another one"
        )
    if not takes and cfg["dataset"] is not None:
        raise ConfigError(
            f"dataset={cfg['dataset']['name']}: study {cfg['study']['name']} takes none; leave it out"
        )
    return {"dataset": as_written(cfg["dataset"], "dataset")} if takes else {}


def _write(run: StudyRun, name: str, findings: Findings, *, about: dict[str, Any]) -> None:
    tables = {heading: list(rows) for heading, rows in findings.tables.items()}
    write_json(run.folder / f"{name}.json", {**about, "tables": tables, "failed": run.failed})
    write_atomically(run.folder / f"{name}.csv", as_csv(findings).encode())
    page = as_markdown(findings, f"{name}.png", failed=run.failed)
    write_atomically(run.folder / f"{name}.md", page.encode())
    if any(tables.values()):
        findings.draw(run.folder / f"{name}.png")
    run.say(page)


def _about(cfg: Config, seconds: float) -> dict[str, Any]:
    """What a number needs beside it."""
    settings = {key: value for key, value in cfg["study"].items() if key not in ("name", "_target_")}
    return {
        "study": cfg["study"]["name"],
        "settings": settings,
        **({"dataset": cfg["dataset"]["name"]} if cfg["dataset"] else {}),
        "seed": cfg["seed"],
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "date": datetime.now().isoformat(timespec="seconds"),
        "seconds": seconds,
    }
