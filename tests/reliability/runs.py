"""A training of two seconds that has what can break a resume, and the comparison of two of them, bit for bit."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from undrawn import undraw

from cvtasks.engine import checkpoint as checkpoints

from .children import command

STEPS, EVAL_EVERY, CHECKPOINT_EVERY = 24, 12, 5
"""Five images in batches of two: an epoch ends within a step. Evaluations, checkpoints and log lines fall apart."""

SMALL = (
    "task=faster_rcnn", "dataset=shapes", "backbone=tiny", "backbone.width=8", "task.fpn_channels=8",
    "task.head_channels=8", "task.roi_samples=16", "task.rpn_before_nms_train=50", "task.rpn_before_nms_test=50",
    "task.rpn_proposals_train=20", "task.rpn_proposals_test=20", "pipeline.size=64", "dataset.image_size=64",
    "dataset.train.count=5", "dataset.val.count=2", "loader.batch_size=2", "scheduler.warmup_steps=3", "device=cpu",
    "engine.precision=fp32", "engine.ema=0.9",
)  # fmt: skip
"""Steps of 20 ms"""


def words(run: Path, *more: str, workers: int = 0) -> list[str]:
    """For `cvtasks`: train into `run`."""
    length = [f"engine.max_steps={STEPS}", f"engine.eval_every={EVAL_EVERY}", "engine.log_every=2"]
    often = [f"engine.checkpoint_every={CHECKPOINT_EVERY}", f"loader.workers={workers}"]
    return ["train", *SMALL, *length, *often, f"run_dir={run}", *more]


def train(*typed: str) -> None:
    """In a child: `cvtasks`, without plots."""
    undraw(pytest.MonkeyPatch())
    command(*typed)


def train_killed(step: int, *typed: str) -> None:
    """In a child: `cvtasks`, killed as soon as the checkpoint of a step is written; 0: instead of the first one."""
    save_last = checkpoints.save_last

    def save_and_die(folder: Path, content: dict[str, Any]) -> None:
        if step > 0:
            save_last(folder, content)
        if step in (0, content["step"]):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.save_last = save_and_die
    train(*typed)


def train_saving_slowly(step: int, *typed: str) -> None:
    """In a child: `cvtasks`, which says when it saves a step, and then waits for SIGUSR2."""
    save_last = checkpoints.save_last
    signal.signal(signal.SIGUSR2, lambda *_: waited.append(True))
    waited: list[bool] = []

    def wait_and_save(folder: Path, content: dict[str, Any]) -> None:
        if content["step"] == step:
            print(f"saving step {step}", flush=True)
            while not waited:
                time.sleep(0.01)
        save_last(folder, content)

    checkpoints.save_last = wait_and_save
    train(*typed)


def train_measured(notes: Path, *typed: str) -> None:
    """In a child: `cvtasks` with all its plots; notes [memory in bytes, number of open files] at each checkpoint.

    The memory is what is in use: what the allocator only holds in reserve goes back first.
    """
    save_last, measured = checkpoints.save_last, []

    def measure_and_save(folder: Path, content: dict[str, Any]) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        measured.append((pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))))
        notes.write_text(json.dumps(measured))
        save_last(folder, content)

    checkpoints.save_last = measure_and_save
    command(*typed)


def train_in(folder: Path, *typed: str) -> None:
    """In a child: `cvtasks` from a folder."""
    os.chdir(folder)
    train(*typed)


def save_for_ever(folder: Path) -> None:
    """In a child: checkpoints of 4 MB, one after the other."""
    for step in itertools.count():
        checkpoints.save_last(folder, {"step": step, "model": torch.full((10**6,), step)})


def result(run: Path) -> dict[str, Any]:
    """All that a run leaves for later use, tensors as bytes: equal results are equal bits.

    Only how long it took, and the number of workers, may differ between two runs.
    """
    found: dict[str, Any] = {
        name: (run / name).read_bytes()
        for name in ("metrics.jsonl", "metrics.json", "predictions/box_results.json")
    }
    for name in (checkpoints.LAST, checkpoints.BEST):
        content = checkpoints.load(run / "checkpoints" / name)
        config = yaml.safe_load(content.pop("config"))
        del config["loader"]["workers"], content["seconds"], content["training"]
        for key in ("run", "checkpoint"):  # what `resume` was told, and `train` was not
            config.pop(key, None)
        found |= {f"{name}: {key}": value for key, value in _flat({**content, "config": config}).items()}
    return found


def differences(run: Path, unbroken: dict[str, Any]) -> list[str]:
    """The names of what is not as in the unbroken run."""
    found = result(run)
    assert len(unbroken) > 50
    return [name for name in found.keys() | unbroken.keys() if found.get(name) != unbroken.get(name)]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for n, item in enumerate(value) for k, v in _flat(item, f"{name}/{n}").items()}
    return {name: value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value)}
