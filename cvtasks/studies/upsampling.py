"""The lecture's page on up-sampling: convolutions as matrices, and who draws a checkerboard.

A convolution is the product with a matrix whose rows hold the shifted kernel; a transposed convolution is the product with
that matrix transposed. Where its stride does not divide its kernel, outputs receive unequally many contributions, and
a constant comes out as a checkerboard (Odena et al., Distill 2016).

    cvtasks study upsampling
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.engine.seeding import derive
from cvtasks.errors import ConfigError
from cvtasks.nn.upsample import UpsampleKind, make_upsample
from cvtasks.studies.findings import Findings
from cvtasks.studies.parts import StudyRun
from cvtasks.studies.pictures import figure

T = TypeVar("T")
LONGEST = 8
"""Numbers of a kernel or a signal that letters stand for"""
WINDOWS = 96
"""Height and width of the constant input: max-unpooling at random positions is even but for chance, 1 / WINDOWS"""
DRAWS = 16
"""Random kernels that a measure is the mean of"""
SHOWN = 12
"""Pixels of the response in the picture"""
LEGEND = """\
above: layers without weights, and learnt ones with all weights equal
below: learnt layers with random weights
A transposed convolution (its kernel behind its name) is even if the
stride divides the kernel and all weights are equal."""
EVEN, UNEVEN = "#222222", "#b34700"


def upsampling(
    *,
    run: StudyRun,
    kernel: Sequence[float] = (1, 2, 3),
    signal: Sequence[float] = (1, 2, 3, 4),
    strides: Sequence[Annotated[int, Range(min=2, max=8)]] = (2, 3),
    kernels: Sequence[Annotated[int, Range(min=2, max=16)]] = (2, 3, 4, 5, 6),
) -> Findings:
    """kernel, signal: of the matrices. strides, kernels: of the layers; kernels are the transposed convolutions'.

    Raises ConfigError for a kernel or a signal without letters, and where there is no stride.
    """
    for name, numbers in (("kernel", kernel), ("signal", signal)):
        if not 2 <= len(numbers) <= LONGEST:
            raise ConfigError(f"study.{name}: expected 2 to {LONGEST} numbers, not {len(numbers)}")
    if not strides:
        raise ConfigError("study.strides: expected one at least")
    responses = [
        response for stride in sorted(set(strides)) for response in _responses(stride, kernels, run.seed)
    ]
    forms = [matrix_form(kernel, signal, stride=stride) for stride in (1, 2)]
    return Findings(
        "Up-sampling",
        {"Checkerboard": [response.row() for response in responses]},
        draw=lambda path: draw(responses, path),
        text="\n\n".join(["## As matrices", *forms, MEASURED]),
    )


MEASURED = """\
The checkerboard measure below is the response to a constant input, its mean at each phase (the outputs at the same place
in their window): the largest less the smallest of them, over their mean. 0 is none. A learnt layer is measured with all
weights equal, as it begins, and with random weights (uniform in 0..1, the mean of several draws): whatever it
learns, `resize_conv` draws none, and `transpose_conv` has to learn not to. `max_unpool` is given random positions; what is
left of its measure is chance."""


def convolution_matrix(kernel: Sequence[T], size: int, *, stride: int, zero: T) -> list[list[T]]:
    """[outputs, size]: its product with a padded signal [size] is the convolution with the kernel."""
    rows = range((size - len(kernel)) // stride + 1)
    behind = [size - len(kernel) - row * stride for row in rows]
    return [
        [zero] * (row * stride) + list(kernel) + [zero] * more for row, more in zip(rows, behind, strict=True)
    ]


def product(matrix: Sequence[Sequence[str]], vector: Sequence[str]) -> list[str]:
    """The product in letters, `ax + by`; "0" is nothing."""
    terms = ([v + m for m, v in zip(row, vector, strict=True) if "0" not in (m, v)] for row in matrix)
    return [" + ".join(found) or "0" for found in terms]


def transposed(matrix: Sequence[Sequence[T]]) -> list[list[T]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def matrix_form(kernel: Sequence[float], signal: Sequence[float], *, stride: int) -> str:
    """Markdown: a convolution and its transpose in letters and in numbers. It is checked against torch's layers."""
    taps, padding = len(kernel), (len(kernel) - 1) // 2
    letters = list("stuvwxyz"[-taps:])
    names = list("abcdefgh"[: len(signal)])
    size = len(signal) + 2 * padding
    pads = [0.0] * padding
    symbols = convolution_matrix(letters, size, stride=stride, zero="0")
    numbers = convolution_matrix(list(kernel), size, stride=stride, zero=0.0)
    if not numbers:
        raise ConfigError(f"study.kernel: {taps} numbers are too many for a signal of {len(signal)}")
    weight = torch.tensor([[list(kernel)]], dtype=torch.float64)

    padded = [*pads, *signal, *pads]
    convolved = F.conv1d(_row(signal), weight, stride=stride, padding=padding)
    zeros = ["0"] * padding
    forward = _equation(symbols, [*zeros, *names, *zeros], numbers, padded, convolved)

    few = list(signal[: len(numbers)])
    more = size - (len(few) - 1) * stride - taps
    spread = F.conv_transpose1d(_row(few), weight, stride=stride, output_padding=more)
    backward = _equation(transposed(symbols), names[: len(few)], transposed(numbers), few, spread)
    return (
        f"Convolution, stride {stride}, padding {padding}: the matrix times the padded signal. "
        f"torch's `conv1d` gives the same.\n\n{forward}\n\n"
        f"Its transpose, stride {stride}. torch's `conv_transpose1d` gives the same.\n\n{backward}"
    )


