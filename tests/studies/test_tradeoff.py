"""Speed against accuracy: real trainings of two steps, measured; and what is asked of all of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cvtasks import app
from cvtasks.cli import main
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint
from cvtasks.errors import DataError
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.studies import tradeoff as study
from cvtasks.studies import tradeoff_costs
from cvtasks.studies.parts import StudyRun
from cvtasks.studies.tradeoff_costs import seconds_an_image

DATA = ["dataset=shapes", "dataset.train.count=4", "dataset.val.count=2", "dataset.image_size=64"]
MEASURED_ON = ["images=1", "repeats=2", "device=cpu"]
TRAINED = [
    *DATA, *MEASURED_ON,
    *("task=faster_rcnn,rfcn", "backbone=tiny", "image_size=64,32", "steps=2"),
    'overrides=["loader.batch_size=2","loader.workers=0","backbone.width=8","engine.precision=fp32"]',
]  # fmt: skip
TYPED = [*TRAINED, "proposals=2,20", "batch_sizes=[2]"]
TRAININGS = ["faster_rcnn_tiny_64", "rfcn_tiny_64"]
QUALITY = ["AP", "AP50", "AP small", "AP medium", "AP large"]
TIMES = [
    *("seconds an image", "lower quartile", "upper quartile"),
    *("seconds an image, 2 at once", "lower quartile, 2 at once", "upper quartile, 2 at once"),
]
COSTS = ["MB at the peak", "10^9 FLOPs", "10^6 parameters"]
Rows = list[dict[str, Any]]


def tradeoff(folder: Path, *typed: str) -> int:
    return main(["study", "tradeoff", f"run_dir={folder}", *typed])


def tables(folder: Path) -> dict[str, Rows]:
    return json.loads((folder / "tradeoff.json").read_text())["tables"]


def points(folder: Path) -> Rows:
    return tables(folder)["Measured on shapes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "R"
    assert tradeoff(folder, *TYPED) == 0
    return folder


def test_each_detector_is_a_point_at_each_size_with_each_number_of_proposals(folder: Path) -> None:
    rows = points(folder)
    assert [(r["detector"], r["backbone"], r["image size"], r["proposals"]) for r in rows] == [
        (task, "tiny", size, number)
        for task in ("faster_rcnn", "rfcn")
        for size in (32, 64)
        for number in (2, 20)
    ]
    for row in rows:
        first = ["detector", "backbone", "image size", "learnt from", "proposals"]
        assert list(row) == [*first, *QUALITY, *TIMES, *COSTS, "precision", "run", "front"]
        assert (row["learnt from"], row["precision"]) == (64, "fp32")
        for middle, low, high in (TIMES[:3], TIMES[3:]):
            assert 0 < row[low] <= row[middle] <= row[high]
        assert all(row[name] > 0 for name in COSTS)
    assert {row["front"] for row in rows} == {"yes", None}


def test_what_is_varied_without_retraining_is_trained_once(folder: Path) -> None:
    assert [row["training"] for row in tables(folder)["Trainings"]] == TRAININGS
    assert sorted(f.parent.name for f in folder.rglob("checkpoints")) == TRAININGS
    assert {row["steps"] for row in tables(folder)["Trainings"]} == {2}


def test_larger_images_and_more_proposals_cost_more(folder: Path) -> None:
    by = {(r["detector"], r["image size"], r["proposals"]): r for r in points(folder)}
    for task in ("faster_rcnn", "rfcn"):
        assert by[task, 64, 2]["10^9 FLOPs"] > 2 * by[task, 32, 2]["10^9 FLOPs"]
        assert by[task, 64, 20]["MB at the peak"] > by[task, 32, 20]["MB at the peak"]
        assert len({r["10^6 parameters"] for key, r in by.items() if key[0] == task}) == 1
    # Layers for each proposal: R-FCN has none.
    assert by["faster_rcnn", 64, 20]["10^9 FLOPs"] > 1.2 * by["faster_rcnn", 64, 2]["10^9 FLOPs"]


def test_the_accuracy_is_that_of_cvtasks_eval(folder: Path, tmp_path: Path) -> None:
    typed = ["pipeline.size=32", "task.rpn_proposals_test=20", "device=cpu", f"run_dir={tmp_path / 'E'}"]
    assert main(["eval", f"run={folder / 'parts' / TRAININGS[1]}", *typed]) == 0
    metrics = json.loads((tmp_path / "E" / "metrics.json").read_text())
    (row,) = (
        r for r in points(folder) if (r["detector"], r["image size"], r["proposals"]) == ("rfcn", 32, 20)
    )
    assert row["AP"] == metrics["box/AP"]
    assert row["AP small"] == metrics["box/AP_small"]


def test_it_ends_in_a_page_a_table_and_a_picture(folder: Path) -> None:
    page = (folder / "tradeoff.md").read_text()
    assert "**The front.**" in page
    assert "![Speed against accuracy](tradeoff.png)" in page
    rows = list(csv.DictReader((folder / "tradeoff.csv").open()))
    assert [r["table"] for r in rows] == ["Measured on shapes"] * 8 + ["Trainings"] * 2
    assert [float(r["AP"]) for r in rows[:8]] == [r["AP"] for r in points(folder)]
    assert np.asarray(Image.open(folder / "tradeoff.png")).std() > 1


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained."""
    monkeypatch.setattr(app, "train", None)
    monkeypatch.setattr(app, "resume", None)


