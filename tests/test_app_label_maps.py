"""The path of a user with label images, through the command line: train, eval, predict, and another tool's label maps.

The network is a plug-in of one layer, and the pictures are of flat colours, so that it takes seconds.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cvtasks.cli import main
from cvtasks.data.label_images import read_label

MODULE = '''
import torch
from torch import nn


class PixelClassifier(nn.Module):
    """Each pixel by its own colour."""

    class_layers = ("scores",)

    def __init__(self, *, classes):
        super().__init__()
        self.scores = nn.Conv2d(3, len(classes), 1)

    def forward(self, batch):
        return self.scores(batch.images.float() / 127.5 - 1)

    def losses(self, batch):
        target = batch.segmentation.long()
        return {"segmentation": nn.functional.cross_entropy(self(batch), target, ignore_index=255)}

    def predict(self, batch):
        found = []
        for scores, size, orig in zip(self(batch), batch.sizes.tolist(), batch.orig_sizes.tolist()):
            scores = scores[None, :, : size[0], : size[1]]
            labels = nn.functional.interpolate(scores, orig, mode="bilinear").argmax(1)[0]
            found.append({"segmentation": labels.to(torch.uint8)})
        return found
'''
TASK = """\
# @package _global_
# Each pixel by its own colour
defaults: [override /evaluator: segmentation]
task:
  name: pixels
  _target_: pixels.PixelClassifier
  requires: [segmentation]
  monitor: seg/mIoU
  loss_weights: {segmentation: 1.0}
plugins: [pixels]
"""
COLORS = np.array([[150, 80, 80], [80, 150, 80], [80, 80, 150]], np.uint8)
SIZES = [(40, 64), (33, 50), (64, 64), (10, 90)]


def write_data(folder: Path) -> None:
    """Three classes in blocks that noise makes hard to tell apart, with void (11 in the files) between; the last image is
    void throughout."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number, (height, width) in enumerate(SIZES):
            labels = np.kron(rng.integers(0, 3, (8, 12)), np.ones((9, 9)))[:height, :width].astype(np.uint8)
            noise = rng.integers(0, 90, (height, width, 3), np.uint8)
            Image.fromarray(COLORS[labels] + noise).save(folder / "images" / split / f"{number}.png")
            labels[::9] = 11
            if number == 3:
                labels[:] = 11
            Image.fromarray(labels).save(folder / "labels" / split / f"{number}.png")


