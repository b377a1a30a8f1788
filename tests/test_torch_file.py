"""What `torch.save` makes of a state is read as torch reads it, in every form that it has had; see also tests/security."""

import io
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import MultiStepLR

from cvtasks.torch_file import EXPANDED, NotPlainError, load

LEGACY = {"_use_new_zipfile_serialization": False}


def saved(value: Any, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.builds(torch.arange, st.integers(0, 5)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 999), inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4).map(OrderedDict)
        | inner.map(lambda value: [value, value])  # one object in two places
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_every_plain_value_comes_back(value: Any, legacy: bool) -> None:
    assert same(load(saved(value, **LEGACY if legacy else {})), value)


TENSORS = {
    "a scalar": torch.tensor(3.0),
    "an empty one": torch.ones(0, 3),
    "bf16": torch.ones(3, dtype=torch.bfloat16),
    "fp16": torch.ones(3, dtype=torch.float16),
    "booleans": torch.tensor([True, False]),
    "bytes": torch.get_rng_state(),
    "a transposed one": torch.arange(6).view(2, 3).t(),
    "channels last": torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "a part of another": torch.arange(10)[3:6],
    "an expanded one": torch.ones(1).expand(4, 5),
    "a parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_comes_back(name: str, options: dict[str, Any]) -> None:
    tensor = TENSORS[name]
    read = load(saved({"a": tensor, "b": tensor}, **options))
    assert same(read["a"], tensor)
    assert type(read["a"]) is type(tensor)
    assert read["a"].untyped_storage().data_ptr() == read["b"].untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e4m3fn])
def test_the_newest_types_come_back(dtype: torch.dtype) -> None:
    assert load(saved(torch.ones(3).to(dtype))).dtype == dtype


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_the_state_of_a_training_comes_back(options: dict[str, Any]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = MultiStepLR(optimizer, [3, 5])  # its milestones are a Counter
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    read = load(saved(state, **options))
    assert same(read["model"], state["model"])
    assert read["model"]._metadata == state["model"]._metadata
    optimizer.load_state_dict(read["optimizer"])
    scheduler.load_state_dict(read["scheduler"])


def test_a_tensor_is_no_larger_than_its_file_unless_it_is_small() -> None:
    assert load(saved(torch.ones(1).expand(EXPANDED))).shape == (EXPANDED,)
    with pytest.raises(NotPlainError, match="larger than the file"):
        load(saved(torch.ones(1).expand(EXPANDED + 1)))


@pytest.mark.parametrize(
    "value",
    [{1, 2}, 1j, b"bytes", torch.float32, torch.device("cpu"), torch.ones(2).to_sparse(), bytearray(3)],
    ids=repr,
)
def test_other_kinds_of_values_are_refused_although_torch_reads_them(value: Any) -> None:
    with pytest.raises(NotPlainError):
        load(saved({"a": value}))
