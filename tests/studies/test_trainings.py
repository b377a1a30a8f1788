"""Several trainings by a fake of `cvtasks.app`, which leaves what a run leaves and learns nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cvtasks import app, judge
from cvtasks.engine import checkpoint
from cvtasks.errors import ConfigError, DataError, Interrupted, NonFiniteLossError
from cvtasks.studies.parts import StudyRun
from cvtasks.studies.trainings import train_parts

COMMON = ["task=faster_rcnn", "backbone=tiny", "engine.max_steps=4"]
PARTS = {"slow": ["optimizer.lr=0.01"], "fast": ["optimizer.lr=0.1", "seed=9"]}
Fake = Callable[..., None]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was called for which folder. A learning rate above 0.5 fails; one of exactly 0.5 is stopped at step 2."""
    called: list[tuple[str, str]] = []

    def leave(folder: Path, config: dict[str, Any], step: int) -> None:
        content = {
            "config": yaml.safe_dump(config),
            "step": step,
            "seconds": 10.0 * step,
            "weight": torch.ones(1),
        }
        checkpoint.save_last(folder, content)
        (folder / "config.yaml").write_text(content["config"])
        if step == 4:
            (folder / "metrics.json").write_text(json.dumps({"box/AP": config["optimizer"]["lr"]}))

    def train(config: dict[str, Any], **_: Any) -> None:
        folder, rate = Path(config["run_dir"]), config["optimizer"]["lr"]
        called.append(("train", folder.name))
        if rate > 0.5:
            raise NonFiniteLossError("step 1: the loss is not finite")
        leave(folder, config, 2 if rate == 0.5 else 4)
        if rate == 0.5:
            raise Interrupted("saved", exit_code=143)

    def resume(folder: Path, config: dict[str, Any]) -> None:
        called.append(("resume", folder.name))
        assert config["run"] == str(folder)
        assert config["engine"]["max_steps"] == 4
        leave(folder, {k: v for k, v in config.items() if k not in ("run", "checkpoint")}, 4)

    def evaluate(config: dict[str, Any]) -> None:
        called.append(("eval", Path(config["run"]).name))
        Path(config["run_dir"]).mkdir()
        (Path(config["run_dir"]) / "metrics.json").write_text('{"box/AP": 0.25}')

    monkeypatch.setattr(app, "train", train)
    monkeypatch.setattr(app, "resume", resume)
    monkeypatch.setattr(judge, "evaluate", evaluate)
    return called


def study(folder: Path, parts: dict[str, list[str]], **told: Any) -> tuple[dict[str, Any], dict[str, str]]:
    with StudyRun.create(folder, "fake", **told) as run:
        return train_parts(run, parts, common=COMMON), run.failed


def test_every_part_is_trained_with_its_overrides_and_its_numbers_are_collected(
    tmp_path: Path, verbs: list[tuple[str, str]]
) -> None:
    found, failed = study(tmp_path / "R", PARTS, seed=5, device="cpu")
    assert verbs == [("train", "slow"), ("train", "fast")]
    assert failed == {}
    assert {name: part["metrics"]["box/AP"] for name, part in found.items()} == {"slow": 0.01, "fast": 0.1}
    assert [part["seconds"] for part in found.values()] == [40, 40]
    assert all(part["peak_memory"] is None or part["peak_memory"] >= 0 for part in found.values())
    configs = {n: yaml.safe_load((tmp_path / "R" / "parts" / n / "config.yaml").read_text()) for n in PARTS}
    assert {name: (c["seed"], c["device"]) for name, c in configs.items()} == {
        "slow": (5, "cpu"),
        "fast": (9, "cpu"),
    }


def test_done_parts_are_not_trained_again_though_the_folder_has_moved(
    tmp_path: Path, verbs: list[tuple[str, str]]
) -> None:
    parts = {"slow": PARTS["slow"], "on": ['weights="{parts}/slow"']}
    first, _ = study(tmp_path / "R", parts)
    shutil.move(tmp_path / "R", tmp_path / "S, T = (1)")
    again, _ = study(tmp_path / "S, T = (1)", parts)
    assert again == first
    assert verbs == [("train", "slow"), ("train", "on")]


