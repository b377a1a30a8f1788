"""A model that trains in stages, through the command line: train, a kill, resume, eval, predict.

The network is a plug-in of one layer for each stage, and the pictures are of flat colours, so that it takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from undrawn import undraw

from cvtasks import assembly
from cvtasks.cli import main
from cvtasks.engine import checkpoint as checkpoints

MODULE = '''
import torch
from torch import nn


class PixelCascade(nn.Module):
    """Each pixel by its own colour; a later stage adds to the scores of those before."""

    def __init__(self, *, classes, count=3):
        super().__init__()
        self.stages = tuple(f"part {n}" for n in range(count))
        self.scores = nn.ModuleList(nn.Conv2d(3, len(classes), 1) for _ in self.stages)
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("found", torch.zeros(count, len(classes)))
        self.class_layers = ("scores", "found")

    @property
    def stage(self):
        return int(self.number)

    def begin_stage(self, index, predictions, folder=None):
        for batch, found in predictions:
            assert len(batch.truth) == len(found)
            for each in found:
                self.found[index] += torch.bincount(each["segmentation"].flatten().long(), minlength=3)
        for n, scores in enumerate(self.scores):
            scores.requires_grad_(n == index)
        self.number.fill_(index)

    def forward(self, batch):
        images = batch.images.float() / 127.5 - 1
        return sum(scores(images) for scores in self.scores[: self.stage + 1])

    def losses(self, batch):
        target = batch.segmentation.long()
        return {"segmentation": nn.functional.cross_entropy(self(batch), target, ignore_index=255)}

    def predict(self, batch):
        return [{"segmentation": scores.argmax(0).to(torch.uint8)} for scores in self(batch)]
'''
TASK = """\
# @package _global_
# Each pixel by its own colour, in stages
defaults: [override /evaluator: segmentation]
task:
  name: cascade
  _target_: cascade.PixelCascade
  requires: [segmentation]
  monitor: seg/mIoU
  loss_weights: {segmentation: 1.0}
  count: 3
  stage_steps: null
