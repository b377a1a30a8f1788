"""The lineage: real trainings of two steps, and what is asked of all of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from PIL import Image

from cvtasks import app
from cvtasks.cli import main
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint
from cvtasks.errors import DataError
from cvtasks.studies import lineage as study
from cvtasks.studies.lineage_costs import PARTS
from cvtasks.studies.parts import StudyRun
from cvtasks.studies.pictures import Panel, draw_bars
from cvtasks.studies.trainings import as_overrides

TYPED = [
    *("device=cpu", "dataset.train.count=4", "dataset.val.count=2", "dataset.image_size=64"),
    *("study.systems=[faster_rcnn_vgg16,rcnn]", "study.steps={rcnn: 2, faster_rcnn_vgg16: 2}"),
    *("study.images=1", "study.repeats=1", "study.proposals_limit=8"),
    'study.overrides=["pipeline.size=64","loader.batch_size=2","loader.workers=0","backbone.width=8"]',
]
ALL, WITHOUT = "seconds an image", "without proposals"
MEASURED, SECONDS, PUBLISHED = (
    "Measured on shapes",
    "Where the seconds of an image go",
    "Published (not measured here)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "R"
    assert main(["study", "lineage", f"run_dir={folder}", *TYPED]) == 0
    return folder


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((folder / "lineage.json").read_text())["tables"]


def test_two_systems_are_trained_timed_and_told(folder: Path) -> None:
    found = tables(folder)
    measured, seconds = found[MEASURED], found[SECONDS]
    assert [row["system"] for row in measured] == ["R-CNN", "Faster R-CNN"]
    assert [row["system"] for row in seconds] == ["R-CNN", "Faster R-CNN"]
    for whole, parts, name in zip(measured, seconds, ("rcnn", "faster_rcnn_vgg16"), strict=True):
        assert sum(parts[part] for part in PARTS) == pytest.approx(parts["all"])
        assert parts["all"] == whole[ALL] == pytest.approx(whole[WITHOUT] + parts["proposals"])
        assert all(parts[part] > 0 for part in PARTS)
        last = checkpoint.load(folder / "parts" / name / "checkpoints" / "last.pt")
        assert whole["training seconds"] == last["training"]
        # R-CNN is judged after each stage, before the next one is solved.
        assert (last["training"] < last["seconds"]) == (name == "rcnn")
        metrics = json.loads((folder / "parts" / name / "metrics.json").read_text())
        assert (whole["VOC07 mAP"], whole["AP50"], whole["AP"]) == (
            metrics["box/VOC07_mAP"], metrics["box/AP50"], metrics["box/AP"],
        )  # fmt: skip
    rcnn, faster = measured
    assert (rcnn["times R-CNN's speed"], rcnn["times, without proposals"]) == (1, 1)
    assert faster["times R-CNN's speed"] == pytest.approx(rcnn[ALL] / faster[ALL])
    assert faster["times, without proposals"] == pytest.approx(rcnn[WITHOUT] / faster[WITHOUT])
    assert found["Ad hoc training objectives"] == []


def test_proposals_are_computed_before_the_trainings_and_counted(folder: Path) -> None:
    part = json.loads((folder / "parts" / "proposals" / "part.json").read_text())
    assert part["settings"]["proposals"]["limit"] == 8
    assert (part["result"]["train"]["images"], part["result"]["val"]["images"]) == (4, 2)
    assert 1 <= part["result"]["train"]["proposals an image"] <= 8


def test_the_page_and_the_picture_show_what_is_published_beside_it(folder: Path) -> None:
    page = (folder / "lineage.md").read_text()
    assert f"## {PUBLISHED}" in page
    assert "Girshick, ICCV 2015" in page
    assert "**Test time.**" not in page  # SPP-net and Fast R-CNN are not there
    assert "**Proposals.** selective_search finds" in page
    rows = list(csv.DictReader((folder / "lineage.csv").open()))
    assert len(rows) == 2 + 2 + 5
    assert np.asarray(Image.open(folder / "lineage.png")).std() > 1


def test_a_study_that_is_done_trains_and_measures_nothing(folder: Path) -> None:
    before = tables(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "train", None)
        patch.setattr(app, "resume", None)
        for measure in ("time_prediction", "time_proposals", "compute_proposals"):
            patch.setattr(study, measure, lambda *_, **__: pytest.fail("measured again"))
        assert main(["study", "lineage", f"run_dir={folder}", *TYPED]) == 0
    assert tables(folder) == before


def test_what_fails_takes_nothing_else_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "R")
    for part in ("rcnn", "rcnn_time", "proposals"):
        shutil.rmtree(tmp_path / "R" / "parts" / part)

    def failing(*_: Any) -> None:
        raise DataError("broken")

    monkeypatch.setattr(app, "train", failing)
    monkeypatch.setattr(study, "compute_proposals", failing)
    assert main(["study", "lineage", f"run_dir={tmp_path / 'R'}", *TYPED]) == 1
    assert "2 of the study's parts failed: proposals: broken; rcnn: broken" in capsys.readouterr().err
    found = tables(tmp_path / "R")
    assert [row["system"] for row in found[MEASURED]] == ["Faster R-CNN"]
    assert found[MEASURED][0]["times R-CNN's speed"] is None
    assert "- rcnn: broken" in (tmp_path / "R" / "lineage.md").read_text()


def test_what_cannot_be_timed_keeps_its_accuracy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "R")
    shutil.rmtree(tmp_path / "R" / "parts" / "rcnn_time")

    def failing(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(study, "time_prediction", failing)
    assert main(["study", "lineage", f"run_dir={tmp_path / 'R'}", *TYPED]) == 1
    rows, before = tables(tmp_path / "R")[MEASURED], tables(folder)[MEASURED]
    assert (rows[0]["AP"], rows[0][ALL]) == (before[0]["AP"], None)
    assert rows[1][ALL] == before[1][ALL]


def test_the_same_proposals_are_timed_once_for_all_and_others_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def time_proposals(config: dict[str, Any], **counts: int) -> dict[str, Any]:
        timed.append(config["proposals"]["limit"])
        return {"seconds": [float(config["proposals"]["limit"])] * counts["images"]}

    monkeypatch.setattr(study, "time_proposals", time_proposals)
    monkeypatch.setattr(study, "time_prediction", lambda *_, proposals, **__: {"given": proposals})
    limits = {"rcnn": ["proposals.limit=7"], "sppnet": [], "fast_rcnn": ["proposals.limit=7"], "rfcn": []}
    configs: Any = {system: compose("train", [f"task={system}", *typed]) for system, typed in limits.items()}
    with StudyRun(tmp_path) as run:
        found = study._times(run, configs, images=2, repeats=1)
    assert timed == [7, 2000]
    assert {system: result["given"] for system, result in found.items()} == {
        "rcnn": [7, 7], "sppnet": [2000, 2000], "fast_rcnn": [7, 7], "rfcn": None,
    }  # fmt: skip


Configs = dict[str, dict[str, Any]]


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> Configs:
    """What would be trained, by its part."""
    found: Configs = {}

    def train_parts(_: StudyRun, parts: dict[str, list[str]]) -> dict[str, Any]:
        found.update({name: compose("train", overrides) for name, overrides in parts.items()})
        return {}

    monkeypatch.setattr(study, "train_parts", train_parts)
    monkeypatch.setattr(study, "compute_proposals", lambda _: {})
    return found


def test_all_have_one_backbone_one_size_and_one_data_set(configs: Configs, tmp_path: Path) -> None:
    typed = ["study.ablation=true", "study.steps.rcnn=7", 'study.own.rfcn=["optimizer.lr=0.5"]']
    assert main(["study", "lineage", f"run_dir={tmp_path / 'R'}", *typed]) == 0
    assert list(configs) == [*get_args(study.System), "rcnn_joint"]
    first, *others = configs.values()
    for config in others:
        assert config["dataset"] == first["dataset"]
        assert config["backbone"] == first["backbone"]
        assert config["pipeline"] == first["pipeline"]
    assert (first["dataset"]["train"], first["dataset"]["val"]) == ({"count": 1000}, {"count": 100})
    assert (first["backbone"]["name"], first["pipeline"]["size"]) == ("tiny", 128)
    given = {name: config["proposals"] for name, config in configs.items() if "limit" in config["proposals"]}
    assert list(given) == ["rcnn", "sppnet", "fast_rcnn", "rcnn_joint"]
    assert all(each == given["rcnn"] for each in given.values())
    steps = {name: config["engine"]["max_steps"] for name, config in configs.items()}
    own = compose("train", ["task=sppnet"])["engine"]["max_steps"]
    assert (steps["rcnn"], steps["rcnn_joint"], steps["sppnet"]) == (7, 7, own)
    assert all(config["engine"]["eval_every"] == steps[name] for name, config in configs.items())
    assert (configs["rfcn"]["optimizer"]["lr"], configs["faster_rcnn"]["optimizer"]["lr"]) == (0.5, 0.02)
    assert configs["sliding_window_det"]["task"]["run"] == "crops"
    assert (configs["rcnn"]["task"]["training"], configs["rcnn_joint"]["task"]["training"]) == (
        "staged", "joint",
    )  # fmt: skip


def test_another_data_set_has_its_own_recipes(
    configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "open_reader", lambda *_: None)
    monkeypatch.setenv("PLACE", '/a place with "quotes"')
    typed = [
        *("dataset=voc", "dataset.root=${oc.env:PLACE}", "dataset.val.split=test", "study.backbone=resnet18"),
        *(
            "study.systems=[fast_rcnn,rcnn]",
            'study.overrides=["pipeline.max_size=900"]',
            "study.steps.rcnn=9",
        ),
    ]
    assert main(["study", "lineage", f"run_dir={tmp_path / 'R'}", *typed]) == 0
    assert list(configs) == ["rcnn", "fast_rcnn"]
    for config in configs.values():
        assert config["dataset"]["root"] == '/a place with "quotes"'
        assert config["dataset"]["val"]["split"] == "test"
        assert "count" not in config["dataset"]["train"]
        assert config["backbone"]["name"] == "resnet18"
        assert config["pipeline"]["name"] == "shortest_edge"
        assert (config["pipeline"]["size"], config["pipeline"]["max_size"]) == (688, 900)
    assert configs["fast_rcnn"]["engine"]["max_steps"] == 40000
    for file in (tmp_path / "R").rglob("*.*"):
        if file.suffix in (".yaml", ".json"):
            assert "a place" not in file.read_text()
    assert "${oc.env:PLACE}" in (tmp_path / "R" / "config.yaml").read_text()


def test_on_photographs_all_begin_at_random_with_one_small_network(
    configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "open_reader", lambda *_: None)
    typed = ["dataset=coco", "dataset.root=photos", f"run_dir={tmp_path / 'R'}"]
    assert main(["study", "lineage_photos", *typed]) == 0
    assert list(configs) == list(get_args(study.System))
    for config in configs.values():
        for group in ("backbone", "pipeline", "optimizer"):
            assert config[group] == configs["rcnn"][group]
        assert config["dataset"]["name"] == "coco"
        assert config["engine"]["max_steps"] == 1500
    assert (tmp_path / "R" / "config.yaml").is_file()


def test_the_published_numbers_are_the_lectures() -> None:
    rows = [study.PUBLISHED[name] for name in study.RATIO]
    assert [row.system for row in rows] == ["R-CNN", "SPP-net", "Fast R-CNN", "Faster R-CNN"]
    assert [row.hours for row in rows] == [84, 25, 8.75, None]
    assert [row.seconds for row in rows] == [49, 4.3, 2.3, 0.2]
    assert [row.without for row in rows] == [47, 2.3, 0.32, None]
    assert [row.map_07 for row in rows] == [66.0, 63.1, 66.9, 69.9]
    assert [row.map_0712 for row in rows] == [None, None, 70.0, 73.2]
    assert all(row.source for row in study.PUBLISHED.values())


def test_the_ratios_stand_beside_the_lectures() -> None:
    times = {
        name: {**dict.fromkeys(PARTS, 0.0), ALL: seconds, "precision": "fp32"}
        for name, seconds in {"rcnn": 0.98, "sppnet": 0.2, "fast_rcnn": 0.1, "faster_rcnn": 0.02}.items()
    }
    configs = {"rcnn": compose("train", ["task=rcnn"])}
    told = " ".join(study._text("shapes", configs, times, None).split())
    assert "take 49 : 4.3 : 2.3 : 0.2 seconds" in told
    assert "0.98 : 0.2 : 0.1 : 0.02 seconds, which is 49 : 10 : 5 : 1 where R-CNN's is 49." in told


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("study.systems=[]", "study.systems: expected one at least, and none twice, not []"),
        ("study.systems=[rcnn,rcnn]", "none twice, not ['rcnn', 'rcnn']"),
        ("study.systems=[rccn]", "did you mean rcnn"),
        ("study.steps.rcn=3", "there is no setting study.steps.rcn; did you mean study.steps.rcnn"),
        ("study.steps.rcnn=0", "study.steps.rcnn: expected an integer of at least 1 or null, not 0"),
        ("study.backbone=resnet", "there is no backbone resnet"),
        ("study.proposals=selective", "there is no proposals selective"),
        ('study.own.rcnn=["task.levl=c4"]', "did you mean task.level"),
        ("dataset=shaps", "there is no dataset shaps; did you mean shapes?"),
        ("dataset.rot=1", "there is no setting dataset.rot"),
        ("dataset=voc", "there is no train data; type dataset.train.images=DIR"),
        ("dataset=camvid", "there is no dataset camvid"),
        ("dataset=masks dataset.root=.", "needs boxes"),
        ("dataset.scene=nothing", "dataset.scene"),
    ],
)
def test_a_wrong_setting_is_one_line(
    typed: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [] if "study.systems" in typed else ["study.systems=[rcnn]"]
    assert main(["study", "lineage", f"run_dir={tmp_path / 'R'}", *few, *typed.split()]) == 2
    told = capsys.readouterr()
    assert line in told.err
    assert told.err.count("\n") == 1
    assert not list((tmp_path / "R" / "parts").glob("*"))


def test_a_study_takes_a_data_set_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"run_dir={tmp_path / 'R'}"
    assert main(["study", "upsampling", "dataset=voc", folder]) == 2
    assert capsys.readouterr().err == "cvtasks: dataset=voc: study upsampling takes none; leave it out\n"
    assert not (tmp_path / "R").exists()


def test_data_sets_are_completed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        assert main(list(words)) == 0
        return capsys.readouterr().out.splitlines()

    assert told("complete", "cvtasks study lineage dataset=sh") == ["dataset=shapes"]
    assert {"dataset=", "dataset."} <= {*told("complete", "cvtasks study lineage data")}
    assert "dataset.root=" in told("complete", "cvtasks study lineage dataset=voc dataset.r")
    assert told("complete", "cvtasks study lineage study.ste") == ["study.steps."]
    assert told("complete", "cvtasks study upsampling data") == [""]
    shown = yaml.safe_load("\n".join(told("study", "lineage", "dataset=voc", "--cfg", "job")))
    assert (shown["dataset"]["name"], shown["study"]["name"]) == ("voc", "lineage")
    assert "lineage" in told("list", "studies")[0]


STRANGE = ["a b", 'say "no"', "back\\slash", 'end\\"', "C:\\", "x=1,y", "[1,2]", "null", "ü", "", "#"]


@pytest.mark.parametrize("root", STRANGE)
def test_a_node_that_is_typed_again_is_the_same(root: str) -> None:
    typed = ["dataset=voc", "dataset.classes=[cat,dog]", "dataset.val_fraction=0.25"]
    node = compose("train", ["task=rcnn", *typed])["dataset"] | {"root": root}
    assert compose("train", ["task=rcnn", *as_overrides("dataset", node)])["dataset"] == node


def test_shares_are_drawn_as_one_bar(tmp_path: Path) -> None:
    bars = {"one": dict.fromkeys(PARTS, 2.0), "nothing": dict.fromkeys(PARTS, 0.0)}
    draw_bars([Panel("Parts", bars, shares=True)], tmp_path / "bars.png")
    assert np.asarray(Image.open(tmp_path / "bars.png")).std() > 1
