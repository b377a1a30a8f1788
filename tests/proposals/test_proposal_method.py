"""A method's fingerprint: the same for the same method, another one for whatever changes its boxes."""

import dataclasses
import pickle
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from cvtasks.proposals.method import NoProposals, Trained, fingerprint, learned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    name: ClassVar[str] = "any"
    version: ClassVar[int] = 1

    value: object = None
    other: object = None


class Next(Holder):
    """The same fields, another class."""


class Newer(Holder):
    version: ClassVar[int] = 2


Newer.__qualname__ = Holder.__qualname__

DIFFERENT = [
    None, True, 1, 2, 1.5, "1", "None", "", [1, 2], [[1], 2], [1, [2]], [], {}, {"a": 1}, {"a": 2}, {"b": 1}, ["a", 1],
    np.zeros(3), np.zeros((3, 1)), np.zeros(3, np.float32), np.zeros(2), np.array([0.0, 0, 1]), [0.0, 0.0, 0.0],
]  # fmt: skip


def test_every_value_has_a_fingerprint_of_its_own() -> None:
    """Easier and wrong: str() of the fields, for which 1 and "1" are one, and long arrays are all alike."""
    prints = [fingerprint(Holder(value=value)) for value in DIFFERENT]
    prints += [fingerprint(Holder(other=value)) for value in DIFFERENT[1:]]
    prints += [fingerprint(Next()), fingerprint(Newer()), fingerprint(Holder(value=[1], other=2))]
    prints += [fingerprint(Holder(value=np.arange(5000))), fingerprint(Holder(value=np.arange(5000) % 4999))]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 for p in prints)


@pytest.mark.parametrize(("one", "other"), [(2, 2.0), ((1, 2), [1, 2]), ({"a": 1, "b": 2}, {"b": 2, "a": 1})])
def test_what_yaml_may_write_in_two_ways_is_one_method(one: object, other: object) -> None:
    assert fingerprint(Holder(value=one)) == fingerprint(Holder(value=other))


def test_it_is_the_same_in_another_process() -> None:
    """Easier and wrong: hash(), which differs from process to process for text."""
    code = "from cvtasks.proposals.method import *; print(fingerprint(NoProposals()))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == fingerprint(NoProposals())


def test_a_method_and_what_it_learned_survive_pickling() -> None:
    method = Holder(value=np.arange(4.0), other=3)
    again = pickle.loads(pickle.dumps(method))
    assert fingerprint(again) == fingerprint(method)
    assert learned(again).keys() == {"value"}
    np.testing.assert_array_equal(learned(again)["value"], np.arange(4.0))


def test_a_method_without_fit_is_not_trained() -> None:
    assert not isinstance(NoProposals(), Trained)
    assert NoProposals()(np.zeros((2, 3, 3), np.uint8)).shape == (0, 4)