plugins: [cascade]
"""
COLORS = np.array([[150, 80, 80], [80, 150, 80], [80, 80, 150]], np.uint8)
OPTIONS = (
    "-cd", "conf", "task=cascade", "dataset=masks", "dataset.root=data", "dataset.classes=[red,green,blue]",
    "backbone=tiny", "optimizer=adamw", "optimizer.lr=0.1", "pipeline.size=32", "loader.batch_size=2",
    "loader.workers=0", "device=cpu", "scheduler.warmup_steps=0", "engine.precision=fp32", "engine.log_every=2",
)  # fmt: skip
PLUGIN = ("-cd", "conf", "plugins=[cascade]")  # a stored configuration is not believed when it names code
LENGTH = ("engine.max_steps=12", "engine.eval_every=100", "task.stage_steps=[2,1,1]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data (5 images to train on), the plug-in, and a run."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8))).astype(np.uint8)
            noise = rng.integers(0, 90, (32, 32, 3), np.uint8)
            for kind, pixels in (("images", COLORS[labels] + noise), ("labels", labels)):
                (folder / "data" / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / "data" / kind / split / f"{number}.png")
    (folder / "cascade.py").write_text(MODULE)
    (folder / "conf" / "task").mkdir(parents=True)
    (folder / "conf" / "task" / "cascade.yaml").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undraw(patch)
        assert main(["train", *OPTIONS, *LENGTH, "run_dir=run"]) == 0
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def lines(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def last(run: str, name: str = "last.pt") -> dict[str, Any]:
    return checkpoints.load(Path(run, "checkpoints", name))


def test_the_log_says_how_long_each_stage_is_and_when_it_begins() -> None:
    log = Path("run/train.log").read_text()
    assert "; 12 steps (part 0: 6, part 1: 3, part 2: 3) of 2 images on cpu" in log
    assert "step 6: part 1 begins, and ends with step 9" in log
    assert ", part 2, loss " in log
    judged = [(line["step"], line["stage"]) for line in lines("run") if "seg/mIoU" in line]
    assert judged == [(6, "part 0"), (9, "part 1"), (12, "part 2")]


def test_a_stage_begins_with_all_training_images_without_augmentation() -> None:
    found = last("run")["model"]["found"]
    assert found.sum(1).tolist() == [0, 5 * 32 * 32, 5 * 32 * 32]


def test_the_result_is_the_last_stages_and_eval_gives_it_again(tmp_path: Path) -> None:
    best = last("run", "best.pt")
    assert (best["stage"], int(best["model"]["number"])) == (2, 2)
    assert main(["eval", *PLUGIN, "run=run", f"run_dir={tmp_path}"]) == 0
    one, other = (json.loads(Path(f, "metrics.json").read_text()) for f in ("run", tmp_path))
    assert one == other
    photos = ["checkpoint=run/checkpoints/best.pt", "source=data/images/val", f"output={tmp_path}"]
    assert main(["predict", *PLUGIN, *photos]) == 0


def test_a_run_killed_while_a_stage_begins_can_be_judged_and_resumed_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, turns = str(tmp_path / "cut"), assembly.Setup.train_turns

    def stopped(*args: Any) -> Any:
        for number, batch in enumerate(turns(*args)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(assembly.Setup, "train_turns", stopped)
        assert main(["train", *OPTIONS, *LENGTH, f"run_dir={cut}"]) == 130
    assert last(cut)["step"] == 6
    assert main(["eval", *PLUGIN, f"run={cut}", f"run_dir={tmp_path / 'eval'}"]) == 0
    assert main(["resume", cut, *PLUGIN]) == 0
    assert "going on from step 6 of 12, part 0" in Path(cut, "train.log").read_text()
    assert lines(cut) == lines("run")
    for name in ("last.pt", "best.pt"):
        one, other = (last(run, name)["model"] for run in ("run", cut))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_run_says_so_and_more_steps_go_to_its_last_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main(["train", *OPTIONS, *LENGTH, f"run_dir={run}"]) == 0
    capsys.readouterr()
    assert main(["resume", run, *PLUGIN]) == 0
    assert "is finished: 12 of 12 steps; engine.max_steps=N goes on" in capsys.readouterr().out
    assert main(["resume", run, *PLUGIN, "engine.max_steps=15"]) == 0
    assert "going on from step 12 of 15, part 2" in capsys.readouterr().out
    assert [line["step"] for line in lines(run) if "seg/mIoU" in line] == [6, 9, 12, 15]
    assert lines(run)[: len(lines("run"))] == lines("run")


def test_resuming_with_another_number_of_stages_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert main(["train", *OPTIONS, "engine.max_steps=3", f"run_dir={run}"]) == 0
    capsys.readouterr()
    assert main(["resume", run, *PLUGIN, "task.count=2"]) != 0
    said = capsys.readouterr().err
    assert "the checkpoint is of other stages (part 0, part 1, part 2; the model has part 0, part 1)" in said
    assert said.count("\n") == 1


def test_shares_for_other_stages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*OPTIONS, "engine.max_steps=3", f"run_dir={tmp_path}"]
    assert main(["train", *options, "task.stage_steps=[1,1]"]) == 2
    assert "task.stage_steps has 2 shares, and the model has 3 stages" in capsys.readouterr().err
    assert main(["train", *options, "task.stage_steps=[1,1,-1]"]) == 2
    assert "task.stage_steps[2]: expected a number of at least 0" in capsys.readouterr().err


def test_one_step_touches_every_stage_and_one_batch_is_all_that_each_begins_with(tmp_path: Path) -> None:
    assert main(["train", *OPTIONS, "debug=one_step", f"run_dir={tmp_path}"]) == 0
    judged = [(line["step"], line["stage"]) for line in lines(str(tmp_path)) if "seg/mIoU" in line]
    assert judged == [(1, "part 0"), (2, "part 1"), (3, "part 2")]
    assert last(str(tmp_path))["model"]["found"].sum(1).tolist() == [0, 2 * 32 * 32, 2 * 32 * 32]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["engine"]["max_steps"] == 1
