"""Oracles: the lecture's own numbers (CS231n, Detection and Segmentation), torch's layers, and Long et al.'s formula."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.nn.upsample import (
    UpsampleKind,
    bed_of_nails,
    bilinear_kernel,
    make_upsample,
    max_positions,
    max_unpool,
    nearest,
)

KINDS = get_args(UpsampleKind)
LAYERS = [(kind, 4) for kind in KINDS] + [("transpose_conv", 2), ("transpose_conv", 3), ("transpose_conv", 5)]


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


SMALL = matrix([[1, 2], [3, 4]])
POOLED = matrix([[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])


def test_nearest_repeats_as_in_the_lecture() -> None:
    assert_close(nearest(SMALL, (4, 4)), matrix([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]))


def test_a_bed_of_nails_is_that_of_the_lecture() -> None:
    assert_close(
        bed_of_nails(SMALL, (4, 4)), matrix([[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    )


def test_max_unpooling_is_that_of_the_lecture() -> None:
    values, indices = F.max_pool2d(POOLED, 2, return_indices=True)
    assert_close(values, matrix([[5, 6], [7, 8]]))
    expected = matrix([[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    assert_close(max_unpool(SMALL, indices, (4, 4)), expected)
    assert_close(make_upsample("max_unpool", 1, 1)(SMALL, POOLED), expected)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (7, 8), (6, 9)])
def test_max_unpooling_is_torchs_also_for_odd_sizes(size: tuple[int, int], ceil_mode: bool) -> None:
    like = torch.randn(2, 3, *size)
    values, indices = F.max_pool2d(like, 2, ceil_mode=ceil_mode, return_indices=True)
    expected = F.max_unpool2d(values, indices, 2, output_size=size)
    layer = make_upsample("max_unpool", 3, 3)
    assert_close(layer(values, like), expected)
    assert_close(layer(values, torch.randn(like.shape), indices), expected)  # what was handed over wins


def test_of_equal_maxima_only_the_first_gets_the_value() -> None:
    assert_close(
        make_upsample("max_unpool", 1, 1)(SMALL, torch.zeros(1, 1, 4, 4)), bed_of_nails(SMALL, (4, 4))
    )


def test_maps_of_other_channels_share_the_position_of_the_largest_value_in_any_channel() -> None:
    like = torch.stack([POOLED[0, 0], torch.zeros(4, 4)])[None]
    like[0, 1, 0, 0] = 9  # above the 5 of the first channel
    positions = max_positions(like, torch.zeros(1, 3, 2, 2))
    assert positions.shape == (1, 3, 2, 2)
    assert positions[0, 2].tolist() == [[0, 2], [12, 15]]


def test_positions_are_where_the_map_is_and_no_gradient_reaches_it() -> None:
    x, like = torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(1, 2, 6, 6, requires_grad=True)
    make_upsample("max_unpool", 2, 2)(x, like).sum().backward()
    assert like.grad is None
    assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_resize_convolution_is_nearest_and_then_a_convolution(stride: int) -> None:
    layer = make_upsample("resize_conv", 3, 5, stride=stride).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    size = (4 * stride, 6 * stride)
    expected = layer.convolution(nearest(x, size))
    like = torch.empty(2, 1, *size)
    assert_close(layer(x, like), expected)
    weight = layer.convolution.weight
    (ours,) = torch.autograd.grad(layer(x, like).square().sum(), weight)
    (theirs,) = torch.autograd.grad(expected.square().sum(), weight)
    assert_close(ours, theirs)


@pytest.mark.parametrize(("kernel", "padding", "more"), [(2, 0, 0), (3, 1, 1), (4, 1, 0), (6, 2, 0)])
def test_a_transposed_convolution_is_torchs(kernel: int, padding: int, more: int) -> None:
    layer = make_upsample("transpose_conv", 3, 5, kernel=kernel)
    theirs = nn.ConvTranspose2d(3, 5, kernel, 2, padding, more, bias=False)
    layer.weight.data.normal_()
    theirs.weight.data.copy_(layer.weight)
    x = torch.randn(2, 3, 4, 6)
    assert_close(layer(x, torch.empty(2, 1, 8, 12)), theirs(x))


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8), (32, 16), (64, 32)])
def test_the_kernel_is_the_filter_of_fcn(kernel: int, stride: int) -> None:
    factor = (kernel + 1) // 2  # `upsample_filt` of the authors' surgery.py
    center = factor - 0.5
    rows, columns = np.ogrid[:kernel, :kernel]
    expected = (1 - abs(rows - center) / factor) * (1 - abs(columns - center) / factor)
    assert_close(bilinear_kernel(kernel, stride).double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_transposed_convolution_begins_as_bilinear_interpolation() -> None:
    x = torch.randn(1, 3, 6, 6)
    up = make_upsample("transpose_conv", 3, 3)(x, torch.empty(1, 3, 12, 12))
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    assert_close(up[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@given(kernel=st.integers(2, 9), stride=st.integers(2, 4))
def test_the_first_transposed_convolution_keeps_a_constant(kernel: int, stride: int) -> None:
    if kernel < stride:
        with pytest.raises(ConfigError, match="leaves holes"):
            make_upsample("transpose_conv", 1, 1, kernel=kernel, stride=stride)
        return
    layer = make_upsample("transpose_conv", 1, 1, kernel=kernel, stride=stride)
    up = layer(torch.ones(1, 1, 12, 12), torch.empty(1, 1, 12 * stride, 12 * stride))
    inner = up[..., 9:-9, 9:-9]
    assert_close(inner, torch.ones_like(inner))


@settings(max_examples=60)
@given(st.sampled_from(LAYERS), st.integers(2, 5), st.integers(2, 5), st.integers(-1, 1), st.integers(-1, 1))
def test_every_layer_fits_maps_of_any_size(
    layer: tuple[Any, int], height: int, width: int, below: int, beside: int
) -> None:
    kind, kernel = layer
    like = torch.randn(2, 5, 2 * height + below, 2 * width + beside)
    x = torch.randn(2, 3, height, width)
    up = make_upsample(kind, 3, 5, kernel=kernel)(x, like)
    assert up.shape == like.shape
    assert up.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_size_is_the_even_one_without_its_last_row_and_column(kind: UpsampleKind) -> None:
    layer = make_upsample(kind, 3, 3)
    x, like = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 8, 10)
    if kind == "max_unpool":
        like[..., ::2, ::2] += 100  # where no row or column is cut
    if kind == "bilinear":  # stretches
        return
    assert_close(layer(x, like[..., :7, :9]), layer(x, like)[..., :7, :9])


@pytest.mark.parametrize("channels", [(3, 3), (3, 5)])
@pytest.mark.parametrize(("kind", "kernel"), LAYERS)
def test_gradients_are_those_of_finite_differences(
    kind: UpsampleKind, kernel: int, channels: tuple[int, int]
) -> None:
    layer = make_upsample(kind, *channels, kernel=kernel).double()
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    like = torch.randn(2, channels[1], 5, 6, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, like))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


@pytest.mark.parametrize(("kind", "kernel"), LAYERS)
def test_maps_stay_channels_last_and_in_bf16(kind: UpsampleKind, kernel: int) -> None:
    layer = make_upsample(kind, 6, 4, kernel=kernel).to(memory_format=torch.channels_last)
    x = torch.randn(2, 6, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    like = torch.randn(2, 4, 8, 10, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        up = layer(x, like)
    assert up.dtype == torch.bfloat16
    assert up.is_contiguous(memory_format=torch.channels_last)
    assert_close(up.float(), layer(x, like.float()), atol=0.05, rtol=0.05)
    up.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_every_layer_with_weights_keeps_the_variance_of_its_channels(kind: UpsampleKind) -> None:
    torch.manual_seed(0)
    layer = make_upsample(kind, 64, 32)
    x = (
        torch.randn(4, 64, 1, 1).expand(-1, -1, 6, 6).contiguous()
    )  # flat maps: interpolation leaves them alone
    up = layer(x, torch.rand(4, 32, 12, 12))
    values = up[up != 0] if kind in ("bed_of_nails", "max_unpool") else up[..., 4:-4, 4:-4]
    assert 0.6 < values.std() < 1.6
