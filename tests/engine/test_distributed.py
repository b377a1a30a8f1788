"""Two processes on this machine, joined as torchrun joins them, against one with all their images."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cvtasks.engine import checkpoint
from cvtasks.engine.distributed import ALONE, from_environment
from cvtasks.engine.evaluation import evaluate, predicted

from .detector import detector_task, scenes
from .regression import FP32, IMAGES, held_out, learner_of, make_batch, make_task, mean_alone, stream
from .staged import staged_task
from .test_loop import content

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checks of two_processes.py, done once: starting two processes takes seconds."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "engine.two_processes", str(folder)],
            cwd=TESTS,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    return folder


def result(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"{name}.{rank}.pt", weights_only=True)


def test_gradients_equal_one_processs_with_the_double_batch_also_through_batch_norm(folder: Path) -> None:
    # Two accumulated batches: gradients are exchanged once, and must be those of both.
    task = mean_alone(make_task(dropout=0.0))
    learner = learner_of(task, accumulate=2)
    learner.step(1, stream(0))
    for rank in range(2):
        found = result(folder, "gradients", rank)
        for name, parameter in task.model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["running"], task.model.norm.running_var)


def test_a_detectors_losses_are_divided_by_the_count_of_all_processes(folder: Path) -> None:
    # Images differ in how many anchors and regions count: a mean of each process's means would be another number.
    task = detector_task()
    learner = learner_of(task)
    halves = [learner.step(1, iter([scenes(half)])).losses for half in (range(2), range(2, 4))]
    task = detector_task()
    learner = learner_of(task)
    whole = learner.step(1, iter([scenes(range(4))])).losses
    found = result(folder, "detector")
    torch.testing.assert_close(found["losses"], whole, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(torch.stack(halves).mean(0), whole, rtol=1e-3)
    for name, parameter in task.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_evaluation_equals_one_processs_to_the_last_digit(folder: Path) -> None:
    expected = evaluate(make_task(), held_out(), precision=FP32)
    for rank in range(2):
        found = result(folder, "evaluation", rank)
        assert repr(found) == repr(expected)


def test_a_resumed_run_of_two_processes_equals_the_unbroken_one(folder: Path) -> None:
    assert content(folder / "broken") == content(folder / "unbroken")
    histories = [(folder / name / "metrics.jsonl").read_text() for name in ("broken", "unbroken")]
    assert histories[0] == histories[1]


def test_every_process_reads_all_predictions_in_one_order_as_a_process_alone(folder: Path) -> None:
    batches = [make_batch(ids, truth=True) for ids in ([5, 3], [1, 4], [2])]
    expected = list(predicted(staged_task().model, batches, precision=FP32))
    for rank in range(2):
        found = result(folder, "predicted", rank)
        assert found["ids"] == [[5, 3], [1, 4], [2]]
        assert torch.equal(found["labels"], torch.cat([batch.label for batch, _ in expected]))
        assert torch.equal(found["values"], torch.stack([p["value"] for _, pair in expected for p in pair]))


def test_a_run_in_stages_killed_as_two_of_them_began_equals_the_unbroken_one(folder: Path) -> None:
    first, second = (result(folder, "stages", rank) for rank in range(2))
    assert first["seen"] == second["seen"] == [[], list(range(IMAGES)), list(range(IMAGES))]
    trained = [name for name in first["model"] if "running" not in name]
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in trained)
    assert (folder / "staged broken" / "train.log").read_text().count("Killed") == 2
    assert content(folder / "staged broken") == content(folder / "staged")
    histories = [(folder / name / "metrics.jsonl").read_text() for name in ("staged broken", "staged")]
    assert histories[0] == histories[1]


def test_what_is_solved_is_the_same_in_every_process(folder: Path) -> None:
    first, second = (result(folder, "solved", rank) for rank in range(2))
    assert first["stage"] == second["stage"] == 2
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in ("shift", "factor"))
    assert float(first["model"]["shift"]) != 0
    assert not (folder / "solved" / "features").exists()


def test_only_the_first_process_writes(folder: Path) -> None:
    steps = [json.loads(line) for line in (folder / "unbroken" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "lr" in line] == [3, 6, 9]
    assert [line["step"] for line in steps if "fit/score" in line] == [4, 8, 9]


def test_a_loss_of_one_process_that_is_not_finite_stops_both_with_its_images(folder: Path) -> None:
    images = next(stream(1)).image_ids[2:]  # the second step's, of the second process
    first, second = (result(folder, "not_finite", rank) for rank in range(2))
    assert first == second
    assert first["code"] == 3
    assert "step 2: the loss fit is nan (learning rate" in first["error"]
    assert f"images {', '.join(map(str, images))})" in first["error"]
    kept = checkpoint.load(folder / "nan" / "not_finite.pt")
    assert kept["batches"][0]["image_ids"] == images


def test_a_signal_to_one_process_stops_both_after_the_same_step(folder: Path) -> None:
    first, second = (result(folder, "signal", rank) for rank in range(2))
    assert first == second
    assert first["code"] == 143
    assert "stopped and saved at step 4 of 10" in first["error"]


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun with one process
    assert from_environment() == ALONE
    assert ALONE.gather("a") == ["a"]
    assert ALONE.share("a") == "a"
    assert ALONE.largest(-3) == -3
