from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest

from cvtasks.config.check import KeyConfigError, check, describe, fits
from cvtasks.config.schema import Range

Fraction = Annotated[float, Range(min=0, below=1)]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [1.5, 2, float("inf")], [True, "1e-3", None]),
        (bool, [True, False], [0, 1, "true"]),
        (str, ["", "a"], [1, None, ["a"]]),
        (int | None, [None, 1], ["1", False]),
        (Fraction, [0, 0.5], [1, -0.1, float("nan"), True]),
        (Annotated[int, Range(above=0, max=3)], [1, 3], [0, 4]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (Annotated[int, Range(min=1)] | Literal["auto"], [1, "auto"], [0, "Auto"]),
        (list[int], [[], [1, 2]], [[1, "2"], 1, "12"]),
        (Sequence[float], [[1, 2.5]], ["ab", ["a"]]),
        (tuple[float, ...], [[1.0]], [["a"]]),
        (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], [1, "2"]]),
        (list[list[int]], [[[1], [2, 3]]], [[1]]),
        (Mapping[str, Fraction], [{}, {"a": 0.5}], [{"a": 2}, [1]]),
        (Any, [1, None, {"a": []}], []),
    ],
)
def test_a_value_fits_exactly_what_the_annotation_says(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    assert [v for v in right if not fits(v, hint)] == []
    assert [v for v in wrong if fits(v, hint)] == []


def test_an_annotation_is_told_in_words() -> None:
    assert describe(Annotated[int, Range(min=1)] | None) == "an integer of at least 1 or null"
    assert describe(Annotated[float, Range(above=0, max=1)]) == "a number above 0 and at most 1"
    assert describe(tuple[int, float]) == "a list of 2: an integer, a number"
    assert describe(Literal["a", "b"]) == "one of a, b"


class Files(TypedDict):
    images: str
    labels: str


@dataclass
class Inner:
    steps: Annotated[int, Range(min=1)]
    mode: Literal["fast", "slow"] = "fast"
    sizes: Sequence[Annotated[int, Range(min=1)]] = ()


@dataclass
class Outer:
    dataset: dict[str, Any]
    inner: Inner
    files: Files | None = None
    weights: dict[str, Fraction] | None = None


DATASET = {"_target_": "cvtasks.data.shapes.ShapesReader", "split": "val"}


@pytest.mark.parametrize(
    ("changed", "key", "message"),
    [
        ({"inner": {"steps": 1, "mdoe": "fast"}}, "inner.mdoe", "did you mean inner.mode?"),
        ({"innner": {}}, "innner", "did you mean inner?"),
        ({"inner": {}}, "inner.steps", "is missing; it takes an integer of at least 1"),
        ({"inner": {"steps": "3"}}, "inner.steps", "not '3'; it was read as text: write 3.0 without quotes"),
        ({"inner": {"steps": 1, "mode": "fsat"}}, "inner.mode", "did you mean fast?"),
        (
            {"inner": {"steps": 1, "sizes": [4, 0]}},
            "inner.sizes[1]",
            "expected an integer of at least 1, not 0",
        ),
        ({"inner": {"steps": 1, "sizes": 4}}, "inner.sizes", "write [4]"),
        ({"inner": {"steps": "???"}}, "inner.steps", "is not set; type inner.steps=..."),
        ({"inner": 3}, "inner", "expected a mapping, not 3"),
        ({"files": {"images": "a", "lables": "b"}}, "files.lables", "did you mean files.labels?"),
        ({"files": {"images": "a"}}, "files.labels", "is missing"),
        ({"weights": {True: 0.5}}, "weights", "expected names, not True; write it in quotes"),
        ({"weights": {"a": 2}}, "weights.a", "expected a number of at least 0 and below 1, not 2"),
    ],
)
def test_the_first_mistake_is_named_with_its_whole_key(
    changed: dict[str, Any], key: str, message: str
) -> None:
    config = {"dataset": DATASET, "inner": {"steps": 1}}
    check(config, Outer)
    with pytest.raises(KeyConfigError) as error:
        check(config | changed, Outer)
    assert error.value.key == key
    assert message in str(error.value)


def test_a_formula_that_cannot_be_computed_yet_is_not_judged() -> None:
    check({"dataset": DATASET, "inner": {"steps": "${other}"}}, Outer)
