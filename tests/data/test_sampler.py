"""The stream of positions: a pure function that can be entered anywhere and divided among processes."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.data.sampler import evaluation_batches, permutation, stream_seed, training_batches

FEW = settings(max_examples=50)
lengths, sizes, seeds = st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31)


def take(count, length, **kw):
    return list(itertools.islice(training_batches(length, **kw), count))


@FEW
@given(length=lengths, batch_size=sizes, seed=seeds)
def test_every_epoch_holds_every_image_once_and_no_batch_is_short(length, batch_size, seed):
    batches = take(3 * length, length, batch_size=batch_size, seed=seed)
    assert {len(batch) for batch in batches} == {batch_size}
    stream = list(itertools.chain(*batches))
    for epoch in range(len(stream) // length):
        part = stream[epoch * length : (epoch + 1) * length]
        assert {e for e, _ in part} == {epoch}
        assert sorted(index for _, index in part) == list(range(length))


@FEW
@given(length=lengths, batch_size=sizes, seed=seeds, first=st.integers(0, 40))
def test_the_stream_from_batch_n_is_the_tail_of_the_whole_stream(length, batch_size, seed, first):
    whole = take(first + 5, length, batch_size=batch_size, seed=seed)
    assert take(5, length, batch_size=batch_size, seed=seed, first_batch=first) == whole[first:]


@FEW
@given(length=lengths, batch_size=sizes, seed=seeds, world=st.integers(1, 4), first=st.integers(0, 9))
def test_the_processes_batches_together_are_one_processs_batch(length, batch_size, seed, world, first):
    whole = take(4, length, batch_size=batch_size * world, seed=seed, first_batch=first)
    parts = [
        take(4, length, batch_size=batch_size, seed=seed, first_batch=first, rank=rank, world=world)
        for rank in range(world)
    ]
    assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == whole


def test_order_depends_on_seed_and_epoch():
    orders = [permutation(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(50, seed=1, epoch=1) == orders[3]


def test_seeds_of_neighbours_differ_in_about_half_of_their_bits():
    # Also (1, 0) and (0, 1), which a plain sum or xor of the numbers would confuse.
    found = {
        stream_seed("augment", seed, epoch, i) for seed in range(5) for epoch in range(5) for i in range(40)
    }
    assert len(found) == 1000
    assert all(0 <= seed < 2**63 for seed in found)
    near = [(stream_seed(0, i) ^ stream_seed(0, i + 1)).bit_count() for i in range(200)]
    assert 28 < sum(near) / len(near) < 35


@FEW
@given(length=st.integers(0, 40), batch_size=sizes, world=st.integers(1, 5))
def test_evaluation_sees_every_image_once_in_order_however_many_processes(length, batch_size, world):
    whole = evaluation_batches(length, batch_size=batch_size)
    assert [index for batch in whole for _, index in batch] == list(range(length))
    assert {len(batch) for batch in whole[:-1]} <= {batch_size}
    parts = [evaluation_batches(length, batch_size=batch_size, rank=r, world=world) for r in range(world)]
    assert list(itertools.chain(*parts)) == whole


@FEW
@given(length=st.integers(0, 40), batch_size=sizes, world=st.integers(1, 5))
def test_processes_that_take_turns_have_every_batch_in_its_place(length, batch_size, world):
    whole = evaluation_batches(length, batch_size=batch_size)
    options = {"batch_size": batch_size, "world": world, "in_turns": True}
    turns = [evaluation_batches(length, rank=r, **options) for r in range(world)]
    rounds = itertools.zip_longest(*turns)
    assert [batch for each in rounds for batch in each if batch is not None] == whole
