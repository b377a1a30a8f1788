"""`backbone.weights=RUN`: a backbone that was trained here, in whatever task, goes into any other task with the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cvtasks import assembly
from cvtasks.cli import main
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.errors import ConfigError, WeightsError
from cvtasks.types import ClassInfo

SMALL = ("dataset.image_size=64", "dataset.train.count=8", "dataset.val.count=2", "device=cpu")
ONE = ("dataset.scene=localization", *SMALL)
PERSON = ("dataset.scene=pose", *SMALL)


def config(task: str, *more: str) -> dict[str, Any]:
    return compose("train", [f"task={task}", "recipe=none", *more])


def built(cfg: dict[str, Any], seed: int) -> torch.nn.Module:
    reader_cfg = copy.deepcopy(cfg)
    reader_cfg["backbone"]["weights"] = None
    classes = assembly.open_reader(reader_cfg, "val").classes
    torch.manual_seed(seed)
    return assembly.build_task(assembly.with_backbone_of(cfg), classes, classes).model


def run_of(folder: Path, cfg: dict[str, Any], model: torch.nn.Module, **more: Any) -> Path:
    """What a run leaves, as far as another one reads it."""
    content = {
        "model": model.state_dict(),
        "config": assembly.as_yaml(cfg),
        "task": cfg["task"]["name"],
    } | more
    checkpoints.save(folder / "checkpoints" / "best.pt", content)
    return folder


TINY = ("backbone=tiny", "backbone.width=16")
TASKS = {
    "classification": ONE,
    "localization": ONE,
    "pose_regression": PERSON,
    "deeppose": PERSON,
    "faster_rcnn": SMALL,
    "unet": ONE,
    "rcnn": (*SMALL, "proposals=selective_search"),
    "sppnet": (*SMALL, "proposals=selective_search"),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_backbone_of_any_task_goes_into_a_classifier_and_back(task: str, tmp_path: Path) -> None:
    cfg = config(task, *TASKS[task], *TINY, "backbone.norm=group")
    model = built(cfg, seed=1)
    run = run_of(tmp_path / "run", cfg, model)
    receiver = config("classification", *ONE, *TINY, f"backbone.weights={run}")
    classifier = built(receiver, seed=2)
    trained = list(model.state_dict().values())
    own = classifier.backbone.state_dict()  # type: ignore[union-attr]
    read = [
        value for name, value in own.items() if name.startswith(("stem", "layer1.0.conv"))
    ]  # by all of these tasks
    assert all(any(torch.equal(value, other) for other in trained) for value in read)
    back = run_of(tmp_path / "back", receiver, classifier)
    again = built(config(task, *TASKS[task], *TINY, f"backbone.weights={back}"), seed=3)
    names = [name for name, _ in again.named_parameters() if "backbone." in name and "weight" in name]
    assert names
    for name, value in model.state_dict().items():
        if name in names and "regressors.1" not in name and "regressors.2" not in name:
            assert torch.equal(again.state_dict()[name], value), name


def test_a_file_of_a_run_does_as_well_and_the_average_is_what_counts(tmp_path: Path) -> None:
    cfg = config("classification", *ONE, *TINY)
    model, average = built(cfg, seed=1), built(cfg, seed=2)
    run = run_of(tmp_path / "run", cfg, model, ema=average.state_dict())
    for weights in (run, run / "checkpoints" / "best.pt"):
        other = built(config("localization", *ONE, *TINY, f"backbone.weights={weights}"), seed=3)
        for name, value in other.backbone.state_dict().items():  # type: ignore[union-attr]
            assert torch.equal(value, average.state_dict()[f"backbone.{name}"])


@pytest.mark.parametrize(
    ("norm", "expected"), [("batch", "frozen"), ("frozen", "frozen"), ("group", "group")]
)
def test_the_norm_is_what_the_weights_need_and_is_written_out(
    norm: str, expected: str, tmp_path: Path
) -> None:
    cfg = config("classification", *ONE, *TINY, f"backbone.norm={norm}")
    run = run_of(tmp_path / "run", cfg, built(cfg, seed=1))
    receiver = config("localization", *ONE, *TINY, f"backbone.weights={run}")
    assert assembly.with_backbone_of(receiver)["backbone"]["norm"] == expected
    assert receiver["backbone"]["norm"] == "auto"
    built(receiver, seed=2)


@pytest.mark.parametrize(
    ("own", "other"),
    [("cifar_resnet20", "cifar_plain20"), ("cifar_plain20", "cifar_resnet20"), ("resnet18", "tiny")],
)
def test_another_backbone_is_refused_by_both_names_even_where_it_would_fit(
    own: str, other: str, tmp_path: Path
) -> None:
    cfg = config("classification", *ONE, f"backbone={own}")
    run = run_of(tmp_path / "run", cfg, built(cfg, seed=1))
    with pytest.raises(
        ConfigError, match=rf"is of backbone={own}, and this is backbone={other}; type"
    ) as caught:
        built(config("classification", *ONE, f"backbone={other}", f"backbone.weights={run}"), seed=2)
    assert "\n" not in str(caught.value)


def test_another_width_of_the_same_is_refused_by_its_layers(tmp_path: Path) -> None:
    cfg = config("classification", *ONE, *TINY)
    run = run_of(tmp_path / "run", cfg, built(cfg, seed=1))
    with pytest.raises(WeightsError, match=r"do not fit this network: of another shape stem1"):
        built(config("classification", *ONE, "backbone=tiny", f"backbone.weights={run}"), seed=2)


def test_what_a_task_did_not_read_starts_afresh_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config("classification", *ONE, *TINY, "task.level=c3")
    run = run_of(tmp_path / "run", cfg, built(cfg, seed=1))
    receiver = config("classification", *ONE, *TINY, f"backbone.weights={run}")
    fresh = built(config("classification", *ONE, *TINY), seed=2)
    found = built(receiver, seed=2)
    assert "hold no layer3, layer4, which start afresh" in caplog.text
    assert torch.equal(found.backbone.layer4[0].conv1.weight, fresh.backbone.layer4[0].conv1.weight)  # type: ignore[union-attr, index]
    assert not torch.equal(found.backbone.layer2[0].conv1.weight, fresh.backbone.layer2[0].conv1.weight)  # type: ignore[union-attr, index]


def test_fully_connected_layers_go_with_their_backbone(tmp_path: Path) -> None:
    alexnet = ("backbone=alexnet", "backbone.with_classifier=true")
    cfg = config("classification", *ONE, *alexnet, "task.head=fully_connected")
    model = built(cfg, seed=1)
    run = run_of(tmp_path / "run", cfg, model)
    other = built(config("localization", *ONE, *alexnet, f"backbone.weights={run}"), seed=2)
    assert torch.equal(other.vector.classifier[1].weight, model.vector.classifier[1].weight)  # type: ignore[union-attr, index]
    without = built(config("localization", *ONE, "backbone=alexnet", f"backbone.weights={run}"), seed=2)
    assert torch.equal(without.backbone.features[0].weight, model.backbone.features[0].weight)  # type: ignore[union-attr, index]


def test_by_the_command_line_and_evaluated_where_the_run_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("engine.max_steps=2", "engine.eval_every=2", "loader.workers=0", "loader.batch_size=2", "pipeline.size=64",
             "recipe=none")  # fmt: skip
    batch = ("backbone.norm=batch", *TINY)
    assert main(["train", "task=classification", *ONE, *batch, *short, "run_dir=first"]) == 0
    command = ["train", "task=localization", *ONE, *TINY, *short, "backbone.weights=first"]
    assert main([*command, "run_dir=second"]) == 0
    stored = yaml.safe_load(Path("second/config.yaml").read_text())["backbone"]
    assert (stored["weights"], stored["norm"]) == (str(tmp_path / "first"), "frozen")
    first, second = (
        checkpoints.load(Path(f"{run}/checkpoints/best.pt"))["model"] for run in ("first", "second")
    )
    for name in ("backbone.stem1.0.weight", "backbone.stem1.1.running_mean"):  # which are frozen
        assert torch.equal(first[name], second[name])
    Path("first").rename("elsewhere")
    assert main(["eval", "run=second", "run_dir=again"]) == 0
    capsys.readouterr()
    assert main([*command, "run_dir=third"]) == 2
    error = capsys.readouterr().err
    assert "weights=first" in error
    assert error.count("\n") == 1


def test_classes_are_not_the_backbones_matter(tmp_path: Path) -> None:
    cfg = config("classification", *ONE, *TINY, "dataset.classes=[star,ring]")
    run = run_of(tmp_path / "run", cfg, built(cfg, seed=1), classes=ClassInfo(("star", "ring")).to_dict())
    assert (
        built(config("classification", *ONE, *TINY, f"backbone.weights={run}"), seed=2).scores.out_features
        == 7
    )  # type: ignore[union-attr]