def test_a_study_that_is_done_trains_and_measures_nothing(
    folder: Path, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(folder)
    monkeypatch.setattr(study, "measure", None)
    assert tradeoff(folder, *TYPED) == 0
    assert tables(folder) == before


def test_of_a_further_number_of_proposals_only_the_new_points_are_measured(
    folder: Path, tmp_path: Path, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "R")
    asked = []

    def measure(config: dict[str, Any], **_: Any) -> dict[str, Any]:
        asked.append((config["pipeline"]["size"], config["task"]["rpn_proposals_test"]))
        assert config["task"]["rpn_before_nms_test"] >= config["task"]["rpn_proposals_test"]
        return {
            "metrics": dict.fromkeys(QUALITY, 0.5), "seconds an image": {"1": [1.0, 1.0, 1.0]},
            "peak_memory": 1, "flops": 1, "parameters": 1, "precision": "fp32",
        }  # fmt: skip

    monkeypatch.setattr(study, "measure", measure)
    typed = [word.replace("=2,20", "=2,20,5000") for word in TYPED]
    assert tradeoff(tmp_path / "R", *typed) == 0
    assert asked == [(32, 5000), (64, 5000)] * 2
    assert len(points(tmp_path / "R")) == 12


def test_runs_that_are_there_give_the_same_points(folder: Path, tmp_path: Path, idle: None) -> None:
    runs = [str(folder / "parts" / name) for name in TRAININGS]
    typed = [*MEASURED_ON, "batch_sizes=[2]", "--from", *runs, "image_size=64,32", "proposals=2,20"]
    assert tradeoff(tmp_path / "S", *typed) == 0
    found = points(tmp_path / "S")
    same = ["detector", "backbone", "image size", "learnt from", "proposals", *QUALITY, *COSTS]
    assert [[row[key] for key in same] for row in found] == [[r[key] for key in same] for r in points(folder)]
    assert [row["run"] for row in found] == [run for run in runs for _ in range(4)]
    assert "Trainings" not in (tmp_path / "S" / "tradeoff.md").read_text()


def test_a_run_alone_is_judged_as_it_was_trained(folder: Path, tmp_path: Path, idle: None) -> None:
    assert tradeoff(tmp_path / "S", *MEASURED_ON, f"runs={folder / 'parts' / TRAININGS[0]}") == 0
    (row,) = points(tmp_path / "S")
    config = compose("eval", [f"run={folder / 'parts' / TRAININGS[0]}"])
    assert (row["image size"], row["proposals"]) == (64, config["task"]["rpn_proposals_test"])
    metrics = json.loads((folder / "parts" / TRAININGS[0] / "metrics.json").read_text())
    assert row["AP"] == metrics["box/AP"]


def test_a_run_that_has_learnt_more_is_measured_anew(folder: Path, tmp_path: Path, idle: None) -> None:
    shutil.copytree(folder / "parts" / TRAININGS[1], tmp_path / "run")
    typed = [*MEASURED_ON, f"runs={tmp_path / 'run'}"]
    assert tradeoff(tmp_path / "S", *typed) == 0
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    checkpoint.save(best, checkpoint.load(best) | {"step": 3})
    assert tradeoff(tmp_path / "S", *typed) == 0
    assert len(list((tmp_path / "S" / "parts").iterdir())) == 2


def test_runs_of_different_data_are_not_compared_unless_both_are_judged_on_one(
    folder: Path, tmp_path: Path, idle: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "parts" / TRAININGS[1], tmp_path / "other")
    config = (tmp_path / "other" / "config.yaml").read_text()
    (tmp_path / "other" / "config.yaml").write_text(config.replace("max_objects: 6", "max_objects: 3"))
    runs = ["--from", str(folder / "parts" / TRAININGS[0]), str(tmp_path / "other")]
    assert tradeoff(tmp_path / "S", *MEASURED_ON, *runs) == 2
    assert "are judged on different data (dataset.max_objects: 6, and now 3)" in capsys.readouterr().err
    assert tradeoff(tmp_path / "S", *MEASURED_ON, *DATA, *runs) == 0
    assert len(points(tmp_path / "S")) == 2


def test_a_point_that_fails_takes_no_other_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "R")
    for part in ("rfcn_tiny_64_at_32_with_2_proposals", "faster_rcnn_tiny_64_at_64_with_2_proposals"):
        shutil.rmtree(tmp_path / "R" / "parts" / part)
    real = study.measure

    def failing(config: dict[str, Any], **costs: Any) -> dict[str, Any]:
        if config["task"]["name"] == "rfcn":
            raise DataError("broken")
        return real(config, **costs)

    monkeypatch.setattr(study, "measure", failing)
    assert tradeoff(tmp_path / "R", *TYPED) == 1
    told = capsys.readouterr().err
    assert "1 of the study's parts failed: rfcn_tiny_64_at_32_with_2_proposals: broken" in told
    assert len(points(tmp_path / "R")) == 7