def _row(signal: Sequence[float]) -> Tensor:
    return torch.tensor([[list(signal)]], dtype=torch.float64)


def _equation(
    symbols: Sequence[Sequence[str]],
    names: Sequence[str],
    numbers: Sequence[Sequence[float]],
    values: Sequence[float],
    layer: Tensor,
) -> str:
    """The product twice, side by side, as a block of Markdown's fixed width."""
    computed = torch.tensor(numbers, dtype=torch.float64) @ _row(values)[0, 0]
    torch.testing.assert_close(computed, layer[0, 0])
    shown = [[f"{v:g}" for v in row] for row in numbers]
    blocks = [
        _block(symbols), _block([[n] for n in names]), ["="], _block([[p] for p in product(symbols, names)], left=True),
        [""], _block(shown), _block([[f"{v:g}"] for v in values]), ["="], _block([[f"{v:g}"] for v in computed.tolist()]),
    ]  # fmt: skip
    height = max(map(len, blocks))
    lines = []
    for i in range(height):
        words = []
        for block in blocks:
            row = i - (height - len(block)) // 2
            words.append(block[row] if 0 <= row < len(block) else " " * len(block[0]))
        lines.append("   ".join(words).rstrip())
    return "```text\n" + "\n".join(lines) + "\n```"


def _block(rows: Sequence[Sequence[str]], *, left: bool = False) -> list[str]:
    width = max(len(word) for row in rows for word in row)
    return [" ".join(word.ljust(width) if left else word.rjust(width) for word in row) for row in rows]


def phase_means(response: Tensor, stride: int) -> Tensor:
    """The mean of a response [..., H, W] at each phase: [..., stride, stride]. H and W are whole windows."""
    windows = response.unflatten(-1, (-1, stride)).unflatten(-3, (-1, stride))
    return windows.mean(dim=(-4, -2))


def checkerboard(response: Tensor, stride: int) -> Tensor:
    """The spread of the mean response to a constant at each phase, over their mean: [..., H, W] -> [...]; 0 is none."""
    means = phase_means(response, stride).flatten(-2)
    return (means.amax(-1) - means.amin(-1)) / means.mean(-1).abs()


@dataclass(frozen=True)
class Response:
    """What a layer makes of a constant."""

    kind: UpsampleKind
    kernel: int | None
    stride: int
    maps: dict[str, Tensor]
    """[channels, H, W] with each kind of weights: "equal", "initial", "random"; "none" for a layer without any"""

    @property
    def measures(self) -> dict[str, float]:
        found = {weights: checkerboard(maps, self.stride).mean() for weights, maps in self.maps.items()}
        return {weights: round(measure.item(), 6) for weights, measure in found.items()}

    def row(self) -> dict[str, Any]:
        found = self.measures
        return {
            "layer": self.kind,
            "kernel": self.kernel,
            "stride": self.stride,
            "no weights": found.get("none"),
            "equal weights": found.get("equal"),
            "as it begins": found.get("initial"),
            "random weights": found.get("random"),
        }


