"""A model whose fate is typed, and a folder to sweep in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from . import stand_ins

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]

MODEL = '''
import os, signal, time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Fated(nn.Module):
    """One number, whose square is the loss, and which nothing changes (optimizer.lr=0)."""

    def __init__(self, *, backbone: Any, classes: Any, fate: str = "none", size: float = 1.0, pause: float = 0.0) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(float(size)))
        self.fate, self.pause, self.calls = fate, pause, 0

    def losses(self, batch: Any) -> dict[str, torch.Tensor]:
        self.calls += self.training
        if self.calls == 3:
            if self.fate == "exit":
                os._exit(9)
            if self.fate == "bug":
                raise KeyError("a bug")
            if self.fate == "kill once" and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fate == "diverge":
                return {"classification": self.number * float("nan")}
        time.sleep(self.pause)
        return {"classification": self.number**2}

    def predict(self, batch: Any) -> list[Any]:
        nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        return [nothing for _ in range(len(batch))]
'''
TASK = """\
# @package _global_
# A model whose fate is typed
defaults:
  - override /backbone: tiny
  - override /optimizer: sgd
task:
  name: fated
  _target_: fated.Fated
  requires: [boxes, labels]
  monitor: val/loss
  loss_weights: {classification: 1.0}
  fate: none
  size: 1.0
  pause: 0.0
backbone: {width: 8}
optimizer: {lr: 1e-9}
pipeline: {size: 64}
dataset: {image_size: 64, train: {count: 4}, val: {count: 1}}
loader: {batch_size: 1, workers: 0}
engine: {max_steps: 4, eval_every: 2, checkpoint_every: 1, log_every: 1, precision: fp32}
device: cpu
plugins: [fated]
"""


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "fated.yaml").write_text(TASK)
    (tmp_path / "fated.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "fated", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are children that can crash."""
    stand_ins.forked(monkeypatch)