def test_a_training_that_fails_takes_only_its_own_points_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "R")
    shutil.rmtree(tmp_path / "R" / "parts" / TRAININGS[1])

    def failing(*_: Any) -> None:
        raise DataError("broken")

    monkeypatch.setattr(app, "train", failing)
    assert tradeoff(tmp_path / "R", *TYPED) == 1
    assert [row["detector"] for row in points(tmp_path / "R")] == ["faster_rcnn"] * 4
    assert json.loads((tmp_path / "R" / "tradeoff.json").read_text())["failed"] == {TRAININGS[1]: "broken"}


Configs = dict[str, dict[str, Any]]


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> Configs:
    """What would be trained, by its part."""
    found: Configs = {}

    def train_parts(_: StudyRun, parts: dict[str, list[str]]) -> dict[str, Any]:
        found.update({name: compose("train", overrides) for name, overrides in parts.items()})
        return {}

    monkeypatch.setattr(study, "train_parts", train_parts)
    return found


def test_all_learn_at_the_largest_size_on_generated_scenes_no_longer_than_a_thousand_steps(
    configs: Configs, tmp_path: Path
) -> None:
    assert (
        tradeoff(tmp_path / "R", "task=faster_rcnn,rfcn", "backbone=tiny,resnet18", "image_size=64,96") == 0
    )
    assert list(configs) == [f"{t}_{b}_96" for t in ("faster_rcnn", "rfcn") for b in ("tiny", "resnet18")]
    for name, config in configs.items():
        assert (config["dataset"]["name"], config["pipeline"]["size"]) == ("shapes", 96)
        assert config["backbone"]["name"] in name
        assert config["engine"]["max_steps"] == config["engine"]["eval_every"] == study.GENERATED_STEPS


def test_what_is_typed_of_the_length_holds(configs: Configs, tmp_path: Path) -> None:
    typed = ["task=rfcn", "backbone=tiny", "train_size=64", "image_size=96"]
    more = ['overrides=["optimizer.lr=0.5","seed=3"]', 'own={rfcn: ["engine.max_steps=4000","seed=4"]}']
    assert tradeoff(tmp_path / "R", *typed, *more) == 0
    (config,) = configs.values()
    assert (config["engine"]["max_steps"], config["pipeline"]["size"]) == (4000, 64)
    assert (config["optimizer"]["lr"], config["seed"]) == (0.5, 4)


