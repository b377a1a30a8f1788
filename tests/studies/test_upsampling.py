"""The lecture's numbers in letters, torch's one-dimensional layers, and checkerboards worked out by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from cvtasks.cli import main
from cvtasks.nn.upsample import make_upsample
from cvtasks.studies.upsampling import checkerboard, convolution_matrix, phase_means, product, transposed

XYZ = ["x", "y", "z"]


def test_a_convolution_is_the_product_with_the_lectures_matrix() -> None:
    padded = ["0", "a", "b", "c", "d", "0"]
    once = convolution_matrix(XYZ, 6, stride=1, zero="0")
    assert once[1] == ["0", "x", "y", "z", "0", "0"]
    assert product(once, padded) == ["ay + bz", "ax + by + cz", "bx + cy + dz", "cx + dy"]
    assert product(convolution_matrix(XYZ, 6, stride=2, zero="0"), padded) == ["ay + bz", "bx + cy + dz"]


def test_its_transpose_is_the_lectures_too() -> None:
    once = transposed(convolution_matrix(XYZ, 6, stride=1, zero="0"))
    assert product(once, list("abcd")) == ["ax", "ay + bx", "az + by + cx", "bz + cy + dx", "cz + dy", "dz"]
    twice = transposed(convolution_matrix(XYZ, 6, stride=2, zero="0"))
    assert product(twice, list("ab")) == ["ax", "ay", "az + bx", "by", "bz", "0"]


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=5),
    st.lists(st.integers(-9, 9), min_size=5, max_size=9),
    st.integers(1, 3),
)
def test_both_matrices_are_torchs_layers(kernel: list[int], signal: list[int], stride: int) -> None:
    matrix = torch.tensor(convolution_matrix(kernel, len(signal), stride=stride, zero=0)).double()
    weight, row = torch.tensor([[kernel]]).double(), torch.tensor([[signal]]).double()
    few = row[..., : len(matrix)]
    assert_close(matrix @ row[0, 0], F.conv1d(row, weight, stride=stride)[0, 0])
    covered = (len(matrix) - 1) * stride + len(kernel)
    spread = F.conv_transpose1d(few, weight, stride=stride)[0, 0]
    assert_close(matrix.T @ few[0, 0], F.pad(spread, (0, len(signal) - covered)))


def response(kind: str, kernel: int, stride: int = 2, weight: float | None = 1.0) -> torch.Tensor:
    """Inside, to a constant, with all weights equal."""
    layer = make_upsample(kind, 1, 1, kernel=kernel, stride=stride)  # type: ignore[arg-type]
    for parameter in layer.parameters() if weight is not None else ():
        parameter.data.fill_(weight)
    up = layer(torch.ones(1, 1, 12, 12), torch.empty(1, 1, 12 * stride, 12 * stride))
    return up[0, 0, 4 * stride : -4 * stride, 4 * stride : -4 * stride].detach()


def test_a_kernel_of_3_and_a_stride_of_2_overlap_unevenly() -> None:
    # A side's outputs get 1 and 2 copies in turn: 1, 2, 2 and 4 at the phases, 2.25 in the mean.
    uneven = response("transpose_conv", 3)
    assert sorted(phase_means(uneven, 2).flatten().tolist()) == [1, 2, 2, 4]
    assert checkerboard(uneven, 2).item() == pytest.approx(3 / 2.25)
    assert checkerboard(7 * uneven, 2).item() == pytest.approx(3 / 2.25)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (2, 2), (6, 2), (3, 3), (6, 3)])
def test_a_kernel_that_the_stride_divides_overlaps_evenly(kernel: int, stride: int) -> None:
    assert checkerboard(response("transpose_conv", kernel, stride), stride).item() == pytest.approx(0)


def test_interpolation_is_even_and_a_bed_of_nails_is_not() -> None:
    assert checkerboard(response("nearest", 4), 2) == 0
    assert checkerboard(response("bilinear", 4), 2) == 0
    assert checkerboard(response("bed_of_nails", 4), 2) == 4  # 1 at one of four phases


@pytest.mark.parametrize("seed", range(3))
def test_a_resize_convolution_is_even_whatever_its_weights(seed: int) -> None:
    torch.manual_seed(seed)
    assert checkerboard(response("resize_conv", 4, weight=None), 2).item() == pytest.approx(0, abs=1e-5)


def test_phases_are_told_apart_by_their_place_in_a_window() -> None:
    picture = torch.tensor([[1, 2, 3], [4, 5, 6]]).float().repeat(2, 2)  # windows of 2 x 3 do not tile by 2
    assert_close(phase_means(picture[:, [0, 1, 3, 4]], 2), torch.tensor([[1.0, 2.0], [4.0, 5.0]]))


def test_the_study_ends_in_a_page_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "R"
    typed = ["study.kernels=[2,3,4]", "study.strides=[2,3]", "study.kernel=[1,10,100]"]
    assert main(["study", "upsampling", f"run_dir={folder}", *typed]) == 0
    found = json.loads((folder / "upsampling.json").read_text())
    assert found["settings"]["kernels"] == [2, 3, 4]
    rows = {(r["layer"], r["kernel"], r["stride"]): r for r in found["tables"]["Checkerboard"]}
    assert len(rows) == 5 + 3 + 5 + 2
    assert ("transpose_conv", 2, 3) not in rows  # it would leave holes
    assert rows["transpose_conv", 3, 2]["equal weights"] == pytest.approx(4 / 3, abs=1e-6)
    assert rows["transpose_conv", 4, 2]["equal weights"] == 0
    assert rows["transpose_conv", 4, 2]["random weights"] > 0.1
    assert rows["resize_conv", None, 2]["random weights"] == 0
    assert rows["max_unpool", None, 2]["no weights"] < 0.2 < rows["bed_of_nails", None, 2]["no weights"]
    table = list(csv.DictReader((folder / "upsampling.csv").open()))
    assert [float(r["equal weights"]) for r in table if r["layer"] == "transpose_conv" and r["kernel"] == "3"] == [
        pytest.approx(4 / 3, abs=1e-6), 0,
    ]  # fmt: skip
    page = (folder / "upsampling.md").read_text()
    assert page in capsys.readouterr().out
    assert "ax + by + cz        0   1  10 100   0   0   2   =   321" in page
    assert "(upsampling.png)" in page
    assert np.asarray(Image.open(folder / "upsampling.png")).std() > 1


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("study.kernel=[1]", "study.kernel: expected 2 to 8 numbers, not 1"),
        ("study.signal=[1,2,3,4,5,6,7,8,9]", "study.signal: expected 2 to 8 numbers, not 9"),
        ("study.strides=[]", "study.strides: expected one at least"),
        ("study.strides=[1]", "study.strides[0]: expected an integer of at least 2 and at most 8, not 1"),
        (
            "study.kernles=[3]",
            "there is no setting study.kernles; did you mean study.kernels or study.kernel?",
        ),
        ("study.kernel=[a,b]", "study.kernel[0]: expected a number, not 'a'"),
    ],
)
def test_a_wrong_setting_is_one_line(
    setting: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "upsampling", f"run_dir={tmp_path / 'R'}", setting]) == 2
    assert capsys.readouterr().err == f"cvtasks: {line}\n"