def test_a_later_part_may_start_from_an_earlier_one(tmp_path: Path, verbs: list[tuple[str, str]]) -> None:
    study(tmp_path / "R", {"on": ['weights="{parts}/slow"']})
    config = yaml.safe_load((tmp_path / "R" / "parts" / "on" / "config.yaml").read_text())
    assert config["weights"] == str(tmp_path / "R" / "parts" / "slow")


def test_a_failing_part_does_not_lose_the_others(tmp_path: Path, verbs: list[tuple[str, str]]) -> None:
    found, failed = study(tmp_path / "R", {"wild": ["optimizer.lr=0.9"], "fast": PARTS["fast"]})
    assert list(found) == ["fast"]
    assert failed == {"wild": "step 1: the loss is not finite"}


def test_a_stopped_part_is_gone_on_with(tmp_path: Path, verbs: list[tuple[str, str]]) -> None:
    parts = {"half": ["optimizer.lr=0.5"], "fast": PARTS["fast"]}
    with pytest.raises(Interrupted, match="stopped in half") as error:
        study(tmp_path / "R", parts)
    assert error.value.exit_code == 143
    found, _ = study(tmp_path / "R", parts)
    assert verbs == [("train", "half"), ("resume", "half"), ("train", "fast")]
    assert found["half"]["seconds"] == 40  # both halves


def test_a_part_stopped_behind_its_last_step_is_judged(tmp_path: Path, verbs: list[tuple[str, str]]) -> None:
    study(tmp_path / "R", {"slow": PARTS["slow"]})
    folder = tmp_path / "R" / "parts" / "slow"
    shutil.copy(folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt")
    record = json.loads((folder / "part.json").read_text())
    (folder / "part.json").write_text(json.dumps({"settings": record["settings"]}))
    (folder / "metrics.json").unlink()

    def finished(*_: Any) -> None:
        """What `resume` does with a run that has all its steps."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "resume", finished)
        found, _ = study(tmp_path / "R", {"slow": PARTS["slow"]})
    assert verbs[-1] == ("eval", "slow")
    assert found["slow"]["metrics"] == {"box/AP": 0.25}


def test_a_typo_in_any_part_ends_the_study_before_the_first_is_trained(
    tmp_path: Path, verbs: list[tuple[str, str]]
) -> None:
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.lr"):
        study(tmp_path / "R", PARTS | {"last": ["optimizer.lt=1"]})
    assert verbs == []


def test_other_overrides_in_the_same_folder_are_refused(tmp_path: Path, verbs: list[tuple[str, str]]) -> None:
    study(tmp_path / "R", {"slow": PARTS["slow"]})
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.01, and now 0.02.*choose another run_dir"):
        study(tmp_path / "R", {"slow": ["optimizer.lr=0.02"]})


def test_what_came_from_the_environment_is_in_no_file(
    tmp_path: Path, verbs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_PLACE", str(tmp_path / "hidden"))
    monkeypatch.setattr(app, "train", lambda _: (_ for _ in ()).throw(DataError("no data")))
    parts = {"a": ["dataset=coco", "dataset.root=${oc.env:SECRET_PLACE}"], "b": ["dataset=coco"]}
    study(tmp_path / "R", parts)
    text = (tmp_path / "R" / "parts" / "a" / "part.json").read_text()
    assert "hidden" not in text
    assert "${oc.env:SECRET_PLACE}" in text
    study(tmp_path / "R", parts)  # and it is the same on the way back


def test_an_automatic_batch_size_is_measured_first(
    tmp_path: Path, verbs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvtasks.studies.trainings.largest", lambda config: 16)
    study(tmp_path / "R", {"a": ["loader.batch_size=auto"]})
    config = yaml.safe_load((tmp_path / "R" / "parts" / "a" / "config.yaml").read_text())
    assert config["loader"]["batch_size"] == 16
    study(tmp_path / "R", {"a": ["loader.batch_size=auto"]})
    assert verbs == [("train", "a")]