@pytest.mark.parametrize("how", ["typed", "model"])
def test_every_size_is_trained_where_that_is_asked_for_or_needed(
    how: str, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "model":
        monkeypatch.setattr(RegionDetector, "one_image_size", True, raising=False)
    typed = ["retrain_sizes=true"] if how == "typed" else []
    assert tradeoff(tmp_path / "R", "task=rfcn", "backbone=tiny", "image_size=96,64", *typed) == 0
    assert {name: c["pipeline"]["size"] for name, c in configs.items()} == {
        "rfcn_tiny_64": 64, "rfcn_tiny_96": 96,
    }  # fmt: skip


def test_a_run_of_one_size_of_images_is_judged_with_that_alone(
    folder: Path, tmp_path: Path, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegionDetector, "one_image_size", True, raising=False)
    typed = [*MEASURED_ON, "image_size=32,64,96", f"runs={folder / 'parts' / TRAININGS[1]}"]
    assert tradeoff(tmp_path / "S", *typed) == 0
    assert [row["image size"] for row in points(tmp_path / "S")] == [64]


def test_a_grid_of_cells_is_trained_for_each_size_and_grows_with_it(configs: Configs, tmp_path: Path) -> None:
    assert tradeoff(tmp_path / "R", "task=yolo", "backbone=tiny", "image_size=64,128") == 0
    own = compose("train", ["task=yolo"])
    cells = own["task"]["grid"] / own["pipeline"]["size"]
    assert [(c["pipeline"]["size"], c["task"]["grid"]) for c in configs.values()] == [
        (64, 64 * cells), (128, 128 * cells),
    ]  # fmt: skip


def test_pixels_between_default_boxes_are_right_for_one_size_alone() -> None:
    config = {"pipeline": {"name": "ssd", "size": 300}, "task": {"steps": [8, 16, 32, 64, 100, 300]}}
    assert study._sized(config, 600) == ["pipeline.size=600", "task.steps=null"]


def test_other_data_has_its_own_recipes(
    configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", '/a place with "quotes"')
    typed = ["dataset=voc", "dataset.root=${oc.env:PLACE}", "task=faster_rcnn", "backbone=resnet18"]
    assert tradeoff(tmp_path / "R", *typed, "image_size=150,300") == 0
    (config,) = configs.values()
    assert config["dataset"]["root"] == '/a place with "quotes"'
    # The longest side grows with the shortest: 600 and 1000 in the recipe.
    assert (config["pipeline"]["size"], config["pipeline"]["max_size"]) == (300, 500)
    assert (
        config["engine"]["max_steps"]
        == compose("train", ["task=faster_rcnn", "dataset=voc"])["engine"]["max_steps"]
    )
    assert not [
        f
        for f in (tmp_path / "R").rglob("*.*")
        if f.suffix in (".yaml", ".json") and "a place" in f.read_text()
    ]


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("faster_rcnn", "task.rpn_proposals_test"),
        ("fast_rcnn", "proposals.limit"),
        ("sliding_window_det", None),
    ],
)
def test_only_systems_that_have_proposals_are_judged_with_several_numbers(
    task: str, key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [f"task={task}", *(["proposals=edge_boxes"] if task == "fast_rcnn" else [])]
    monkeypatch.setattr(study, "judged", lambda *_: compose("train", chosen))
    with StudyRun(tmp_path) as run:
        detector = study._Detector(run, "it", tmp_path, [64], [])
        variants = list(detector.variants([5, 10]))
    assert [v.about["proposals"] for v in variants] == ([5, 10] if key else [None])
    assert [[w for w in v.typed if w.startswith(str(key))] for v in variants] == (
        [[f"{key}=5"], [f"{key}=10"]] if key else [[]]
    )


def test_a_time_is_of_one_image_and_the_first_run_of_a_batch_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, seconds = list[Any](), iter([100, 2, 4, 100, 6, 8, 100, 10, 12])
    network: Any = SimpleNamespace(
        reader=None, setup=SimpleNamespace(device=torch.device("cpu")), batch=list, predict=seen.append
    )

    def seconds_of(work: Any, _: torch.device) -> float:
        work()
        return next(seconds)

    monkeypatch.setattr(tradeoff_costs, "seconds_of", seconds_of)
    # Of 5 images in twos, the first one fills the last batch.
    assert seconds_an_image(network, 2, images=5, repeats=2) == [3.5, 2.25, 4.75]
    assert seen == [[0, 1]] * 3 + [[2, 3]] * 3 + [[4, 0]] * 3


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("task=", "study.task: expected one at least"),
        ("backbone=[]", "study.backbone: expected one at least"),
        ("task=faster_rcn", "there is no task faster_rcn; did you mean faster_rcnn"),
        ("task=rfcn backbone=resnet", "there is no backbone resnet"),
        ("task=unet backbone=tiny", "task=unet is no detector; leave it out"),
        ("image_size=16", "study.image_size[0]: expected an integer of at least 32, not 16"),
        ("image_size=large", "study.image_size[0]: expected an integer"),
        ("proposals=0", "study.proposals[0]: expected an integer of at least 1, not 0"),
        ("image_sise=64", "there is no setting image_sise"),
        ("--from nowhere", "run=nowhere: there is no such folder"),
        ("--from", "expected at least one argument"),
        ("dataset=shaps", "there is no dataset shaps; did you mean shapes?"),
    ],
)
def test_a_wrong_setting_is_one_line(
    typed: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tradeoff(tmp_path / "R", *typed.split()) == 2
    told = capsys.readouterr()
    assert line in told.err
    assert told.err.count("\n") == 1
    assert not list((tmp_path / "R" / "parts").glob("*"))


def test_the_short_words_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    def told(line: str) -> list[str]:
        assert main(["complete", line]) == 0
        return capsys.readouterr().out.split()

    assert told("cvtasks study tradeoff image") == ["image_size=", "images="]
    assert told("cvtasks study tradeoff study.image") == ["study.image_size=", "study.images="]
    assert told("cvtasks study tradeoff task=faster_rcnn,rf") == ["task=faster_rcnn,rfcn"]
    assert {"dataset=", "dataset."} <= {*told("cvtasks study tradeoff data")}
