"""What the engine offers, as it is typed: several processes, short runs, averages, endings, a measured batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_app import SHAPES, SMALL, numbers, train

from cvtasks.cli import main
from cvtasks.engine import checkpoint

pytestmark = pytest.mark.usefixtures("undrawn")


def stored(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "cvtasks", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_torchrun_trains_with_two_processes_and_one_goes_on(tmp_path: Path) -> None:
    short = ["engine.max_steps=4", "engine.log_every=1", "optimizer.lr=0.02"]
    done = torchrun("train", *SMALL, *SHAPES, *short, f"run_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "4 steps of 4 images on 2 x cpu" in done.stdout
    assert done.stdout.count("written: ") == 1
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "lr" in r] == [1, 2, 3, 4]
    before = numbers(tmp_path)
    # Judged by one process, and by the two of the run itself (`engine/test_distributed.py` has two against one).
    assert main(["eval", f"run={tmp_path}", f"run_dir={tmp_path / 'one'}"]) == 0
    assert numbers(tmp_path / "one") == before
    assert main(["resume", str(tmp_path), "engine.max_steps=5"]) == 0
    assert "a step has 2 images now; it had 4 before" in (tmp_path / "train.log").read_text()


def test_rates_are_scaled_to_the_images_of_all_processes_and_accumulated_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cvtasks.config.compose import compose

    words = ["task=faster_rcnn", "dataset=coco", "dataset.root=X", "loader.batch_size=2"]
    one = compose("train", words, checked=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    many = compose("train", [*words, "engine.accumulate=2"], checked=False)
    assert one["optimizer"]["lr"] == pytest.approx(0.02 * 2 / 16)
    assert many["optimizer"]["lr"] == pytest.approx(0.02 * 16 / 16)
    assert (one["engine"]["max_steps"], many["engine"]["max_steps"]) == (720_000, 90_000)


def test_one_step_touches_everything_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "debug=one_step", "dataset.val.count=7") == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 1]
    assert "2 training and 2 validation images" in capsys.readouterr().out
    assert main(["eval", f"run={tmp_path}", f"run_dir={tmp_path / 'out'}"]) == 0
    assert "2 images (engine.limit_batches=1)" in capsys.readouterr().out
    assert numbers(tmp_path / "out") == numbers(tmp_path)


def test_one_batch_is_learnt_by_heart_and_judged_on_itself(tmp_path: Path) -> None:
    options = [
        "debug=overfit_one_batch",
        "engine.max_steps=60",
        "optimizer.lr=0.02",
        "scheduler.warmup_steps=5",
    ]
    assert train(tmp_path, *options) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "lr" in r]
    assert losses[-1] < 0.4 * losses[0]
    # The loss of the same two images, without augmentation: as low as in training.
    assert records[-1]["val/loss"] < 0.5 * losses[0]
    assert main(["eval", f"run={tmp_path}", f"run_dir={tmp_path / 'out'}"]) == 0
    assert numbers(tmp_path / "out") == numbers(tmp_path)


def test_the_average_of_the_weights_is_what_is_judged_and_resumed(tmp_path: Path) -> None:
    assert train(tmp_path / "a", "engine.ema=0.5", "engine.max_steps=4", "engine.eval_every=2") == 0
    content = checkpoint.load(tmp_path / "a" / "checkpoints" / "best.pt")
    assert not torch.equal(content["ema"]["heads.box.scores.bias"], content["model"]["heads.box.scores.bias"])
    assert main(["eval", f"run={tmp_path / 'a'}", f"run_dir={tmp_path / 'out'}"]) == 0
    assert numbers(tmp_path / "out") == numbers(tmp_path / "a")


def test_a_run_that_patience_ends_says_so_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["engine.max_steps=50", "engine.eval_every=1", "engine.patience=2", "optimizer.lr=1e-12"]
    assert train(tmp_path, *options) == 0
    said = capsys.readouterr().out
    assert "ended early: no better for 2 evaluations (engine.patience=2) at step 3 of 50" in said
    assert (tmp_path / "metrics.json").exists()
    assert main(["resume", str(tmp_path)]) == 0
    assert f"{tmp_path} is finished: no better for 2 evaluations" in capsys.readouterr().out
    assert main(["resume", str(tmp_path), "engine.patience=null", "engine.max_steps=5"]) == 0
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == 5


@pytest.mark.skipif(sys.platform != "linux", reason="a CPU's memory is read from /proc")
def test_a_measured_batch_size_is_stored_as_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "loader.batch_size=auto", "engine.max_steps=1") == 0
    # Five training images: the largest power of two below.
    assert "loader.batch_size = 4 (auto" in capsys.readouterr().out
    assert stored(tmp_path)["loader"]["batch_size"] == 4


def test_what_cannot_be_deterministic_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvtasks.nn import region_detector

    losses = region_detector.RegionDetector.losses

    def with_put(self: Any, batch: Any) -> Any:
        torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]), accumulate=False)
        return losses(self, batch)

    monkeypatch.setattr(region_detector.RegionDetector, "losses", with_put)
    try:
        assert train(tmp_path, "deterministic=true", "engine.max_steps=1") == 0
    finally:
        torch.use_deterministic_algorithms(False)
    log = (tmp_path / "train.log").read_text()
    assert log.count("put_ has no deterministic form here") == 1
