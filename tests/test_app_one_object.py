"""The path of a user with one object or one person in each image, through the command line: train, eval, predict, and
another tool's results. On networks and pictures so small that it takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cvtasks.cli import main
from cvtasks.viz.colors import SIDE_COLORS

SMALL = (
    "backbone=tiny", "backbone.width=16", "dataset=shapes", "dataset.image_size=64", "dataset.train.count=6",
    "dataset.val.count=4", "loader.batch_size=2", "loader.workers=0", "device=cpu", "engine.max_steps=6",
    "engine.eval_every=6", "scheduler.warmup_steps=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, photos, and a detector's boxes."""
    folder = tmp_path_factory.mktemp("home")
    for task, options in {
        "localization": ["pipeline.size=64"],
        "pose_regression": ["pipeline.size=[64,64]"],
        "deeppose": ["pipeline.size=[64,64]", "task.cascade=2"],
    }.items():
        assert main(["train", f"task={task}", *SMALL, *options, f"run_dir={folder / task}"]) == 0
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"7.png": (50, 80), "two.png": (90, 60)}.items():
        Image.fromarray(rng.integers(0, 99, (height, width, 3), np.uint8)).save(photos / name)
    boxes = [
        {"image_id": "two", "category_id": 1, "bbox": box, "score": score}
        for box, score in (([0, 0, 30, 90], 0.9), ([28, 10, 50, 80], 0.8), ([0, 0, 9, 9], 0.2))
    ]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def numbers(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "metrics.json").read_text())


def predicted(run: str, *options: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """predictions.json, and its images by their names."""
    out = Path(f"out_{run}_{len(options)}")
    assert main(["predict", f"run={run}", "source=photos", f"output={out}", *options]) == 0
    told = json.loads((out / "predictions.json").read_text())
    assert {p.name for p in out.iterdir()} == {"7.png", "two.png", "predictions.json"}
    return told, {Path(image["file"]).name: image for image in told["images"]}


@pytest.mark.parametrize(
    ("run", "monitor", "plots", "results"),
    [
        ("localization", "loc/accuracy", ("confusion_matrix", "error_breakdown"), "box_results.json"),
        (
            "pose_regression", "pose/PCK@0.2", ("pdj", "per_joint_pck", "per_limb_pcp"), "keypoint_results.json",
        ),
        ("deeppose", "pose/PCK@0.2", ("pdj", "per_joint_pck", "stages"), "keypoint_results.json"),
    ],
)  # fmt: skip
def test_a_run_is_judged_and_drawn_and_its_results_file_gives_the_same_numbers(
    run: str, monitor: str, plots: tuple[str, ...], results: str
) -> None:
    for name in (*plots, "predictions", "first_batch"):
        assert np.asarray(Image.open(f"{run}/plots/{name}.png")).std() > 1, f"{name} is blank"
    told = numbers(run)
    assert monitor in told
    options = [f"run={run}", f"predictions={run}/predictions/{results}", f"run_dir=again_{run}"]
    assert main(["eval", *options]) == 0
    again = numbers(f"again_{run}")
    assert again == {name: told[name] for name in again}
    assert {name for name in told if "stage" not in name and not name.startswith("val/")} == set(again)


def test_a_cascade_is_told_stage_by_stage_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "run=deeppose", "run_dir=table"]) == 0
    told = numbers("table")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  stage")]
    assert [row[:2] for row in rows] == [["stage", "1"], ["stage", "2"]]
    for name in ("PCK@0.2", "PCP", "mean_error"):
        assert told[f"pose/{name}/stage 2"] == told[f"pose/{name}"]


def test_of_one_object_predict_tells_five_guesses_and_draws_the_first() -> None:
    told, images = predicted("localization")
    for image in images.values():
        scores = [guess["score"] for guess in image["guesses"]]
        assert len(scores) == min(5, len(told["classes"]))
        assert scores == sorted(scores, reverse=True)
        assert image["guesses"][0]["class"] in told["classes"]


def test_without_boxes_the_whole_image_is_one_persons() -> None:
    told, images = predicted("pose_regression")
    assert told["boxes"] == "the whole image"
    for image in images.values():
        (person,) = image["people"]
        assert person["bbox"] == pytest.approx([0, 0, image["width"], image["height"]], abs=0.01)
        assert len(person["keypoints"]) == 3 * len(told["keypoints"]) == 42
    pixels = np.asarray(Image.open("out_pose_regression_0/two.png")).astype(int)
    for color in SIDE_COLORS.values():
        assert (np.abs(pixels - color).max(axis=2) < 8).any()


def test_with_boxes_there_are_as_many_people_as_have_the_score_and_none_where_there_is_no_box() -> None:
    told, images = predicted("deeppose", "boxes=boxes.json")
    assert told["boxes"] == "boxes.json"
    assert images["7.png"]["people"] == []
    first, second = images["two.png"]["people"]
    assert first["bbox"] == pytest.approx([0, 0, 30, 90], abs=0.01)
    assert second["bbox"] == pytest.approx([28, 10, 32, 80], abs=0.01)  # cut at the image's edge
    assert first["keypoints"] != second["keypoints"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run=localization", "boxes=boxes.json"], "boxes=boxes.json: task=localization takes none"),
        (["run=pose_regression", "boxes=nowhere.json"], "results nowhere.json: cannot be read"),
    ],
)
def test_boxes_that_cannot_be_used_are_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *options, "source=photos", "output=wrong"]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_boxes_is_no_file_of_poses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("results.json").write_text(
        json.dumps([{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}])
    )
    assert main(["eval", "run=deeppose", "predictions=results.json", "run_dir=wrong"]) == 2
    assert "record 0: keypoints is missing; expected 14 times x, y, score" in capsys.readouterr().err
