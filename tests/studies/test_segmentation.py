"""The whole study, with real networks and measurements; its trainings leave what trainings leave, and learn nothing."""

from __future__ import annotations

import copy
import csv
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cvtasks import app
from cvtasks.assembly import build_task, open_reader
from cvtasks.cli import main
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint
from cvtasks.errors import DataError
from cvtasks.nn.upsample import UpsampleKind
from cvtasks.studies.networks import untrained
from cvtasks.studies.pictures import Panel, draw_bars
from cvtasks.studies.segmentation_costs import label_both_ways, training_steps

TYPED = [
    *("study.steps=5", "study.fcn_steps=7", "study.sizes=[32,64]", "study.batch_size=2"),
    *("study.images=1", "study.repeats=1", "device=cpu"),
    'study.overrides=["dataset.image_size=64","pipeline.size=32","dataset.val.count=2"]',
]
QUALITY = ["mIoU", "boundary F1"]


class Trainings:
    """Stands in for `cvtasks.app.train`; the parts named in `broken` fail."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.broken: set[str] = set()

    def train(self, config: dict[str, Any]) -> None:
        folder = Path(config["run_dir"])
        self.configs[folder.name] = config
        if folder.name in self.broken:
            raise DataError("no data")
        classes = open_reader(config, "train").classes
        torch.manual_seed(len(self.configs))
        content = {
            "task": config["task"]["name"],
            "config": yaml.safe_dump(config),
            "precision": "fp32",
            "classes": classes.to_dict(),
            "step": 1,
            "seconds": 2.5,
            "model": build_task(config, classes, classes).model.state_dict(),
        }
        for name in ("best.pt", "last.pt"):
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            checkpoint.save(folder / "checkpoints" / name, content)
        score = 0.5 + len(self.configs) / 100
        (folder / "metrics.json").write_text(json.dumps({"seg/mIoU": score, "seg/boundary_F1": score / 2}))


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    fake = Trainings()
    once = functools.cache(
        lambda verb, overrides, config_dir: compose(verb, overrides, config_dir=config_dir)
    )

    def composed(verb: str, overrides: list[str], *, config_dir: str | None) -> dict[str, Any]:
        """The same, but each configuration once: a sixth of a second."""
        return copy.deepcopy(once(verb, tuple(overrides), config_dir))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "train", fake.train)
        patch.setattr("cvtasks.studies.trainings.compose", composed)
        yield fake


@pytest.fixture(scope="module")
def folder(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "R"
    assert main(["study", "segmentation", f"run_dir={folder}", *TYPED]) == 0
    return folder


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((folder / "segmentation.json").read_text())["tables"]


def test_there_is_a_table_for_each_argument(folder: Path) -> None:
    found = tables(folder)
    sliding, quality, costs, fcn, layers = found.values()
    seconds, operations = "seconds an image", "10^9 multiply-adds an image"
    assert [row["way"] for row in sliding] == ["sliding", "dense", "sliding / dense"]
    assert sliding[2][operations] == pytest.approx(sliding[0][operations] / sliding[1][operations])
    assert sliding[0][operations] > 4 * sliding[1][operations] > 0
    assert sliding[2][seconds] == pytest.approx(sliding[0][seconds] / sliding[1][seconds])
    assert sliding[1]["labels as sliding"] > 0.999
    assert 0 < sliding[1]["logits differ by"] < 1e-3  # 0: the same way twice

    assert [row["system"] for row in quality] == ["full resolution", "U-Net"]
    assert all({*QUALITY, "parameters", "training seconds"} < {*row} for row in quality)
    systems = ["full resolution", "U-Net", "FCN-8s"]
    assert [(row["pixels"], row["system"]) for row in costs] == [
        (s, name) for s in (32, 64) for name in systems
    ]
    for small, large in zip(costs[:3], costs[3:], strict=True):
        assert large[operations] == pytest.approx(4 * small[operations], rel=1e-3)
        assert large["MB kept an image"] == pytest.approx(4 * small["MB kept an image"], rel=0.1)
        assert large["seconds a step"] > 0
    assert costs[3]["MB kept an image"] > 2 * costs[4]["MB kept an image"]

    assert [(row["system"], row["begins with"], row["steps in all"]) for row in fcn] == [
        ("FCN-32s", "nothing", 7), ("FCN-16s", "fcn32s", 14), ("FCN-8s", "fcn16s", 21),
        ("FCN-32s, as long", "fcn32s", 21),
    ]  # fmt: skip
    assert [row["layer"] for row in layers] == [*get_args(UpsampleKind)]
    parameters = {row["layer"]: row["parameters"] for row in layers}
    assert parameters["nearest"] == parameters["bilinear"] == parameters["max_unpool"]
    assert parameters["nearest"] < parameters["transpose_conv"] < parameters["resize_conv"]
    assert all(row["training seconds"] == 2.5 for row in (*fcn, *layers))


def test_a_number_stands_in_the_row_of_its_training(folder: Path) -> None:
    _, quality, _, fcn, layers = tables(folder).values()
    rows = {"full_resolution": quality[0], "unet": quality[1], "fcn8s": fcn[2], "unet_max_unpool": layers[2]}
    for name, row in rows.items():
        metrics = json.loads((folder / "parts" / name / "metrics.json").read_text())
        assert [row[q] for q in QUALITY] == [metrics["seg/mIoU"], metrics["seg/boundary_F1"]]


def test_each_stage_of_the_fcns_begins_with_the_one_before(folder: Path, trainings: Trainings) -> None:
    stages = [trainings.configs[name] for name in ("fcn32s", "fcn16s", "fcn8s", "fcn32s_longer")]
    assert [stage["task"]["name"] for stage in stages] == ["fcn32s", "fcn16s", "fcn8s", "fcn32s"]
    parts = folder / "parts"
    weights = [None, str(parts / "fcn32s"), str(parts / "fcn16s"), str(parts / "fcn32s")]
    assert [stage["weights"] for stage in stages] == weights
    assert [stage["engine"]["max_steps"] for stage in stages] == [7, 7, 7, 14]


def test_systems_that_are_compared_learn_from_the_same_images_in_as_many_steps(
    folder: Path, trainings: Trainings
) -> None:
    full, unet = (trainings.configs[name] for name in ("full_resolution", "unet"))
    assert (full["dataset"], full["pipeline"]) == (unet["dataset"], unet["pipeline"])
    assert full["loader"] == unet["loader"]
    assert full["engine"]["max_steps"] == unet["engine"]["max_steps"] == 5
    layers = [trainings.configs[f"unet_{kind}"] for kind in get_args(UpsampleKind)]
    assert [layer["task"].pop("upsample") for layer in layers] == [*get_args(UpsampleKind)]
    assert all(layer | {"run_dir": None} == layers[0] | {"run_dir": None} for layer in layers)


def test_overrides_reach_every_training_and_it_is_judged_at_its_end_alone(
    folder: Path, trainings: Trainings
) -> None:
    assert len(trainings.configs) >= 13
    for config in trainings.configs.values():
        assert config["dataset"]["val"]["count"] == 2
        assert config["engine"]["eval_every"] == config["engine"]["max_steps"]


def test_the_page_says_what_was_claimed_and_what_was_found(folder: Path) -> None:
    page = (folder / "segmentation.md").read_text()
    for words in (
        "**Sliding window.** The lecture",
        "**Full resolution.** The lecture",
        "**Skips.** The paper",
    ):
        assert words in page
    assert "Measured at 64 pixels: full resolution keeps" in page
    assert page.count("\n## ") == 5
    table = list(csv.DictReader((folder / "segmentation.csv").open()))
    assert len(table) == 3 + 2 + 6 + 4 + 6
    assert np.asarray(Image.open(folder / "segmentation.png")).std() > 1


def test_a_study_that_is_done_trains_and_measures_nothing(folder: Path, trainings: Trainings) -> None:
    before = tables(folder)
    trainings.configs.clear()
    with pytest.MonkeyPatch.context() as patch:
        for measure in ("label_both_ways", "training_steps"):
            patch.setattr(f"cvtasks.studies.segmentation.{measure}", None)
        assert main(["study", "segmentation", f"run_dir={folder}", *TYPED]) == 0
    assert trainings.configs == {}
    assert tables(folder) == before


def test_what_fails_takes_nothing_else_with_it(
    tmp_path: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.broken = {"unet", "sliding_window"}
    typed = [*TYPED, "study.arguments=[full_resolution,sliding_window]", "study.sizes=[32]"]
    try:
        assert main(["study", "segmentation", f"run_dir={tmp_path / 'R'}", *typed]) == 1
    finally:
        trainings.broken = set()
    assert "2 of the study's parts failed: sliding_window: no data; unet: no data" in capsys.readouterr().err
    quality, costs = tables(tmp_path / "R").values()
    assert [row["system"] for row in quality] == ["full resolution"]
    assert len(costs) == 3
    assert not (tmp_path / "R" / "parts" / "fcn32s").exists()  # of no argument that was asked for
    assert (tmp_path / "R" / "segmentation.png").is_file()


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("study.arguments=[]", "study.arguments: expected one at least"),
        ("study.sizes=[64,100]", "study.sizes: expected multiples of 32, not 100"),
        ("study.steps=0", "study.steps: expected an integer of at least 1, not 0"),
        ("study.arguments=[fnc]", "study.arguments[0]: "),
        ('study.overrides=["engine.max_step=3"]', "did you mean engine.max_steps"),
    ],
)
def test_a_wrong_setting_is_one_line(
    setting: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], trainings: Trainings
) -> None:
    assert main(["study", "segmentation", f"run_dir={tmp_path / 'R'}", setting]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


def test_a_slid_window_computes_every_patch_anew(tmp_path: Path) -> None:
    network = ["backbone.channels=[4,8]", "backbone.kernels=[3,3]", "backbone.pools=[2,1]", "task.hidden=8"]
    data = ["dataset.image_size=64", "pipeline.size=32", "dataset.val.count=3", "device=cpu"]
    config = compose("train", ["task=sliding_window_seg", *network, *data, "engine.precision=fp32"])
    classes = open_reader(config, "train").classes
    content = {"model": untrained(config, classes).model.state_dict()}
    checkpoint.save_last(tmp_path, content)
    (tmp_path / "checkpoints" / "last.pt").rename(tmp_path / "checkpoints" / "best.pt")
    found = label_both_ways(config, classes, tmp_path, images=5, repeats=1)
    assert (found["images"], found["size"]) == (3, "32x32")
    # A patch has 8 pixels: 6 x 6 positions of the first convolution, pooled to 3 x 3, and one of the second.
    head = 8 * 8 + 8 * len(classes)
    patch = 6 * 6 * 4 * 27 + 8 * 36 + head
    assert found["sliding"]["10^9 multiply-adds an image"] * 1e9 == pytest.approx(32 * 32 * patch)
    # Over the padded image at once: 37 x 37 positions, and 32 x 32.
    dense = 37 * 37 * 4 * 27 + 32 * 32 * (8 * 36 + head)
    assert found["dense"]["10^9 multiply-adds an image"] * 1e9 == pytest.approx(dense)
    assert found["equal"] > 0.999


def test_kept_bytes_are_an_images_whatever_the_batch() -> None:
    small = ["dataset.image_size=64", "pipeline.size=32", "device=cpu", "engine.precision=fp32"]
    typed = [
        "task=fcn_full_res",
        *small,
        "backbone.width=4",
        "backbone.dilations=[1,1]",
        "backbone.norm=null",
    ]
    config = compose("train", typed)
    classes = open_reader(config, "train").classes
    one, four = (
        training_steps({"it": config}, classes, size=32, batch_size=n, repeats=1, seed=0)["it"]
        for n in (1, 4)
    )
    assert four["MB kept an image"] == pytest.approx(one["MB kept an image"], rel=0.01)
    assert four["10^9 multiply-adds an image"] == one["10^9 multiply-adds an image"]
    # The image and two maps of four channels are the least that any implementation has to keep.
    assert one["MB kept an image"] * 1e6 > 32 * 32 * 4 * (3 + 4 + 4)


def test_bars_without_a_number_leave_a_gap(tmp_path: Path) -> None:
    panels = [
        Panel("Some", {"one": {"a": 1.0, "b": float("nan")}, "two": {"a": 1e6}}, log=True),
        Panel("None", {"one": {"a": float("nan")}}),
    ]
    draw_bars(panels, tmp_path / "bars.png")
    assert np.asarray(Image.open(tmp_path / "bars.png")).std() > 1
