"""The path of a user with one label an image, through the command line: train, eval, predict, resume, another tool's table,
and a backbone that goes from one run into another task. On networks and pictures so small that it takes seconds.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.classification_files import cifar10_bytes, write_mnist
from data.files import voc_object, voc_xml, write_image
from PIL import Image

from cvtasks.cli import main
from cvtasks.engine import checkpoint as checkpoints

SMALL = (
    "loader.batch_size=2", "loader.workers=0", "device=cpu", "engine.max_steps=4", "engine.eval_every=4",
    "scheduler.warmup_steps=0",
)  # fmt: skip
SHAPES = (
    *SMALL, "dataset=shapes", "dataset.image_size=64", "dataset.train.count=6", "dataset.val.count=12", "pipeline.size=64"
)  # fmt: skip
TINY = ("backbone=tiny", "backbone.width=16")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and photos."""
    folder = tmp_path_factory.mktemp("home")
    options = [*SHAPES, *TINY, f"run_dir={folder / 'run'}", "engine.ema=0.9"]
    assert main(["train", "task=classification", *options]) == 0
    photos = folder / "photos"
    photos.mkdir()
    for name, (height, width) in {"7.png": (50, 80), "two.png": (9, 6)}.items():
        Image.new("RGB", (width, height), "gray").save(photos / name)
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def numbers(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "metrics.json").read_text())


def test_a_run_has_numbers_a_table_and_plots_and_eval_gives_them_again() -> None:
    assert {"cls/top1", "cls/top5", "cls/mean_accuracy"} <= numbers("run").keys()
    for plot in ("confusion_matrix", "predictions", "first_batch"):
        assert Path("run/plots", f"{plot}.png").stat().st_size > 1000
    assert main(["eval", "run=run", "run_dir=again"]) == 0
    again = numbers("again")
    assert again == {name: value for name, value in numbers("run").items() if name in again}


def test_the_table_of_a_run_or_of_another_tool_is_judged_without_a_model() -> None:
    shapes = [o for o in SHAPES if o.startswith("dataset")]
    options = ["dataset.scene=localization", *shapes]
    assert main(["eval", "predictions=run/predictions/classes.csv", *options, "run_dir=table"]) == 0
    assert numbers("table")["cls/top1"] == numbers("run")["cls/top1"]
    rows = list(csv.DictReader(Path("run/predictions/classes.csv").read_text().splitlines()))
    assert len(rows) == 12 * 5
    Path("mine.txt").write_text("image_id,class\n" + "".join(f"{n},star\n" for n in range(12)))
    options.append("evaluator=classification")
    assert main(["eval", "predictions=mine.txt", *options, "run_dir=mine"]) == 0
    stars = numbers("mine")["cls/accuracy/star"]
    assert stars == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["predictions=none.csv"], "predictions=none.csv: there is no such file"),
        (["predictions=photos"], "a folder of label maps, and evaluator=classification judges label"),
        (["predictions=table.csv"], "table.csv: line 2: there is no class 'wolf'"),
    ],
)
def test_predictions_that_cannot_be_judged_are_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("table.csv").write_text("image_id,class,score\n0,wolf,1\n")
    assert main(["eval", "run=run", *options, "run_dir=wrong"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_predict_names_five_classes_and_writes_the_first_below_the_picture() -> None:
    assert main(["predict", "run=run", "source=photos", "output=out"]) == 0
    told = json.loads(Path("out/predictions.json").read_text())
    for image in told["images"]:
        assert len(image["guesses"]) == 5
        scores = [guess["score"] for guess in image["guesses"]]
        assert scores == sorted(scores, reverse=True)
        assert set(image["guesses"][0]) == {"class", "category_id", "score"}
    with Image.open("out/7.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        shown = pixels.shape[1] * 50 // 80  # as high as the photo itself, enlarged
        assert pixels.shape[0] > shown
        assert (pixels[: shown - 2] == 128).all()  # nothing is covered
        assert len(np.unique(pixels[shown:])) > 2


def test_a_longer_run_goes_on_where_it_was() -> None:
    options = [
        *SHAPES,
        *TINY,
        "run_dir=short",
        "engine.max_steps=2",
        "engine.eval_every=2",
        "engine.checkpoint_every=2",
    ]
    assert main(["train", "task=classification", *options]) == 0
    assert main(["resume", "short", "engine.max_steps=4"]) == 0
    assert checkpoints.load(Path("short/checkpoints/last.pt"))["step"] == 4


@pytest.mark.parametrize("dataset", ["folders", "cifar10", "mnist", "voc"])
def test_every_layout_trains_with_its_recipe(dataset: str, tmp_path: Path) -> None:
    options: list[str] = []
    if dataset == "folders":
        for name in ("train/cat/1", "train/dog/2", "val/cat/3", "val/dog/4"):
            write_image(tmp_path / f"{name}.jpg")
        options = [*TINY, "backbone.norm=group", "pipeline.size=32"]
    elif dataset == "cifar10":
        for name in ("data_batch_1", "test_batch"):
            (tmp_path / f"{name}.bin").write_bytes(cifar10_bytes(1, 7, 0))
        options = ["backbone.depth=8"]
    elif dataset == "mnist":
        write_mnist(tmp_path)
    else:
        for split in ("train", "val"):
            (tmp_path / split).mkdir()
            for name in ("a", "b"):
                write_image(tmp_path / split / f"{name}.jpg")
                xml = voc_xml(f"{name}.jpg", voc_object((6, 6, 15, 25), name))
                (tmp_path / split / f"{name}.xml").write_text(xml)
        options = [*TINY, "pipeline=random_resized_crop", "pipeline.size=32"]
    run = tmp_path / "run"
    command = [
        "train",
        "task=classification",
        f"dataset={dataset}",
        f"dataset.root={tmp_path}",
        *options,
        *SMALL,
    ]
    assert main([*command, f"run_dir={run}"]) == 0
    assert 0 <= numbers(str(run))["cls/top1"] <= 1
