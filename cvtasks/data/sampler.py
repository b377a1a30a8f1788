"""Which image comes when: a pure function of the seed, so that a stream can be entered anywhere.

Position p of the infinite stream is image `permutation(seed, epoch)[p % length]` of epoch `p // length`, and
batch k holds positions k B to k B + B - 1. No batch is short and no image is left out; an epoch may end
within a batch.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import TypeAlias

import torch

Position: TypeAlias = tuple[int, int]
"""(epoch, index of the image in the reader)"""


def stream_seed(*parts: int | str) -> int:
    """A seed of 63 bits from any numbers and words: those of neighbouring images have nothing in common."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def permutation(length: int, *, seed: int, epoch: int) -> list[int]:
    """The order of one epoch."""
    generator = torch.Generator().manual_seed(stream_seed("order", seed, epoch))
    return torch.randperm(length, generator=generator).tolist()


def training_batches(
    length: int, *, batch_size: int, seed: int, first_batch: int = 0, rank: int = 0, world: int = 1
) -> Iterator[list[Position]]:
    """Batch `first_batch`, `first_batch` + 1, … without end, of a data set of `length` images.

    Of `world` processes each gets its own `batch_size` positions of a batch of world x batch_size.
    """
    assert length > 0
    assert 0 <= rank < world
    current, order = -1, list[int]()
    for batch in itertools.count(first_batch):
        start = (batch * world + rank) * batch_size
        positions = []
        for position in range(start, start + batch_size):
            epoch, offset = divmod(position, length)
            if epoch != current:
                current, order = epoch, permutation(length, seed=seed, epoch=epoch)
            positions.append((epoch, order[offset]))
        yield positions


def evaluation_batches(
    length: int, *, batch_size: int, rank: int = 0, world: int = 1, in_turns: bool = False
) -> list[list[Position]]:
    """Every image once, in order, the last batch short.

    Processes get whole batches of the one list, consecutive ones each: the same batches as one process sees,
    and their states, merged by rank, are in its order. in_turns: each gets every world-th batch in their place.
    """
    assert 0 <= rank < world
    batches = [
        [(0, index) for index in range(start, min(start + batch_size, length))]
        for start in range(0, length, batch_size)
    ]
    if in_turns:
        return batches[rank::world]
    return batches[len(batches) * rank // world : len(batches) * (rank + 1) // world]
