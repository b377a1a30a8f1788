"""What is no sound MATLAB file of version 5 is one line; what is in one comes as arrays, or as dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from cvtasks.data.annotations import Findings
from cvtasks.data.matlab import array_of, read_mat, structures
from cvtasks.errors import DataError


def read(path: Path, name: str = "a", **options: Any) -> Any:
    return read_mat(path, [name], Findings("lsp", "raise"), **options)[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.mat"
    content = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": [1, 2], "d": "text"}}
    scipy.io.savemat(path, content, do_compression=True)
    return path


def test_variables_are_arrays_or_dictionaries(file: Path) -> None:
    assert read(file).tolist() == [[0, 1, 2], [3, 4, 5]]
    found = read(file, "b", simple=True)
    assert (found["c"].tolist(), found["d"]) == ([1, 2], "text")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: whole[:-99], r"a\.mat: is truncated or damaged"),
        (lambda whole: whole[:140], r"a\.mat: is truncated or damaged|has no variable a"),
        (lambda whole: whole[:300] + b"\xff" * 300 + whole[600:], r"a\.mat: is truncated or damaged"),
        (
            lambda whole: b"MATLAB 7.3" + whole[10:],
            r"a\.mat: is MATLAB 7\.3's format; save it anew in MATLAB",
        ),
        (lambda whole: b"\x89PNG" + whole[4:], r"a\.mat: is not a MATLAB file"),
        (lambda whole: b"", r"a\.mat: is not a MATLAB file"),
        (lambda whole: whole[:128], r"a\.mat: has no variable a"),
    ],
    ids=["end", "begin", "middle", "7.3", "picture", "empty", "head"],
)
def test_a_damaged_or_foreign_file_is_one_line(
    file: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    scipy.io.savemat(file, {"a": np.sqrt(np.arange(3000.0))}, do_compression=True)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=message) as raised:
        read(file)
    assert len(str(raised.value).splitlines()) == 1


def test_one_structure_alone_and_none_are_lists_too(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    for value, count in (([{"x": 1}, {"x": 2}], 2), ({"x": 1}, 1), (np.zeros((0, 0)), 0), (7, 0), ("a", 0)):
        scipy.io.savemat(path, {"a": value})
        assert len(structures(read(path, simple=True))) == count
    assert structures([np.zeros(2), np.zeros(3)])  # of different lengths: not one array


@pytest.mark.parametrize("value", [[1, 2, 3], ["1", "2"], [[1, 2], [3]], None, [1j, 2], "ab"])
def test_only_numbers_of_the_shape_are_an_array(value: object) -> None:
    assert array_of(value, (2,)) is None
    found = array_of((1, 2.5), (2,))
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float64, [1, 2.5])
