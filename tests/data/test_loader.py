"""Streams of batches: the same with any number of workers, and clear when something dies."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time

import pytest
import torch

from cvtasks.data import loader
from cvtasks.data.loader import eval_batches, resolve_workers, train_batches
from cvtasks.data.pipelines import scale_jitter
from cvtasks.errors import CvtasksError, DataError

from .samples import FLIP_INDEX, MemoryReader

JITTER = scale_jitter(
    train=True, flip_index=FLIP_INDEX, size=32, scale=[0.5, 2.0], vertical_flip=0.5, rotate90=0.75, color=0.5
)
PLAIN = scale_jitter(train=False, size=32)


def stream(count, *, length=10, batch_size=4, seed=3, transform=JITTER, **kw):
    batches = train_batches(MemoryReader(length), transform, batch_size=batch_size, seed=seed, **kw)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal_batches(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name, value in vars(a).items():
            other = getattr(b, name)
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, name


@pytest.fixture
def children():
    """The worker processes started since the test began."""
    before = set(multiprocessing.active_children())
    return lambda: [child for child in multiprocessing.active_children() if child not in before]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_identical_batches(workers):
    assert_equal_batches(stream(8, workers=workers), stream(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_entered_at_batch_n_is_the_tail_of_the_whole(workers):
    # Batch 2 spans two epochs (10 images, batches of 4), and 5 begins the third.
    assert_equal_batches(stream(4, first_batch=3, workers=workers), stream(7)[3:])
    assert_equal_batches(stream(2, first_batch=5, workers=workers), stream(7)[5:])


def test_the_number_of_threads_changes_nothing():
    # 400 pixels wide, so that torch does split the work; sums of floats would then differ.
    transform = scale_jitter(train=True, size=400, scale=[0.8, 1.2], color=0.5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = stream(3, transform=transform)
        torch.set_num_threads(3)
        assert_equal_batches(stream(3, transform=transform), one)
    finally:
        torch.set_num_threads(before)


def test_two_processes_share_the_batches_of_one():
    whole = stream(3, batch_size=4)
    for rank in (0, 1):
        for part, batch in zip(stream(3, batch_size=2, rank=rank, world=2), whole, strict=True):
            assert part.image_ids == batch.image_ids[2 * rank : 2 * rank + 2]
            assert torch.equal(part.images, batch.images[2 * rank : 2 * rank + 2])


def test_nothing_is_loaded_to_enter_a_stream_late():
    seen = []

    class Counting(MemoryReader):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    next(train_batches(Counting(10), JITTER, batch_size=2, seed=0, first_batch=1000))
    assert len(seen) == 2


def test_an_image_is_augmented_differently_in_each_epoch_and_by_each_seed():
    batches = stream(3, length=1, batch_size=1) + stream(1, length=1, batch_size=1, seed=4)
    assert len({batch.images.sum().item() for batch in batches}) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_random_state_is_left_alone(workers):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    stream(2, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_error_keeps_its_one_line_through_a_worker(workers):
    batches = train_batches(MemoryReader(4, bad=2), JITTER, batch_size=4, seed=0, workers=workers)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "fake: 2.jpg: cannot be decoded"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_ours_in_a_worker_is_not_disguised(workers):
    def broken(sample):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug") as caught:
        next(train_batches(MemoryReader(4), broken, batch_size=2, seed=0, workers=workers))
    assert not isinstance(caught.value, CvtasksError)


def test_a_killed_worker_is_one_line_that_says_what_to_type(children):
    batches = train_batches(MemoryReader(4), JITTER, batch_size=2, seed=0, workers=2)
    next(batches)
    os.kill(children()[0].pid, signal.SIGKILL)
    with pytest.raises(CvtasksError, match=r"worker.*killed.*/dev/shm.*loader\.workers=0"):
        list(itertools.islice(batches, 20))
    assert not children()


def test_a_full_shared_memory_is_told_and_does_not_hang(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # the forked worker has it too
    with pytest.raises(CvtasksError, match=r"shared memory.*loader\.workers=0"):
        next(train_batches(MemoryReader(4), JITTER, batch_size=2, seed=0, workers=1))


def test_ctrl_c_and_a_schedulers_signals_leave_the_workers_to_their_parent(children):
    batches = train_batches(MemoryReader(8), JITTER, batch_size=2, seed=3, workers=2)
    taken = [next(batches), next(batches)]  # one from each worker: both have started
    for child in children():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(child.pid, number)
    taken += itertools.islice(batches, 6)
    assert_equal_batches(taken, stream(8, length=8, batch_size=2))
    start = time.monotonic()
    batches.close()
    assert not children()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("drop", [lambda batches: batches.close(), lambda batches: None])
def test_no_worker_outlives_its_stream(children, drop):
    batches = train_batches(MemoryReader(4), JITTER, batch_size=2, seed=0, workers=2)
    next(batches)
    assert len(children()) == 2
    drop(batches)
    del batches
    assert not children()


def test_a_dead_child_of_any_kind_does_not_interrupt_the_training_step():
    # torch installs a SIGCHLD handler that raises in the main thread, wherever that is.
    before = signal.getsignal(signal.SIGCHLD)
    stream(1, workers=1)
    assert signal.getsignal(signal.SIGCHLD) is before


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_with_truth_and_a_short_last_batch(workers):
    batches = list(eval_batches(MemoryReader(7), PLAIN, batch_size=3, workers=workers))
    assert [batch.image_ids for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [[truth["image_id"] for truth in batch.truth] for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert sum(len(batch) for batch in eval_batches(MemoryReader(7), PLAIN, batch_size=3, limit=4)) == 4
    assert not list(eval_batches(MemoryReader(0), PLAIN, batch_size=3, workers=workers))


def test_training_without_an_image_is_an_error():
    with pytest.raises(DataError, match="no image"):
        train_batches(MemoryReader(0), JITTER, batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("cores", "device", "processes", "expected"),
    [
        (2, "cpu", 1, 0),
        (16, "cpu", 1, 4),
        (64, "cpu", 1, 8),
        (4, "cuda", 1, 3),
        (32, "cuda", 1, 8),
        (32, "cuda", 8, 3),
        (1, "cuda", 1, 0),
    ],
)
def test_auto_leaves_the_cores_that_training_needs(monkeypatch, cores, device, processes, expected):
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert resolve_workers("auto", device=device, processes=processes) == expected
    assert resolve_workers(5, device=device, processes=processes) == 5
