"""The up-sampling layers of the lecture: six small modules with one contract.

nearest         each value repeated
bed_of_nails    each value at the top left of its window, zeros elsewhere
max_unpool      each value where the encoder's map had the maximum of the window (Noh et al., ICCV 2015)
bilinear        interpolated between the four nearest values
transpose_conv  a learnt kernel, scaled by each value and summed where copies overlap; begins as bilinear
                (Long et al., CVPR 2015), and shows a checkerboard where copies overlap unevenly
resize_conv     nearest, then a 3x3 convolution, which cannot (Odena et al., Distill 2016)

`layer(x, like)` takes x [B, inputs, h, w] to [B, outputs, H, W], H and W being those of `like` [B, C, H, W]: `stride` times
h and w, or less than a stride more or less, as maps of odd sizes ask for. No layer has a bias: the convolution behind
it has one, and a bias's gradient took 13 of a transposed convolution's 20 ms on a CPU in bf16.

    cvtasks study upsampling
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError

UpsampleKind: TypeAlias = Literal[
    "nearest", "bed_of_nails", "max_unpool", "bilinear", "transpose_conv", "resize_conv"
]
Size: TypeAlias = tuple[int, int]
"""Height and width"""


def make_upsample(
    kind: UpsampleKind, inputs: int, outputs: int, *, kernel: int = 4, stride: int = 2
) -> nn.Module:
    """The layer of a kind, from `inputs` to `outputs` channels.

    kernel: of transpose_conv, at least the stride; a multiple of it overlaps evenly. The other kinds have none.
    Raises ConfigError for a kernel that leaves holes.
    """
    if kind == "transpose_conv":
        return TransposedConvolution(inputs, outputs, kernel=kernel, stride=stride)
    layers = {
        "nearest": Nearest,
        "bed_of_nails": BedOfNails,
        "max_unpool": MaxUnpool,
        "bilinear": Bilinear,
        "resize_conv": ResizeConvolution,
    }
    return layers[kind](inputs, outputs, stride=stride)


class _Layer(nn.Module):
    """What kinds without a kernel share: a 1x1 convolution where channels change. It goes first, on the smaller map."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels = nn.Identity() if inputs == outputs else _convolution(inputs, outputs, 1)


class Nearest(_Layer):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return nearest(self.channels(x), _size(x, like, self.stride))


class BedOfNails(_Layer):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return bed_of_nails(self.channels(x), _size(x, like, self.stride), stride=self.stride)


class MaxUnpool(_Layer):
    def forward(self, x: Tensor, like: Tensor, indices: Tensor | None = None) -> Tensor:
        """`indices` [B, outputs, h, w], where the encoder's max pooling kept them; else `like` is pooled again."""
        x, size = self.channels(x), _size(x, like, self.stride)
        if indices is None:
            indices = max_positions(like, x, stride=self.stride)
        return max_unpool(x, indices, size)


class Bilinear(_Layer):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return bilinear(self.channels(x), _size(x, like, self.stride))


class ResizeConvolution(nn.Module):
    """Computed on the small map, as the transposed convolution that it equals: 35 ms for 104 on a CPU in bf16."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = _convolution(inputs, outputs, 3)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        # A value becomes a square of equal ones, and each of them a flipped kernel: the sum of its shifted copies.
        copies = F.pad(self.convolution.weight.flip(2, 3), [self.stride - 1] * 4)
        kernel = F.avg_pool2d(copies, self.stride, stride=1, divisor_override=1).transpose(0, 1)
        size = _size(x, like, self.stride)
        return transposed_convolution(x, kernel, size, stride=self.stride, padding=1)


class TransposedConvolution(nn.Module):
    """Begins as a 1x1 convolution (none, if channels stay as many) followed by bilinear up-sampling."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        if kernel < stride:
            raise ConfigError(
                f"a transposed convolution of stride {stride} with a kernel of {kernel} leaves holes; "
                f"give it a kernel of {stride} or more"
            )
        self.stride, self.padding = stride, (kernel - stride + 1) // 2
        channels = torch.eye(inputs)
        if inputs != outputs:
            channels = _convolution(inputs, outputs, 1).weight.detach()[:, :, 0, 0].T
        self.weight = nn.Parameter(channels[:, :, None, None] * bilinear_kernel(kernel, stride))

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        size = _size(x, like, self.stride)
        return transposed_convolution(x, self.weight, size, stride=self.stride, padding=self.padding)


