"""Memory of the device: an error that names the batch and what to type, and the largest batch that fits."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from cvtasks.errors import OutOfMemoryError
from cvtasks.types import Batch

SHOWN_IMAGES = 8
"""Image ids in a message"""
SHARE = 0.85
"""Of the free memory, to be filled by the worst batch: fragmentation takes the rest"""
T = TypeVar("T")
_WORDS = ("can't allocate memory", "out of memory", "could not create a memory object")
"""What torch's CPU allocator, CUDA libraries and oneDNN say; only CUDA's allocator has an exception of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def out_of_memory_named(
    when: str, batch: Batch, *, key: str, accumulate: int | None = None
) -> Iterator[None]:
    """Turn the device's error into an OutOfMemoryError that says which batch was too much, and what to type.

    key: what makes the batch smaller. accumulate: `engine.accumulate`, where more of it makes up for that.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size, height, width = len(batch), *batch.images.shape[-2:]
        objects = "" if batch.valid is None else f" with up to {batch.valid.shape[1]} objects each"
        shown = ", ".join(map(str, batch.image_ids[:SHOWN_IMAGES])) + ", …" * (size > SHOWN_IMAGES)
        instead = "a smaller pipeline.size"
        if size > 1:
            more = "" if accumulate is None else f" engine.accumulate={2 * accumulate}"
            instead = f"{key}={size // 2}{more}, or {instead}"
        raise OutOfMemoryError(
            f"{when}: out of memory with {size} images of {height}x{width} pixels{objects} (images {shown}); "
            f"type {instead}"
        ) from None


def peak_of(work: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """What the work returns, and the bytes that it took at its peak beyond those in use before.

    None where this system does not tell. On a CPU they are resident memory: what an earlier piece of work left to the
    allocator is used again, and not seen.
    """
    if not can_measure(device):
        return work(), None
    _release(device)
    before = _used(device, peak=False)
    _forget_peak(device)
    result = work()
    return result, max(0, _used(device, peak=True) - before)


def largest_batch(run: Callable[[int], None], device: torch.device, *, most: int, sharing: int = 1) -> int:
    """The largest power of two of images, at most `most`, whose `run(images)` fits into the device's memory.

    A size is tried only if the sizes before it let expect that it fits: a CPU's memory cannot be overdrawn safely.
    sharing: processes that do this at once in the same memory. Raises OutOfMemoryError if not even one image fits.
    """
    _peak(run, 1, device)  # gradients and the optimizer's state come to stay: no part of what an image takes
    size, peaks = 1, list[int]()
    while size <= most:
        budget = _free(device) * SHARE / sharing
        if _expected(peaks) > budget:
            break
        peak = _peak(run, size, device)
        if peak is None or peak > budget:
            break
        peaks.append(peak)
        size *= 2
    if not peaks:
        raise OutOfMemoryError(
            "loader.batch_size=auto: not even one image fits into memory; type a smaller pipeline.size"
        )
    return size // 2


def _expected(peaks: list[int]) -> int:
    """The peak of the next size, the double of the last one: memory is a constant and a share for each image."""
    if len(peaks) < 2:
        return 2 * sum(peaks)
    return peaks[-1] + 2 * (peaks[-1] - peaks[-2])


def _peak(run: Callable[[int], None], size: int, device: torch.device) -> int | None:
    """Bytes that a run took at its peak; None where there were not enough."""
    _release(device)
    before = _used(device, peak=False)
    _forget_peak(device)
    try:
        run(size)
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
            return None
        raise
    finally:
        _release(device)
    return _used(device, peak=True) - before


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _free(device: torch.device) -> int:
    """Bytes that may still be used."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _linux("/proc/meminfo", "MemAvailable")


def _used(device: torch.device, *, peak: bool) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) if peak else torch.cuda.memory_reserved(device)
    return _linux("/proc/self/status", "VmHWM" if peak else "VmRSS")


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def can_measure(device: torch.device) -> bool:
    """Whether this system tells how much memory a run took."""
    return device.type == "cuda" or (device.type == "cpu" and os.access("/proc/self/clear_refs", os.W_OK))


def _linux(file: str, field: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{file} has no {field}")
