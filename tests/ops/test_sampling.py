"""Oracle: the numbers that the papers ask for, counted by hand for each image."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.ops.sampling import sample


@settings(max_examples=60)
@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0, 0.25, 0.5, 1]),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_samples_are_valid_distinct_and_as_many_as_there_can_be(
    seed: int, size: int, count: int, fraction: float, share: float, rest: float
) -> None:
    torch.manual_seed(seed)
    kind = torch.rand(3, size)
    positive, negative = kind < share, (kind >= share) & (torch.rand(3, size) < rest)
    index, drawn = sample(positive, negative, count=count, positive_fraction=fraction)
    assert index.shape == drawn.shape == (3, min(count, size))
    for image in range(3):
        chosen = index[image][drawn[image]]
        positives = positive[image][chosen].sum().item()
        negatives = negative[image][chosen].sum().item()
        assert len(set(chosen.tolist())) == len(chosen) == positives + negatives
        assert positives == min(int(count * fraction), positive[image].sum().item())
        assert negatives == min(count - positives, negative[image].sum().item())


def test_positives_come_first() -> None:
    torch.manual_seed(0)
    positive = torch.rand(2, 50) < 0.3
    index, drawn = sample(positive, ~positive, count=20, positive_fraction=0.5)
    flags = positive.gather(1, index).int()
    assert drawn.all()
    assert (flags.diff(dim=1) <= 0).all()


def test_each_candidate_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    positive = torch.arange(12).expand(4000, -1) < 6
    index, _ = sample(positive, ~positive, count=4, positive_fraction=0.5)
    # 2 of 6 positives and 2 of 6 negatives in each of 4,000 draws: 1,333 each, standard deviation 30.
    counts = torch.bincount(index.flatten(), minlength=12)
    assert (counts - 1333).abs().max() < 150


def test_the_generator_of_torch_decides() -> None:
    positive = torch.rand(2, 50) < 0.3
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sample(positive, ~positive, count=10, positive_fraction=0.5)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
