import warnings
from collections.abc import Iterator

import pytest
import torch

from cvtasks.engine.determinism import nondeterminism_named, set_deterministic


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    set_deterministic(False)


def undetermined() -> None:
    """An operation without a deterministic form, also on a CPU."""
    torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]), accumulate=False)


def test_an_operation_that_cannot_be_made_deterministic_is_named_once() -> None:
    set_deterministic(True)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with nondeterminism_named(said.append):
            undetermined()
            undetermined()
    assert len(said) == 1
    assert "put_" in said[0]
    assert "two runs may differ" in said[0]


def test_without_the_wish_nothing_is_said() -> None:
    set_deterministic(False)
    said: list[str] = []
    with nondeterminism_named(said.append):
        undetermined()
    assert not said


def test_other_warnings_are_shown_as_before() -> None:
    said: list[str] = []
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with nondeterminism_named(said.append):
            warnings.warn("something else", UserWarning, stacklevel=1)
        warnings.warn("after it", UserWarning, stacklevel=1)
    assert not said
    assert [str(w.message) for w in shown][-1] == "after it"
