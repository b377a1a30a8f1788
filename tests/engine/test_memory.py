import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvtasks.engine import memory
from cvtasks.engine.memory import is_out_of_memory, largest_batch, out_of_memory_named, peak_of
from cvtasks.errors import OutOfMemoryError
from cvtasks.types import Batch

from .regression import Regressor, make_batch, make_task, train

CPU = torch.device("cpu")
MB = 2**20


def real_failure() -> RuntimeError:
    """What torch raises for more than any machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_an_exhausted_allocator_is_told_from_other_errors() -> None:
    assert is_out_of_memory(real_failure())
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_message_names_the_batch_and_what_to_type(tmp_path: Path) -> None:
    class Greedy(Regressor):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if self.training:
                torch.empty(2**60, dtype=torch.uint8)
            return super().losses(batch)

    with pytest.raises(OutOfMemoryError) as caught:
        train(tmp_path, task=make_task(Greedy()), accumulate=2)
    text = str(caught.value)
    assert text.startswith("step 1: out of memory with 4 images of 4x4 pixels (images ")
    assert "type loader.batch_size=2 engine.accumulate=4, or a smaller pipeline.size" in text
    assert caught.value.exit_code == 4


def test_the_evaluation_names_its_own_key(tmp_path: Path) -> None:
    class Greedy(Regressor):
        def predict(self, batch: Batch):  # type: ignore[no-untyped-def]
            torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(OutOfMemoryError, match=r"^evaluation: .*type loader\.eval_batch_size=1, or"):
        train(tmp_path, task=make_task(Greedy()))


def test_a_single_image_cannot_be_halved() -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"type a smaller pipeline\.size$"),
        out_of_memory_named("step 1", make_batch([5]), key="loader.batch_size", accumulate=1),
    ):
        raise MemoryError


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), out_of_memory_named("", make_batch([1]), key=""):
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("each", "constant", "free", "found"),
    [
        (10, 0, 1000, 64),  # 640 of 850 fit, 1280 would not
        (10, 300, 1000, 32),  # 620 of 850 fit, 940 would not
        (10, 0, 8, None),
        (800, 0, 1000, 1),
        (1, 0, 10**6, 100),
    ],
)
def test_the_largest_power_of_two_is_found_without_overdrawing(
    monkeypatch: pytest.MonkeyPatch, each: int, constant: int, free: int, found: int | None
) -> None:
    tried: list[int] = []

    def peak(run: object, size: int, device: object) -> int:
        tried.append(size)
        return constant + each * size

    monkeypatch.setattr(memory, "_peak", peak)
    monkeypatch.setattr(memory, "_free", lambda device: free)
    if found is None:
        with pytest.raises(OutOfMemoryError, match="not even one image fits"):
            largest_batch(lambda size: None, CPU, most=100)
        return
    expected = 64 if found == 100 else found
    assert largest_batch(lambda size: None, CPU, most=100) == expected
    # Beyond what fits, no size is run: on a CPU that would be the end of the process.
    assert all(constant + each * size <= free for size in tried)


def test_processes_that_share_memory_share_it_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_peak", lambda run, size, device: 10 * size)
    monkeypatch.setattr(memory, "_free", lambda device: 1000)
    assert largest_batch(lambda size: None, CPU, most=100, sharing=4) == 16


def test_a_size_that_fails_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_used", lambda device, peak: 0)
    monkeypatch.setattr(memory, "_forget_peak", lambda device: None)

    def run(size: int) -> None:
        if size > 8:
            raise MemoryError

    assert largest_batch(run, CPU, most=100) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_of_a_run_is_measured_not_what_is_left() -> None:
    def run(size: int) -> None:
        torch.ones(size * 64 * MB, dtype=torch.uint8)

    assert memory.can_measure(CPU)
    peaks = [memory._peak(run, size, CPU) for size in (4, 1)]
    assert peaks[0] == pytest.approx(256 * MB, rel=0.25)
    assert peaks[1] == pytest.approx(64 * MB, rel=0.5)


@pytest.mark.skipif(not memory.can_measure(CPU), reason="this system does not tell")
def test_the_peak_of_work_is_what_it_took_beyond_what_was_there() -> None:
    there = torch.ones(100 * MB, dtype=torch.uint8)
    result, peak = peak_of(lambda: len(torch.ones(60 * MB, dtype=torch.uint8)), CPU)
    assert result == 60 * MB
    assert peak is not None
    assert 55 * MB < peak < 90 * MB
    del there


def test_where_memory_cannot_be_measured_the_work_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "can_measure", lambda _: False)
    assert peak_of(lambda: "done", CPU) == ("done", None)