def transposed_convolution(x: Tensor, weight: Tensor, size: Size, *, stride: int, padding: int) -> Tensor:
    """[B, inputs, h, w] by a weight [inputs, outputs, k, k] -> [B, outputs, *size], cut or filled at its end."""
    covered = [stride * (n - 1) - 2 * padding + weight.shape[-1] for n in x.shape[-2:]]
    # torch itself adds less than a stride.
    more = [min(max(0, s - c), stride - 1) for s, c in zip(size, covered, strict=True)]
    y = F.conv_transpose2d(x, weight, None, stride, padding, more)[..., : size[0], : size[1]]
    lacking = (0, size[1] - y.shape[-1], 0, size[0] - y.shape[-2])
    return F.pad(y, lacking) if any(lacking) else y


def nearest(x: Tensor, size: Size) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]"""
    return F.interpolate(x, size=size, mode="nearest")


def bilinear(x: Tensor, size: Size) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], pixel centres at +0.5"""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def bed_of_nails(x: Tensor, size: Size, *, stride: int = 2) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]: the value at the top left of each window of `stride`, zeros elsewhere."""
    height, width = x.shape[-2:]
    nails = _zeros(x, size)
    nails[..., : stride * height : stride, : stride * width : stride] = x
    return nails


def max_unpool(x: Tensor, indices: Tensor, size: Size) -> Tensor:
    """[B, C, h, w] -> [B, C, *size]: each value at its position, zeros elsewhere.

    indices: int64 [B, C, h, w], row x width + column in the output, as `F.max_pool2d(..., return_indices=True)` gives them.
    """
    # Not F.max_unpool2d, which torch counts as nondeterministic on a GPU. Channels last, as the maps lie in memory.
    batch, channels, height, width = x.shape
    rows = (batch, height * width, channels)
    flat = _zeros(x, size).permute(0, 2, 3, 1).reshape(batch, -1, channels)
    flat.scatter_(1, indices.permute(0, 2, 3, 1).reshape(rows), x.permute(0, 2, 3, 1).reshape(rows))
    return flat.view(batch, *size, channels).permute(0, 3, 1, 2)


def max_positions(like: Tensor, x: Tensor, *, stride: int = 2) -> Tensor:
    """Where `like` [B, C, H, W] has the maximum of each window, for `max_unpool` of x [B, C', h, w]: int64 [B, C', h, w].

    Each channel has its own where C = C'. Else all share that of the window's largest value in any channel.
    """
    like = like.detach()
    if like.shape[1] != x.shape[1]:
        like = like.amax(1, keepdim=True)
    # In ceil mode an odd last row has windows of its own; where x has none for it, they are dropped.
    indices = F.max_pool2d(like, stride, stride, ceil_mode=True, return_indices=True)[1]
    return indices[..., : x.shape[-2], : x.shape[-1]].expand(x.shape)


def bilinear_kernel(kernel: int, stride: int) -> Tensor:
    """The weights [kernel, kernel] with which a transposed convolution interpolates; a constant stays one.

    They are a tent that falls to 0 at a distance of `stride`; a smaller kernel holds the middle of it.
    """
    taps = torch.arange(kernel)
    tent = (1 - (taps - (kernel - 1) / 2).abs() / stride).clamp(min=0)
    phase = taps % stride  # taps of one phase meet in the same outputs
    tent /= torch.zeros(stride).index_add(0, phase, tent)[phase]
    return tent[:, None] * tent


def _convolution(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    """Keeps the map's size, and at first its variance."""
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    return convolution


def _size(x: Tensor, like: Tensor, stride: int) -> Size:
    height, width = like.shape[-2:]
    for low, high in zip(x.shape[-2:], (height, width), strict=True):
        assert stride * (low - 1) < high < stride * (low + 1), f"{low} pixels times {stride} are not {high}"
    return height, width


def _zeros(x: Tensor, size: Size) -> Tensor:
    """[B, C, *size], channels last."""
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last).zero_()