DATA = ("dataset=masks", "dataset.root=data", "dataset.ignore_index=11", "dataset.classes=[red,green,blue]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the plug-in, and a run."""
    folder = tmp_path_factory.mktemp("home")
    write_data(folder / "data")
    (folder / "pixels.py").write_text(MODULE)
    (folder / "conf" / "task").mkdir(parents=True)
    (folder / "conf" / "task" / "pixels.yaml").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = [
            "-cd", "conf", "task=pixels", *DATA, "backbone=tiny", "optimizer=adamw", "optimizer.lr=0.1", "pipeline.size=64",
            "loader.batch_size=2", "loader.workers=0", "device=cpu", "engine.max_steps=40", "engine.eval_every=20",
            "scheduler.warmup_steps=0", "run_dir=run",
        ]  # fmt: skip
        assert main(["train", *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def numbers(folder: str) -> dict[str, Any]:
    metrics = json.loads(Path(folder, "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith("seg/")}


def test_a_run_leaves_numbers_maps_and_pictures() -> None:
    assert 0.6 < numbers("run")["seg/mIoU"] < 1
    assert set(numbers("run")) == {
        "seg/mIoU", "seg/pixel_accuracy", "seg/mean_accuracy", "seg/fwIoU", "seg/boundary_F1",
        "seg/IoU/red", "seg/IoU/green", "seg/IoU/blue",
    }  # fmt: skip
    assert sorted(p.name for p in Path("run/predictions").iterdir()) == [f"{n}.png" for n in range(4)]
    for name in ("confusion_matrix", "per_class_iou", "predictions", "first_batch", "metrics", "losses"):
        assert np.asarray(Image.open(f"run/plots/{name}.png")).std() > 1, f"{name} is blank"
    log = Path("run/train.log").read_text()
    assert "step 20: seg/mIoU 0." in log
    assert "seg/IoU/green" in log
    assert "nan" not in log


def test_eval_and_the_maps_that_it_wrote_give_the_runs_numbers_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugins = ["-cd", "conf", "plugins=[pixels]"]
    assert main(["eval", *plugins, "run=run", "run_dir=again"]) == 0
    assert numbers("again") == numbers("run")
    assert main(["eval", "predictions=again/predictions", *DATA, "run_dir=judged"]) == 0
    assert numbers("judged") == numbers("run")
    assert main(["eval", *plugins, "run=run", "predictions=again/predictions", "run_dir=judged2"]) == 0
    assert numbers("judged2") == numbers("run")
    assert "of no image" not in capsys.readouterr().out


def test_the_truth_itself_in_grey_is_a_perfect_prediction_judged_without_model_and_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path("others")
    folder.mkdir()
    for file in Path("data/labels/val").iterdir():
        labels = np.array(Image.open(file))
        labels[labels == 11] = 255
        Image.fromarray(labels).save(folder / file.name)
    shutil.copy(folder / "0.png", folder / "surplus.png")
    truth = ["dataset=masks", "dataset.val.labels=data/labels/val", "dataset.ignore_index=11"]
    # The fourth class, which nobody has, is no number, and in no mean.
    assert main(["eval", "predictions=others", *truth, "dataset.classes=[a,b,c,d]", "run_dir=perfect"]) == 0
    found = numbers("perfect")
    assert found.pop("seg/IoU/d") is None
    assert set(found.values()) == {1.0}
    out = capsys.readouterr().out
    assert "1 of 5 PNG files are of no image here (surplus.png)" in out
    (line,) = [line for line in out.splitlines() if "seg/IoU/d" in line]
    assert line.split() == ["seg/IoU/d", "-"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["predictions=nowhere"], "predictions=nowhere"),
        (["predictions=empty"], "predictions empty: there are no PNG files"),
        (["predictions=results.json"], "needs boxes"),
        (["predictions=results.json", "evaluator=segmentation"], "is a results file"),
        (["predictions=one"], "there is no 0.png for the image"),
        (["predictions=large"], "large/0.png: is 7 x 5 pixels (width x height), but its image is 64 x 40"),
        (["predictions=beyond"], "beyond/0.png: has the value 3, but there are 3 classes"),
    ],
)
def test_what_is_wrong_with_predictions_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    maps = {"one": ("1.png", (33, 50), 0), "large": ("0.png", (5, 7), 0), "beyond": ("0.png", (40, 64), 3)}
    for folder, (name, size, value) in maps.items():
        Path(folder).mkdir(exist_ok=True)
        Image.fromarray(np.full(size, value, np.uint8)).save(Path(folder, name))
    Path("empty").mkdir(exist_ok=True)
    Path("results.json").write_text("[]")
    assert main(["eval", *options, *DATA, "run_dir=wrong"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith("cvtasks: ")]) == 1


def test_boxes_are_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir(exist_ok=True)
    assert main(["eval", "predictions=empty", "evaluator=detection", "dataset=shapes", "run_dir=wrong"]) == 2
    assert "is a folder of label maps, and evaluator=detection judges boxes" in capsys.readouterr().err


def test_predict_writes_overlays_maps_and_shares_for_images_of_any_size(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = Path("photos")
    photos.mkdir()
    sizes = {"thin": (1, 300), "dot": (1, 1), "wide": (37, 900), "tall": (777, 20)}
    for name, size in sizes.items():
        image = np.empty((*size, 3), np.uint8)
        image[:], image[:, : size[1] // 4] = COLORS[1], COLORS[0]
        Image.fromarray(image).save(photos / f"{name}.png")
    options = ["-cd", "conf", "plugins=[pixels]", "run=run", "source=photos", "output=out"]
    assert main(["predict", *options]) == 0
    assert "4 images: out" in capsys.readouterr().out
    found = json.loads(Path("out/predictions.json").read_text())
    assert found["classes"] == ["red", "green", "blue"]
    for record in found["images"]:
        name = Path(record["file"]).stem
        height, width = sizes[name]
        assert (record["height"], record["width"]) == (height, width)
        labels = read_label(Path("out", record["labels"])).values
        assert labels.shape == (height, width)
        assert list(record["shares"]) == found["classes"]
        expected = [(labels == k).mean() for k in range(3)]
        assert list(record["shares"].values()) == pytest.approx(expected)
        assert math.isclose(sum(record["shares"].values()), 1)
        assert Path("out", f"{name}.png").stat().st_size > 0
    assert found["images"][-1]["shares"]["red"] == pytest.approx(0.25, abs=0.05)
