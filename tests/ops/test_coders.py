"""Oracle: torchvision's BoxCoder, and decode as the inverse of encode."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from cvtasks.ops.coders import decode, encode


def boxes(seed: int, n: int = 20) -> torch.Tensor:
    corner, size = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed)) * 100 + 5
    return torch.cat([corner, corner + size], -1)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([None, (10.0, 10.0, 5.0, 5.0)]))
def test_decoding_what_was_encoded_gives_the_box_again(seed: int, weights: tuple[float, ...] | None) -> None:
    factors = None if weights is None else torch.tensor(weights)
    target, reference = boxes(seed), boxes(seed + 1)
    assert_close(decode(encode(target, reference, factors), reference, factors), target, rtol=1e-4, atol=1e-3)


def test_offsets_and_boxes_are_torchvisions() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    target, reference, theirs = boxes(0), boxes(1), BoxCoder(weights)
    offsets = encode(target, reference, torch.tensor(weights))
    assert_close(offsets, theirs.encode_single(target, reference))
    wild = torch.randn(20, 4, generator=torch.Generator().manual_seed(2)) * 30
    assert_close(decode(wild, reference, torch.tensor(weights)), theirs.decode_single(wild, reference))


def test_a_wild_offset_grows_a_box_by_a_bounded_factor() -> None:
    huge = decode(torch.tensor([0.0, 0, 1e6, 1e6]), torch.tensor([0.0, 0, 16, 16]))
    assert math.isclose((huge[2] - huge[0]).item(), 1000, rel_tol=1e-4)


def test_an_empty_box_of_the_padding_has_finite_offsets() -> None:
    empty = torch.zeros(1, 4)
    assert encode(empty, boxes(0, 1)).isfinite().all()
    assert encode(boxes(0, 1), empty).isfinite().all()
