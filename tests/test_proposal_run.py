"""The verb `proposals`, from the words that are typed to the files that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sweeps import stand_ins
from test_app_proposals import MEAN_BOX, TILES

from cvtasks.cli import main
from cvtasks.data.shapes import ShapesReader

WORDS = (
    "proposals", "-cd", "conf", "plugins=[proposal_methods]", "dataset.image_size=64", "dataset.train.count=6",
    "dataset.val.count=4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("tiles", TILES), ("mean_box", MEAN_BOX)):
        (tmp_path / "conf" / "proposals").mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / "proposals" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVTASKS_CACHE", str(tmp_path / "cache"))


def metrics(folder: str) -> dict[str, float]:
    return json.loads(Path(folder, "metrics.json").read_text())


def test_it_leaves_numbers_boxes_plots_and_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "method=tiles", "run_dir=out"]) == 0
    printed = capsys.readouterr().out
    assert "tiles on shapes, 4 images" in printed
    assert "proposals=file proposals.val=out/proposals.json" in printed
    found = metrics("out")
    assert found["proposals/boxes_per_image"] == 5
    assert 0 < found["proposals/AR@10"] == found["proposals/AR@1000"] == found["proposals/AR"]
    assert found["proposals/seconds_median"] >= 0
    assert found["proposals/AR@1000_large"] is None  # 64 pixels have no large objects
    content = json.loads(Path("out/proposals.json").read_text())
    reader = ShapesReader(split="val", image_size=64, val={"count": 4})
    assert [i["image_id"] for i in content["images"]] == [reader.truth(n)["image_id"] for n in range(4)]
    assert content["images"][0]["boxes"][0] == [0, 0, 64, 64]
    assert (content["method"], content["dataset"], content["split"]) == ("tiles", "shapes", "val")
    for plot in ("recall_at_iou", "recall_of_proposals", "proposals"):
        assert np.asarray(Image.open(f"out/plots/{plot}.png")).std() > 1, plot
    assert yaml.safe_load(Path("out/config.yaml").read_text())["proposals"]["name"] == "tiles"


def test_its_file_read_back_gives_the_same_recall_and_no_time() -> None:
    assert main([*WORDS, "method=tiles", "run_dir=out"]) == 0
    assert main([*WORDS, "method=file", "proposals.val=out/proposals.json", "run_dir=again"]) == 0
    timed = {"proposals/seconds_median", "proposals/seconds_mean"}
    assert metrics("again") == {k: v for k, v in metrics("out").items() if k not in timed}


def test_a_stopped_one_goes_on_and_its_times_are_those_of_the_first_time() -> None:
    assert main([*WORDS, "method=tiles", "proposals.log=log", "images=2", "run_dir=part", "pictures=0"]) == 0
    assert len(Path("log").read_text().splitlines()) == 2
    assert not Path("part/plots/proposals.png").exists()
    assert main([*WORDS, "method=tiles", "proposals.log=log", "run_dir=whole"]) == 0
    assert main([*WORDS, "method=tiles", "proposals.log=log", "run_dir=again"]) == 0
    assert len(Path("log").read_text().splitlines()) == 4
    assert metrics("again") == metrics("whole")


def test_a_killed_worker_is_one_line_and_the_next_try_ends_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvtasks.proposal_run.cores", lambda: 2)
    words = [*WORDS, "method=tiles", "proposals.log=log", "proposals.dies_at=2", "run_dir=out"]
    assert main(words) == 1
    assert "a worker process was killed" in capsys.readouterr().err
    assert not Path("out/metrics.json").exists()
    assert main(words) == 0
    assert metrics("out")["proposals/boxes_per_image"] == 5


def test_the_training_split_and_a_method_that_learns() -> None:
    assert main([*WORDS, "method=mean_box", "proposals.log=log", "run_dir=out"]) == 0
    assert Path("log").read_text() == "6\n"
    assert metrics("out")["proposals/boxes_per_image"] == 1
    assert main([*WORDS, "method=mean_box", "proposals.log=log", "split=train", "run_dir=train"]) == 0
    assert Path("log").read_text() == "6\n"
    assert len(json.loads(Path("train/proposals.json").read_text())["images"]) == 6


def test_without_a_folder_it_makes_one() -> None:
    assert main([*WORDS, "method=tiles", "images=1"]) == 0
    (folder,) = Path("runs/proposals/tiles").iterdir()
    assert (folder / "metrics.json").exists()


def test_several_methods_are_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.in_process(monkeypatch)
    assert main([*WORDS, "-m", "method=tiles,none", "images=1", "run_dir=out"]) == 0
    folders = sorted(f.parent.name for f in Path("out").rglob("metrics.json"))
    assert folders == ["0_proposals-tiles", "1_proposals-none"]
    assert metrics("out/1_proposals-none")["proposals/boxes_per_image"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "type which method: cvtasks proposals method=NAME, one of "),
        (("method=tile",), "there is no proposals tile; did you mean "),
        (
            ("method=tiles", "proposals.level=2"),
            "there is no setting proposals.level; did you mean proposals.levels",
        ),
        (("method=tiles", "split=test"), "split: expected one of train, val, not 'test'"),
        (("method=tiles", "images=0"), "images: expected"),
        (("method=tiles", "engine.max_steps=3"), "there is no setting engine.max_steps"),
        (("method=file",), "type proposals.val=FILE"),
        (("method=tiles", "dataset=masks", "dataset.root=x"), ""),
    ],
)
def test_what_is_typed_wrong_is_one_line(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = WORDS if not any(w.startswith("dataset=") for w in words) else WORDS[:4]
    assert main([*typed, *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*WORDS, "method=tiles"]) == 2
    assert "without torchrun" in capsys.readouterr().err
