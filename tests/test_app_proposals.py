"""A task that needs proposals, through the command line: train, a kill, resume, eval, predict; computed, learned, or given.

The model is a plug-in that finds its proposals again, so that it takes seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from killed import killed_behind_a_checkpoint
from PIL import Image

from cvtasks import batch_size
from cvtasks.cli import main
from cvtasks.engine import checkpoint as checkpoints

MODULE = '''
import torch
from torch import nn


class Finder(nn.Module):
    """Each proposal is an object of the first class, as far as it goes."""

    class_layers = ()

    def __init__(self, *, classes):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))

    def losses(self, batch):
        valid = (batch.proposals[..., 2:] > batch.proposals[..., :2]).all(-1)
        assert valid.any(1).all()
        return {"classification": (self.score - valid.float().mean()) ** 2}

    def predict(self, batch):
        found = []
        for boxes, size, original in zip(batch.proposals, batch.sizes, batch.orig_sizes):
            boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(-1)][:20]
            boxes = boxes * (original / size).flip(0).repeat(2)
            scores = torch.linspace(1, 0.5, len(boxes)) * self.score.sigmoid()
            found.append({"boxes": boxes, "scores": scores, "labels": torch.zeros(len(boxes), dtype=torch.int64)})
        return found
'''
TASK = """\
# @package _global_
# Finds its proposals again
defaults: [override /proposals: tiles]
task:
  name: finder
  _target_: finder.Finder
  requires: [boxes, labels, ignore, proposals]
  monitor: box/AR100
  loss_weights: {classification: 1.0}
