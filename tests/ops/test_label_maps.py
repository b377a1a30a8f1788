"""Oracle: `F.interpolate` of the whole, and argmax."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cvtasks.ops import label_maps
from cvtasks.ops.label_maps import label_map


def interpolated(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear")[0]


@pytest.fixture(params=[2**24, 100], ids=["at_once", "in_strips"])
def strip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_maps, "STRIP", request.param)


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(20, 24), (41, 37), (9, 50), (7, 5)])
def test_logits_of_the_input_are_cut_to_the_image_and_resized_to_its_file(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    logits = torch.randn(1, 5, 24, 32, dtype=torch.float64).contiguous(memory_format=layout)[0]
    expected = interpolated(logits[:, :20, :24], size).argmax(0)
    found = label_map(logits, input_size=(24, 32), valid=(20, 24), size=size)
    assert found.dtype == torch.uint8
    # Another order of sums: a pixel between two classes may fall on either side.
    assert (found != expected).sum() <= 1


@pytest.mark.usefixtures("strip")
def test_coarse_logits_are_resized_to_the_input_and_its_image_is_cut_out() -> None:
    logits = torch.randn(5, 6, 8)
    expected = interpolated(logits, (24, 32))[:, :20, :24].argmax(0)
    found = label_map(logits, input_size=(24, 32), valid=(20, 24), size=(20, 24))
    assert (found != expected).sum() <= 1


def test_a_file_three_times_as_large_does_not_shift_the_labels() -> None:
    # Pixel centres: a border between two columns of the input is a border between two columns of the file.
    logits = torch.zeros(2, 4, 4)
    logits[0, :, :2] = logits[1, :, 2:] = 1.0
    found = label_map(logits, input_size=(4, 4), valid=(4, 4), size=(12, 12))
    assert torch.equal(found, (torch.arange(12) >= 6).byte().expand(12, 12))


def test_no_more_than_a_strip_is_ever_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_maps, "STRIP", 5 * 64 * 3)
    largest = 0
    lerp = torch.lerp

    def measured(a: Tensor, b: Tensor, step: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, a.numel())
        return lerp(a, b, step)

    monkeypatch.setattr(torch, "lerp", measured)
    label_map(torch.randn(5, 16, 16), input_size=(16, 16), valid=(16, 16), size=(64, 64))
    assert 0 < largest <= 5 * 64 * 3
