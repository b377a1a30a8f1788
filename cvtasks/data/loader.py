"""Batches from a reader: read, transformed and collated here or in worker processes, always the same ones.

What an augmentation draws depends on (seed, epoch, index) alone, so 0, 1 or 8 workers, and a stream
entered in the middle, give identical batches, and the caller's own random state is never touched.

Workers are forked where the system is Linux: two of them start in about 30 ms and share the reader's arrays,
where spawn imports torch anew (3 s each) and copies the reader. What makes fork unsafe beside threads,
OpenMP's pool, is not used in them: torch runs one thread there. Elsewhere the system's start method is used,
so reader and transform must be picklable.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from cvtasks.data.collate import collate
from cvtasks.data.sampler import Position, evaluation_batches, stream_seed, training_batches
from cvtasks.errors import CvtasksError, DataError
from cvtasks.types import Batch, Reader, Sample

MAX_WORKERS = 8
SHARED_MEMORY = (
    "enlarge /dev/shm (docker run --shm-size=8g), or set a smaller loader.batch_size or loader.workers=0"
)


def train_batches(
    reader: Reader,
    transform: Callable[[Sample], Sample],
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    first_batch: int = 0,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    divisor: int = 32,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """The endless stream of training batches from number `first_batch` on; nothing is loaded to get there.

    limit: use only so many images, the first ones.

    `batch_size` is this process's; `world` processes share a batch of world x batch_size. `close()` ends the
    workers, and so does dropping the generator. Raises the reader's own DataError, and CvtasksError when a
    worker was killed.
    """
    if len(reader) == 0:
        raise DataError("the training split has no image: check dataset.train and dataset.classes")
    length = len(reader) if limit is None else min(limit, len(reader))
    order = training_batches(
        length, batch_size=batch_size, seed=seed, first_batch=first_batch, rank=rank, world=world
    )
    source = _Source(reader, transform, seed=seed, divisor=divisor, with_truth=False)
    return stream(source, order, workers=workers, pin_memory=pin_memory)


def eval_batches(
    reader: Reader,
    transform: Callable[[Sample], Sample],
    *,
    batch_size: int,
    workers: int = 0,
    limit: int | None = None,
    rank: int = 0,
    world: int = 1,
    in_turns: bool = False,
    divisor: int = 32,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """Every image once (or the first `limit`), in order, with `truth`; the last batch may be short.

    in_turns: this process gets every world-th batch, not consecutive ones.
    """
    length = len(reader) if limit is None else min(limit, len(reader))
    order = evaluation_batches(length, batch_size=batch_size, rank=rank, world=world, in_turns=in_turns)
    source = _Source(reader, transform, seed=0, divisor=divisor, with_truth=True)
    return stream(source, order, workers=min(workers, len(order)), pin_memory=pin_memory)


def resolve_workers(workers: int | Literal["auto"], *, device: torch.device | str, processes: int = 1) -> int:
    """The number of worker processes for each of `processes` that train on this machine.

    auto, at most 8: beside a GPU all cores but one; where the CPU itself trains, a quarter of the cores.
    """
    if workers != "auto":
        return workers
    own = cores() // processes
    return max(0, min(MAX_WORKERS, own // 4 if torch.device(device).type == "cpu" else own - 1))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Source:
    """What runs in a worker: a list of positions in, a Batch out. Errors come out as values, because torch
    would wrap a raised one in its worker's traceback."""

    def __init__(
        self,
        reader: Reader,
        transform: Callable[[Sample], Sample],
        *,
        seed: int,
        divisor: int,
        with_truth: bool,
    ) -> None:
        self.reader, self.transform = reader, transform
        self.seed, self.divisor, self.with_truth = seed, divisor, with_truth

    def __getitem__(self, positions: list[Position]) -> Batch | CvtasksError:
        try:
            samples = [self._sample(epoch, index) for epoch, index in positions]
            truth = [self.reader.truth(index) for _, index in positions] if self.with_truth else None
        except CvtasksError as error:
            return error
        batch = collate(samples, divisor=self.divisor, truth=truth)
        return batch if get_worker_info() is None else _shared(batch)

    def _sample(self, epoch: int, index: int) -> Sample:
        # Not torch.manual_seed: that would also restart the CUDA generators of a process that trains.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed("augment", self.seed, epoch, index))
            return self.transform(self.reader[index])


def stream(
    source: Any,
    order: Iterable[Any],
    *,
    workers: int,
    pin_memory: bool = False,
    remedy: str = SHARED_MEMORY,
) -> Generator[Any, None, None]:
    """`source[item]` for each item of `order`, computed by `workers` processes of one thread each; 0: by this one.

    An error that is to be told comes as a value, and is raised here. remedy: what helps where a worker was killed.
    """
    loader: DataLoader[Any] = DataLoader(
        source,
        sampler=order,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # else it draws from the caller's, and a resumed run would differ
    )
    on_child = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    iterator = iter(loader)
    _restore_child_signal(on_child)
    try:
        for item in iterator:
            if isinstance(item, CvtasksError):
                raise item
            yield item
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise CvtasksError(
            f"loader: a worker process was killed; most often memory ran out: {remedy}"
        ) from error
    finally:
        # Dropping the iterator does the same, but not while some traceback holds it.
        getattr(iterator, "_shutdown_workers", lambda: None)()


def _restore_child_signal(handler: Any) -> None:
    """Take back torch's SIGCHLD handler, which raises wherever the training step happens to be.

    Without it a dead worker is noticed where its batch is missed, within five seconds.
    """
    try:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
    except ValueError:  # not the main thread: torch could not set one either
        pass


def _start_worker(_: int) -> None:
    """Ctrl-C and a scheduler's signals reach every process of the group, but the parent decides when to stop.

    It needs its workers until then; one that it has lost sight of ends half a minute after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(30))


def _shared(batch: Batch) -> Batch | CvtasksError:
    """Share the tensors here, where a failure can be told; torch's queue would only lose the batch."""
    try:
        for value in vars(batch).values():
            if isinstance(value, Tensor):
                value.share_memory_()
    except RuntimeError as error:
        return CvtasksError(f"loader: no room in shared memory for a batch ({error}); {SHARED_MEMORY}")
    return batch


def _unchanged(batch: Any) -> Any:
    return batch