"""
TILES = """\
# Quarters of quarters of the image
name: tiles
_target_: proposal_methods.Tiles
levels: 2
limit: 2000
log: ""
seconds: 0.0
dies_at: 0
"""
MEAN_BOX = """\
# The mean box of the training images
name: mean_box
_target_: proposal_methods.MeanBox
limit: 10
log: ""
"""
OPTIONS = (
    "-cd", "conf", "plugins=[finder,proposal_methods]", "task=finder", "backbone=tiny", "dataset.image_size=64",
    "dataset.train.count=5", "dataset.val.count=3", "pipeline.size=64", "loader.batch_size=2", "loader.workers=0",
    "device=cpu", "engine.log_every=2", "scheduler.warmup_steps=0", "engine.max_steps=4", "engine.eval_every=2",
)  # fmt: skip
PLUGIN = ("-cd", "conf", "plugins=[finder,proposal_methods]")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "finder.py").write_text(MODULE)
    for name, text in (("task/finder", TASK), ("proposals/tiles", TILES), ("proposals/mean_box", MEAN_BOX)):
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVTASKS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def train(*more: str) -> int:
    return main(["train", *OPTIONS, "run_dir=run", *more])


def lines(file: str = "log") -> int:
    return len(Path(file).read_text().splitlines()) if Path(file).exists() else 0


def numbers(folder: str) -> dict[str, float]:
    metrics = json.loads(Path(folder, "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith("box/")}


def test_every_image_in_use_is_computed_once_for_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """5 and 3 of them; training, evaluation, pictures, another run and eval ask again."""
    assert train("proposals.log=log") == 0
    assert "proposals 8/8 images" in capsys.readouterr().out
    assert lines() == 8
    assert train("proposals.log=log", "run_dir=other", "seed=1") == 0
    assert main(["eval", *PLUGIN, "run=run", "run_dir=out"]) == 0
    assert lines() == 8
    assert numbers("out") == numbers("run")
    found = json.loads(Path("run/predictions/box_results.json").read_text())
    whole = [0, 0, 64, 64]
    quarters = [[x, y, 32, 32] for y in (0, 32) for x in (0, 32)]
    assert [[round(side) for side in record["bbox"]] for record in found] == [whole, *quarters] * 3
    assert len(list(Path("cache").rglob("*.npz"))) == 8


def test_a_limited_run_computes_only_what_it_uses() -> None:
    """One batch of two training images; of validation as many, and the picture of predictions shows all three."""
    assert train("proposals.log=log", "engine.limit_batches=1", "dataset.train.count=20") == 0
    assert lines() == 5


def test_a_run_that_was_killed_in_between_resumes_to_the_same_end() -> None:
    assert train("run_dir=whole") == 0
    with killed_behind_a_checkpoint():
        assert train() == 130
    assert main(["resume", "run", *PLUGIN]) == 0
    assert Path("run/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()


def test_the_cache_may_lie_elsewhere_and_a_run_remembers_where(tmp_path: Path) -> None:
    assert train("proposals.cache=mine") == 0
    assert not Path("cache").exists()
    assert len(list(Path("mine").rglob("*.npz"))) == 8
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert stored["proposals"]["cache"] == str(tmp_path / "mine")


def test_predict_computes_what_a_photo_needs_and_moves_it_with_the_photo(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("proposals.log=log") == 0
    Path("photos").mkdir()
    Image.fromarray(np.full((40, 90, 3), 128, np.uint8)).save("photos/a.png")
    options = [*PLUGIN, "run=run", "source=photos", "score_threshold=0"]
    assert main(["predict", *options, "output=out"]) == 0
    assert lines() == 9
    (image,) = json.loads(Path("out/predictions.json").read_text())["images"]
    assert [round(v) for v in image["objects"][0]["bbox"]] == [0, 0, 90, 40]
    assert len(image["objects"]) == 5
    assert main(["predict", *options, "output=out"]) == 0
    assert lines() == 9
    assert main(["predict", *options, "output=out", "proposals=file"]) == 2
    assert "proposals=selective_search" in capsys.readouterr().err


def test_a_task_that_needs_proposals_is_refused_without_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("proposals=none") == 2
    assert "task finder needs proposals; choose a method (cvtasks list proposals)" in capsys.readouterr().err


def test_a_node_that_makes_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for target in (
        "cvtasks.data.shapes.ShapesReader split: train",
        "cvtasks.metrics.proposals.ProposalRecall",
    ):
        name, *more = target.split(" ", 1)
        Path("conf/proposals/odd.yaml").write_text(f"name: odd\n_target_: {name}\n{''.join(more)}\n")
        assert train("proposals=odd") == 2
        assert "makes no proposal method" in capsys.readouterr().err


def test_a_method_that_learns_is_fitted_once_and_its_checkpoint_predicts_on_another_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train("proposals=mean_box", "proposals.log=log", "proposals.fit_images=3") == 0
    assert Path("log").read_text() == "3\n"
    assert "mean_box is fitted to 3 training images" in capsys.readouterr().out
    assert train("proposals=mean_box", "proposals.log=log", "proposals.fit_images=3", "run_dir=again") == 0
    assert Path("log").read_text() == "3\n"
    shutil.copy("run/checkpoints/best.pt", "model.pt")
    for gone in ("run", "cache"):
        shutil.rmtree(gone)
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save("a.png")
    photo = [*PLUGIN, "checkpoint=model.pt", "source=a.png", "score_threshold=0", "output=out"]
    assert main(["predict", *photo]) == 0
    (image,) = json.loads(Path("out/predictions.json").read_text())["images"]
    x, y, width, height = image["objects"][0]["bbox"]
    mean = checkpoints.load("model.pt")["proposals"]["arrays"]["mean"].tolist()
    assert [x, y, x + width, y + height] == pytest.approx(mean, abs=0.01)
    assert main(["eval", *PLUGIN, "checkpoint=model.pt", "run_dir=judged"]) == 0
    assert numbers("judged") == numbers("again")
    assert Path("log").read_text() == "3\n"


def test_a_method_that_learns_and_was_not_trained_with_is_fitted_for_eval_and_refused_for_photos(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train() == 0
    assert main(["eval", *PLUGIN, "run=run", "proposals=mean_box", "run_dir=out"]) == 0
    assert "mean_box is fitted to 5 training images" in capsys.readouterr().out
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save("a.png")
    assert main(["predict", *PLUGIN, "run=run", "proposals=mean_box", "source=a.png"]) == 2
    assert "proposals=mean_box learns from training images" in capsys.readouterr().err


def test_a_checkpoint_that_lost_what_was_learned_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("proposals=mean_box", "engine.max_steps=1") == 0
    content = checkpoints.load("run/checkpoints/best.pt")
    content.pop("version")
    stored = content["proposals"]
    damages: list[Any] = [
        {"method": stored["method"]},
        *(stored | {"arrays": arrays} for arrays in ({}, {"mean": 3}, {"limit": torch.zeros(4)})),
    ]
    for damaged in damages:
        checkpoints.save(Path("model.pt"), content | {"proposals": damaged})
        assert main(["eval", *PLUGIN, "checkpoint=model.pt", "run_dir=out"]) == 2
        assert "proposals=mean_box is damaged" in capsys.readouterr().err, damaged


def test_a_run_of_a_version_without_proposals_is_read_as_before() -> None:
    assert train() == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["task"]["requires"].remove("proposals")
    del config["proposals"]
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    from cvtasks.config.compose import compose

    assert compose("eval", ["run=run", *PLUGIN[2:]], config_dir="conf")["proposals"]["name"] == "none"


def test_the_batch_size_can_be_measured_with_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def once(run: Callable[[int], None], *_: object, **__: object) -> int:
        run(2)
        sizes.append(2)
        return 2

    monkeypatch.setattr(batch_size, "largest_batch", once)
    monkeypatch.setattr(batch_size, "can_measure", lambda device: True)
    assert train("loader.batch_size=auto", "engine.max_steps=1") == 0
    assert sizes == [2]


def test_a_file_of_the_verb_trains_as_the_method_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Found by the verb in both splits, then given as files: the same run, to a hundredth of a pixel."""
    method = [*PLUGIN[:2], "plugins=[proposal_methods]", "method=tiles", "dataset.image_size=64"]
    counts = ["dataset.train.count=5", "dataset.val.count=3"]
    for split in ("train", "val"):
        assert main(["proposals", *method, *counts, f"split={split}", f"run_dir={split}"]) == 0
    files = [f"proposals.{split}={split}/proposals.json" for split in ("train", "val")]
    assert train("run_dir=computed") == 0
    assert train("run_dir=given", "proposals=file", *files) == 0
    assert numbers("given") == pytest.approx(numbers("computed"), nan_ok=True)
    assert main(["eval", *PLUGIN, "run=given", "run_dir=out"]) == 0
    assert numbers("out") == numbers("given")
    capsys.readouterr()
    assert train("run_dir=no", "proposals=file", *files, "dataset.val.count=2") == 2
    assert "val/proposals.json: belongs to another data set" in capsys.readouterr().err
    assert train("run_dir=no", "proposals=file", files[0]) == 2
    assert "type proposals.val=FILE" in capsys.readouterr().err
