"""The user's path whole, through the command line, on a network and pictures so small that it takes seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from killed import killed_behind_a_checkpoint
from PIL import Image

from cvtasks.cli import main
from cvtasks.config.build import build
from cvtasks.engine import checkpoint as checkpoints

SMALL = (
    "task=faster_rcnn", "backbone=tiny", "backbone.width=16", "task.fpn_channels=16", "task.head_channels=16",
    "pipeline.size=64", "loader.batch_size=2", "loader.workers=0", "device=cpu", "engine.log_every=2",
    "scheduler.warmup_steps=0",
)  # fmt: skip
SHAPES = ("dataset.image_size=64", "dataset.train.count=5", "dataset.val.count=3")
TWELVE = [
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
]  # fmt: skip


def train(folder: Path, *more: str) -> int:
    return main(["train", *SMALL, *SHAPES, f"run_dir={folder}", *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app") / "run"
    assert train(folder, "engine.max_steps=6", "engine.eval_every=3") == 0
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: metrics[f"box/{name}"] for name in TWELVE}


def test_a_run_leaves_what_readme_promises(run: Path) -> None:
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    plots = {
        f"plots/{n}.png" for n in ("losses", "metrics", "precision_recall", "predictions", "first_batch")
    }
    assert files >= plots | {
        "config.yaml", "metrics.json", "metrics.jsonl", "train.log", "predictions/box_results.json",
        "checkpoints/last.pt", "checkpoints/best.pt",
    }  # fmt: skip
    assert any("events.out" in name for name in files)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "lr" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "box/AP" in r] == [3, 6]
    assert all("val/loss/rpn_box" in r for r in records if "box/AP" in r)
    for name in plots:
        assert np.asarray(Image.open(run / name)).std() > 1, f"{name} is blank"


def test_eval_gives_the_runs_numbers_again(run: Path, tmp_path: Path) -> None:
    assert main(["eval", f"run={run}", f"run_dir={tmp_path}"]) == 0
    assert numbers(tmp_path) == numbers(run)
    assert (tmp_path / "predictions" / "box_results.json").read_bytes() == (
        run / "predictions" / "box_results.json"
    ).read_bytes()


def test_a_second_run_in_the_same_folder_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(run, "engine.max_steps=6") == 2
    assert "cvtasks resume" in capsys.readouterr().err


def test_a_run_that_was_cut_off_and_resumed_equals_the_unbroken_one(
    run: Path, undrawn: None, tmp_path: Path
) -> None:
    """Cut off after the evaluation of step 3, which is in the middle of an epoch (5 images, batches of 2)."""
    cut = tmp_path / "cut"
    with killed_behind_a_checkpoint():
        assert train(cut, "engine.max_steps=6", "engine.eval_every=3") == 130
    assert main(["resume", str(cut)]) == 0
    assert (cut / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    one, other = (checkpoints.load(f / "checkpoints" / "last.pt") for f in (run, cut))
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])


def test_resuming_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "metrics.jsonl").read_text()
    assert main(["resume", str(run)]) == 0
    assert "finished" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before


def test_predict_draws_every_image_and_names_the_broken_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(np.full((40, 90, 3), 128, np.uint8)).save(photos / "a.png")
    Image.fromarray(np.full((50, 30), 99, np.uint8)).save(photos / "b.jpg")
    (photos / "broken.jpg").write_bytes(b"no image")
    best = run / "checkpoints" / "best.pt"
    options = [f"checkpoint={best}", f"source={photos}", f"output={out}", "score_threshold=0.0"]
    assert main(["predict", *options]) == 2
    assert "broken.jpg" in capsys.readouterr().err
    assert {p.name for p in out.iterdir()} == {"a.png", "b.png", "predictions.json"}
    result = json.loads((out / "predictions.json").read_text())
    assert [(i["width"], i["height"]) for i in result["images"]] == [(90, 40), (30, 50)]
    for image in result["images"]:
        assert image["objects"]
        for thing in image["objects"]:
            x, y, width, height = thing["bbox"]
            assert 0 <= x <= x + width <= image["width"] + 1e-3
            assert 0 <= y <= y + height <= image["height"] + 1e-3
            assert thing["class"] in result["classes"]


def write_coco(folder: Path, *, images: int = 3) -> Path:
    """Boxes with gaps in the category ids, one crowd, one image without objects."""
    (folder / "images").mkdir(parents=True)
    annotations = []
    for i in range(1, images + 1):
        Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)).save(folder / "images" / f"{i}.png")
        if i < images:
            for number, category in ((1, 3), (2, 70)):
                box = {"bbox": [5 * number, 6, 20, 30], "area": 600, "iscrowd": int(i == 1 and number == 2)}
                annotations.append({"id": 10 * i + number, "image_id": i, "category_id": category, **box})
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(1, images + 1)
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 70, "name": "dish"}],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_coco_files_named_one_by_one_train_and_their_run_can_be_judged_from_anywhere(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    files = {"images": "data/images", "annotations": "data/truth.json"}
    splits = [f"dataset.{split}.{key}={file}" for split in ("train", "val") for key, file in files.items()]
    options = [*SMALL, "pipeline=fixed", "dataset=coco", "recipe=faster_rcnn_shapes", *splits]
    assert main(["train", *options, "engine.max_steps=2", "run_dir=run"]) == 0
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["dataset"]["val"]["annotations"] == str(tmp_path / "data" / "truth.json")
    results = json.loads((tmp_path / "run" / "predictions" / "box_results.json").read_text())
    assert {r["category_id"] for r in results} <= {3, 70}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", f"run={tmp_path / 'run'}", "run_dir=again"]) == 0
    assert numbers(Path("again")) == numbers(tmp_path / "run")


def test_another_tools_perfect_results_are_judged_without_model_and_images(tmp_path: Path) -> None:
    """The truth itself with a score is AP 1; the crowd asks for nothing."""
    truth = write_coco(tmp_path / "data")
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in json.loads(truth.read_text())["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    options = [f"predictions={tmp_path / 'results.json'}", "dataset=coco", f"dataset.val.annotations={truth}"]
    assert main(["eval", *options, f"run_dir={tmp_path / 'out'}"]) == 0
    assert numbers(tmp_path / "out")["AP"] == pytest.approx(1)
    assert numbers(tmp_path / "out")["AR1"] == pytest.approx(1)


def test_weights_for_other_classes_start_the_predictor_afresh(
    run: Path, undrawn: None, tmp_path: Path
) -> None:
    """As many classes, but others: what belongs to a class is not kept, everything else is."""
    trained = checkpoints.load(run / "checkpoints" / "best.pt")
    assert train(
        tmp_path / "other", f"weights={run}", "dataset.classes=[star,ring,cross,person,circle,rectangle,triangle]",
        "engine.max_steps=1", "optimizer.lr=1e-12", "optimizer.weight_decay=0",
    ) == 0  # fmt: skip
    begun = checkpoints.load(tmp_path / "other" / "checkpoints" / "last.pt")["model"]
    kept = {k for k, v in begun.items() if torch.allclose(v, trained["model"][k], atol=1e-6)}
    layers = ("scores", "offsets")
    assert set(begun) - kept == {
        f"heads.box.{layer}.{part}" for layer in layers for part in ("weight", "bias")
    }


def test_a_frozen_network_from_the_zoo_needs_no_zoo_to_be_judged() -> None:
    """The stored configuration names ImageNet weights; a checkpoint replaces them, so nothing is fetched."""
    from cvtasks.nn import zoo

    cfg = {"_target_": "cvtasks.nn.backbones.resnet.resnet", "depth": 18, "weights": "imagenet"}
    with zoo.weights_follow():
        backbone = build(cfg)
    assert type(backbone.bn1).__name__ == "FrozenBatchNorm2d"
