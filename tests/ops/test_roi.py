"""Oracle: torchvision.ops.MultiScaleRoIAlign, roi_pool and its position-sensitive forms, values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision import ops
from torchvision.ops import MultiScaleRoIAlign

from cvtasks.ops.roi import choose_level, ps_roi_align, ps_roi_pool, roi_align, roi_pool

SIZE, STRIDES = 128, (4, 8, 16, 32)


def pyramid(dtype: torch.dtype = torch.float32, *, channels: int = 6, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, SIZE // s, (SIZE + 32) // s) for s in STRIDES]
    return [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]


def regions() -> Tensor:
    """[2, 44, 4] of all sizes, also empty ones, and some that leave the image on every side."""
    center, log_size = torch.rand(2, 2, 40, 2, generator=torch.Generator().manual_seed(1))
    center, size = center * SIZE, torch.exp(log_size * 6.5)
    odd = torch.tensor([[0.0, 0, 0, 0], [-90, -50, 300, 400], [120, 120, 160, 128], [-20, 5, -10, 9]])
    return torch.cat([torch.cat([center - size / 2, center + size / 2], -1), odd.expand(2, 4, 4)], 1)


def test_a_region_as_large_as_imagenets_crop_is_read_from_stride_16() -> None:
    sides = torch.tensor([20.0, 111, 113, 223, 224, 447, 449, 5000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert choose_level(boxes, STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert choose_level(boxes, (16,)).tolist() == [0] * 8
    assert choose_level(torch.zeros(1, 4), STRIDES).tolist() == [0]


def test_of_two_levels_with_one_stride_the_first_is_read_as_in_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 6, SIZE // 32, (SIZE + 32) // 32, generator=generator) for _ in range(2)]
    boxes = torch.cat([regions(), torch.tensor([-900.0, -900, 900, 900]).expand(2, 1, 4)], 1)
    pooler = MultiScaleRoIAlign(["0", "1"], 7, 2)
    theirs = pooler({"0": maps[0], "1": maps[1]}, list(boxes), [(SIZE, SIZE + 32)] * 2)
    assert_close(roi_align(maps, (32, 32), boxes, bins=7), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3, 0])
@pytest.mark.parametrize("levels", [4, 1])
def test_values_and_gradients_are_torchvisions(sampling_ratio: int, levels: int) -> None:
    maps, boxes = pyramid()[:levels], regions()
    pooler = MultiScaleRoIAlign([str(i) for i in range(levels)], 7, sampling_ratio)
    theirs = pooler({str(i): m for i, m in enumerate(maps)}, list(boxes), [(SIZE, SIZE + 32)] * 2)
    ours = roi_align(maps, STRIDES[:levels], boxes, bins=7, sampling_ratio=sampling_ratio)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad(theirs, maps, gradient)
    for got, want in zip(torch.autograd.grad(ours, maps, gradient), expected, strict=True):
        assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences() -> None:
    maps = [m.detach().double().requires_grad_() for m in pyramid(channels=2)[2:]]
    boxes = regions()[:, ::8]
    torch.autograd.gradcheck(
        lambda *m: roi_align(m, (16, 32), boxes, bins=2), maps, fast_mode=True, atol=1e-4
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_two_runs_give_the_same_bits(device: str) -> None:
    maps, boxes = pyramid(device=device), regions().to(device)
    runs = []
    for _ in range(2):
        pooled = roi_align(maps, STRIDES, boxes, bins=7)
        runs.append((pooled, *torch.autograd.grad(pooled.square().sum(), maps)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_map_of_more_positions_than_a_float_counts_exactly_is_read_and_taught_at_the_right_ones() -> None:
    side = 4200  # 17.6 million positions; a float32 counts to 16.8 million
    features = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # Sampling points are whole quarters, which a float32 holds exactly this far out, too.
    boxes = torch.tensor([[[side - 40.0, side - 33.5, side - 8, side - 2.5], [1, 1, 33, 17]]])
    results = []
    for pooled in (
        roi_align([features], [1], boxes, bins=2),
        ops.roi_align(features, [boxes[0]], 2, 1.0, sampling_ratio=2),
    ):
        (gradient,) = torch.autograd.grad(pooled.square().sum(), [features])
        results.append([pooled, gradient[..., -50:, -50:], gradient.abs().sum()])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bf16_maps_lose_no_more_than_their_own_precision() -> None:
    # Sums are taken in float32: as much is lost over the 16 taps of a bin as in rounding once or twice.
    maps, boxes = pyramid(torch.bfloat16, channels=64), regions()
    exact = [m.detach().float().requires_grad_() for m in maps]
    ours, reference = (roi_align(m, STRIDES, boxes, bins=7) for m in (maps, exact))
    assert ours.dtype == torch.bfloat16
    assert (ours - reference).abs().max() < 0.02 * reference.abs().max()
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    ours.backward(gradient.bfloat16())
    reference.backward(gradient)
    for m, e in zip(maps, exact, strict=True):
        assert m.grad is not None
        assert e.grad is not None
        assert (m.grad - e.grad).norm() < 0.01 * e.grad.norm()


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_a_box_that_is_not_a_number_does_no_harm_to_the_others(sampling_ratio: int) -> None:
    maps, boxes = pyramid(), regions()
    broken = boxes.clone()
    broken[0, 0] = torch.nan
    pooled, expected = (
        roi_align(maps, STRIDES, b, bins=3, sampling_ratio=sampling_ratio) for b in (broken, boxes)
    )
    assert torch.equal(pooled[1:], expected[1:])


def test_roi_pooling_is_torchvisions() -> None:
    features, boxes = pyramid()[2], regions()
    image = torch.arange(2.0).repeat_interleave(boxes.shape[1])[:, None]
    expected = ops.roi_pool(features, torch.cat([image, boxes.flatten(0, 1)], 1), 7, 1 / 16)
    assert_close(roi_pool(features, 16, boxes, bins=7), expected)


@pytest.mark.parametrize("stride", [16, 4])
def test_values_of_position_sensitive_pooling_are_torchvisions(stride: int) -> None:
    features, boxes = pyramid(channels=5 * 9)[STRIDES.index(stride)], regions()
    image = torch.arange(2.0).repeat_interleave(boxes.shape[1])[:, None]
    rows = torch.cat([image, boxes.flatten(0, 1)], 1)
    expected = ops.ps_roi_align(features, rows, 3, 1 / stride, sampling_ratio=2)
    assert_close(ps_roi_align(features, stride, boxes, bins=3).flatten(0, 1), expected)
    expected = ops.ps_roi_pool(features, rows, 3, 1 / stride)
    found = ps_roi_pool(features, stride, boxes, bins=3).flatten(0, 1)
    # Theirs leaves out the last row and column of the map.
    last = torch.tensor([SIZE + 32.0, SIZE]) - 1.5 * stride
    within = (torch.maximum(rows[:, 3:], rows[:, 1:3] + stride) < last).all(1)
    assert within.sum() > 20
    assert_close(found[within], expected[within], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [ps_roi_pool, ps_roi_align])
def test_the_gradient_of_position_sensitive_pooling_is_that_of_finite_differences(pool: Any) -> None:
    # Pooling is linear, so one large step is exact; torchvision's own ps_roi_pool fails this.
    maps, boxes = pyramid(channels=2 * 9)[2], regions()
    direction = torch.randn(maps.shape, generator=torch.Generator().manual_seed(3))
    factors = torch.randn(2, 44, 2, 3, 3, generator=torch.Generator().manual_seed(4))

    def total(x: Tensor) -> Tensor:
        return (pool(x, 16, boxes, bins=3).double() * factors).sum()

    (gradient,) = torch.autograd.grad(total(maps), [maps])
    with torch.no_grad():
        difference = total(maps + direction) - total(maps)
    assert_close((gradient * direction).sum().double(), difference, rtol=1e-4, atol=1e-3)


def test_a_region_at_the_maps_end_reads_its_last_row_and_column() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    whole = torch.tensor([[[0.0, 0, 4, 4], [3, 3, 4, 4], [2, 0, 9, 1]]])
    assert ps_roi_pool(maps, 1, whole, bins=1).flatten().tolist() == [7.5, 15, 2.5]


def test_each_bin_reads_its_own_map_and_takes_the_mean_of_its_part() -> None:
    # Two results of 2 x 2 bins: eight maps, whose number is their value, plus a hundredth of the column.
    maps = torch.arange(8.0)[None, :, None, None] + torch.arange(8.0) / 100
    maps = maps.expand(1, 8, 8, 8).contiguous()
    box = torch.tensor([[[32.0, 16, 96, 80]]])  # columns 2 to 5 and rows 1 to 4 of a stride-16 map
    found = ps_roi_pool(maps, 16, box, bins=2)
    left, right = 0.025, 0.045
    assert_close(
        found[0, 0],
        torch.tensor(
            [[[0 + left, 1 + right], [2 + left, 3 + right]], [[4 + left, 5 + right], [6 + left, 7 + right]]]
        ),
    )


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_values_and_gradients() -> None:
    results = []
    for device in ("cpu", "cuda"):
        maps = pyramid(device=device)
        pooled = roi_align(maps, STRIDES, regions().to(device), bins=7)
        results.append([t.cpu() for t in (pooled, *torch.autograd.grad(pooled.square().sum(), maps))])
    for here, there in zip(*results, strict=True):
        assert_close(there, here, rtol=1e-4, atol=1e-3)