@torch.no_grad()
def _responses(stride: int, kernels: Sequence[int], seed: int) -> list[Response]:
    """Of every kind, and of every kernel that leaves no holes."""
    generator = torch.Generator().manual_seed(derive(seed, "upsampling", stride))
    found = []
    for kind in get_args(UpsampleKind):
        for kernel in sorted(set(kernels)) if kind == "transpose_conv" else [None]:
            if kernel is not None and kernel < stride:
                continue
            layer = make_upsample(kind, 1, 1, kernel=kernel or stride, stride=stride).double()
            learnt = any(True for _ in layer.parameters())
            maps = {"initial" if learnt else "none": _respond(layer, stride, kernel or 3, generator)}
            if learnt:
                maps["equal"] = _respond(_filled(layer, None), stride, kernel or 3, generator)
                draws = [
                    _respond(_filled(layer, generator), stride, kernel or 3, generator) for _ in range(DRAWS)
                ]
                maps["random"] = torch.cat(draws)
            found.append(Response(kind, kernel, stride, maps))
    return found


def _filled(layer: nn.Module, generator: torch.Generator | None) -> nn.Module:
    """The layer with weights that are all equal, or uniform in 0..1."""
    for weight in layer.parameters():
        if generator is None:
            weight.fill_(1.0)
        else:
            weight.uniform_(generator=generator)
    return layer


def _respond(layer: nn.Module, stride: int, kernel: int, generator: torch.Generator) -> Tensor:
    """[1, H, W]: the response to a constant, without the border, in whole windows."""
    margin = -(-kernel // stride)
    side = WINDOWS + 2 * margin
    like = torch.rand(1, 1, stride * side, stride * side, generator=generator)
    inner = slice(stride * margin, stride * (margin + WINDOWS))
    return layer(torch.ones(1, 1, side, side, dtype=torch.float64), like)[0, :, inner, inner]


def draw(responses: Sequence[Response], path: Path) -> None:
    """Two rows for each stride, with equal and with random weights, and a column for each layer."""
    strides = list(dict.fromkeys(r.stride for r in responses))
    layers = list(dict.fromkeys((r.kind, r.kernel) for r in responses))
    without = len({r.kind for r in responses if "none" in r.maps})
    with figure(path, width=1.3 * len(layers), height=3.4 * len(strides) + 1.1) as drawn:
        grid = drawn.add_gridspec(2 * len(strides), len(layers))
        panels = []
        for response in responses:
            row, column = 2 * strides.index(response.stride), layers.index((response.kind, response.kernel))
            for below, weights in ((0, "none"), (0, "equal"), (1, "random")):
                if weights in response.maps:
                    panels.append(_panel(drawn.add_subplot(grid[row + below, column]), response, weights))
        for number, stride in enumerate(strides):
            words = drawn.add_subplot(grid[2 * number + 1, :without])
            words.set_axis_off()
            words.text(0, 0.95, f"Stride {stride}", fontsize=13, fontweight="bold", va="top")
            words.text(0, 0.72, LEGEND, fontsize=9, va="top", linespacing=1.5)
        bar = drawn.colorbar(
            panels[0].images[0], ax=panels, location="bottom", fraction=0.03, aspect=70, extend="max"
        )
        bar.set_label("response to a constant, over its mean")
        title = (
            "A constant, up-sampled. The number is the spread of the mean at each phase; 0: no checkerboard"
        )
        drawn.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")


def _panel(axes: Any, response: Response, weights: str) -> Any:
    picture, measure = response.maps[weights][0], response.measures[weights]
    shown = (picture[:SHOWN, :SHOWN] / picture.mean()).numpy()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=2, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    name = response.kind if response.kernel is None else f"{response.kind} {response.kernel}"
    color = UNEVEN if measure > 0.1 else EVEN
    axes.set_title(f"{name}\n{measure:.2f}", fontsize=7.5, color=color)
    return axes
