"""Oracle: hand-made boxes, Python's own lists and strings, and pycocotools for masks and run-lengths."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from cvtasks.data.annotations import Findings, OnError, Strings, check_boxes, choose_classes, group_by_image
from cvtasks.data.segmentations import Outline, Segmentations, decompress, read_outline
from cvtasks.errors import ConfigError, DataError

# pycocotools' own, in every mask that it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

NAN, INF = float("nan"), float("inf")


def checked(boxes: list[list[float]], on_error: OnError = "skip") -> tuple[np.ndarray, np.ndarray, list[str]]:
    findings = Findings("test", on_error)
    array = np.array(boxes, np.float64)
    sizes = np.tile([30, 40], (len(boxes), 1))  # height, width
    clipped, keep = check_boxes(array, array, sizes, findings, lambda n: f"box {n}")
    return clipped, keep, findings.notes()


@settings(max_examples=50)
@given(st.lists(st.text()))
def test_packed_strings_come_back(strings: list[str]) -> None:
    packed = pickle.loads(pickle.dumps(Strings(strings)))
    assert [packed[i] for i in range(len(packed))] == strings


@settings(max_examples=50)
@given(st.lists(st.integers(0, 6)))
def test_objects_are_grouped_by_image_in_the_order_of_the_file(image_of: list[int]) -> None:
    order, ends = group_by_image(np.array(image_of, np.int64), 7)
    for image in range(7):
        expected = [n for n, i in enumerate(image_of) if i == image]
        assert order[ends[image] : ends[image + 1]].tolist() == expected


def test_a_box_over_the_edge_by_rounding_is_clipped_and_counted() -> None:
    clipped, keep, notes = checked([[-1.5, 3, 10, 31.9], [0, 0, 40, 30]])
    assert keep.all()
    assert clipped.tolist() == [[0, 3, 10, 30], [0, 0, 40, 30]]
    assert notes == ["dataset test: clipped boxes that reach up to 2 pixels over the image's edge (1): box 0"]


def test_a_single_point_is_left_out_with_a_note_although_errors_are_raised() -> None:
    _, keep, notes = checked([[5, 6, 5, 6], [1, 1, 2, 2]], on_error="raise")
    assert keep.tolist() == [False, True]
    assert notes == ["dataset test: left out boxes that are a single point, a stray click (1): box 0"]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 6, 5, 9], "box has no area (x1 = x2 = 5)"),
        ([5, 9, 8, 9], "box has no area (y1 = y2 = 9)"),
        ([8, 6, 5, 9], "box has no area (x1 = 8 is larger than x2 = 5)"),
        ([5, 6, 43, 9], "box (5, 6, 43, 9) lies outside the image, which is 40 x 30 pixels"),
        ([41, 6, 42, 9], "box (41, 6, 42, 9) lies outside the image, which is 40 x 30 pixels"),
        ([-9, -9, -5, -5], "box (-9, -9, -5, -5) lies outside"),
        ([5, 6, NAN, 9], "box (5, 6, nan, 9) has a number that is not finite"),
        ([INF, 6, INF, 9], "not finite"),
        ([0, 0, 1e308, 9], "or too large"),
        ([NAN, NAN, NAN, NAN], "not finite"),
    ],
)
def test_a_box_that_is_wrong_is_named_with_its_numbers(box: list[float], message: str) -> None:
    with pytest.raises(DataError) as caught:
        checked([[0, 0, 5, 5], box], on_error="raise")
    assert str(caught.value).startswith("dataset test: box 1: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; fix the file or set dataset.on_error=skip")
    _, keep, notes = checked([[0, 0, 5, 5], box])
    assert keep.tolist() == [True, False]
    assert len(notes) == 1


def test_thousands_of_errors_are_a_few_lines_and_a_number() -> None:
    _, keep, notes = checked([[5, 6, 5, 9]] * 3000)
    assert not keep.any()
    assert len(notes) == Findings.SHOWN + 1
    assert notes[-1] == "dataset test: skipped: 2995 more, 3000 in all"


def test_classes_are_restricted_ordered_and_suggested() -> None:
    findings = Findings("test", "raise")
    assert choose_classes(["cat", "dog", "cup"], None, "train", findings) == ["cat", "dog", "cup"]
    assert choose_classes(["cat", "dog", "cup"], ["cup", "cat"], "train", findings) == ["cup", "cat"]
    with pytest.raises(ConfigError, match=r"no 'dgo'; did you mean dog\?"):
        choose_classes(["cat", "dog"], ["cat", "dgo"], "train", findings)
    for asked in (["cat", "cat"], []):
        with pytest.raises(ConfigError, match=r"dataset\.classes"):
            choose_classes(["cat"], asked, "train", findings)


def test_validation_data_may_lack_some_of_the_classes_but_not_all() -> None:
    findings = Findings("test", "raise")
    assert choose_classes(["cat"], ["cat", "dog"], "val", findings) == ["cat", "dog"]
    assert findings.notes() == ["dataset test: the val data has no dog"]
    with pytest.raises(ConfigError, match="has no 'dog'"):
        choose_classes(["cat"], ["dog", "cup"], "val", findings)


# Outlines

SIZE = (30, 40)


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_run_lengths_come_back_in_both_of_their_forms(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random(SIZE) < density
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    runs = np.diff(np.concatenate([[0], changes]))
    text = rle["counts"].decode()
    unpacked = decompress(text)
    assert unpacked is not None
    assert unpacked.tolist() == runs.tolist()
    for counts in (text, runs.tolist()):
        outline = read_outline({"size": list(SIZE), "counts": counts})
        assert isinstance(outline, Outline)
        assert outline.problem(SIZE) is None
        assert outline.area == mask.sum()
        packed = Segmentations([outline])
        assert packed.rles(slice(0, 1), SIZE) == [rle]
        assert (packed.masks(slice(0, 1), SIZE)[0] == mask).all()


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(3, 9))
def test_polygons_of_two_decimals_give_the_masks_of_pycocotools(seed: int, parts: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 300, 2600  # wide enough for float32 to lose the second decimal
    polygons = [
        np.round(rng.uniform(0, 1, (points, 2)) * (width, height), 2).ravel().tolist() for _ in range(parts)
    ]
    outline = read_outline(polygons)
    assert isinstance(outline, Outline)
    expected = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    assert Segmentations([outline]).rles(slice(0, 1), (height, width)) == [expected]


def test_the_area_of_polygons_is_that_of_their_parts() -> None:
    outline = read_outline([[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 20, 4, 26, 4]])
    assert isinstance(outline, Outline)
    assert outline.area == 112


def test_packed_outlines_of_both_kinds_keep_their_places() -> None:
    square = [5, 5, 15, 5, 15, 15, 5, 15]
    values = [
        [square],
        {"size": [30, 40], "counts": [0, 1200]},
        [square, square],
        {"size": [30, 40], "counts": [1200]},
    ]
    packed = Segmentations([o for o in map(read_outline, values) if isinstance(o, Outline)])
    assert packed.masks(slice(0, 4), SIZE).sum((1, 2)).tolist() == [100, 1200, 100, 0]
    assert packed.masks(slice(2, 3), SIZE).sum() == 100
    assert packed.masks(slice(2, 2), SIZE).shape == (0, 30, 40)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "odd"),
        ([[1, 2, 3, 4]], "fewer than three points"),
        ([[]], "fewer than three points"),
        ([1, 2, 3, 4, 5, 6], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, "6"]], "not a list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, None]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, NAN]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e308]], "too large"),
        ([[1, 2, 3, 4, 5, -2147483648]], "too large"),
        ([[0, 0, 999_999, 999_999, 5, 6] * 9], "longer than"),
        ("polygon", "neither"),
        (7, "neither"),
        ({"size": [30, 40]}, "not a list of whole numbers or a compressed string"),
        ({"size": [30, 40], "counts": [1.5, 2]}, "whole numbers"),
        ({"size": [30, 40], "counts": []}, "whole numbers"),
        ({"size": [30, 40], "counts": ""}, "whole numbers"),
        ({"size": [30, 40], "counts": "~~~"}, "whole numbers"),
        ({"size": [30, 40], "counts": "\u20ac"}, "whole numbers"),
        ({"size": [30, 40], "counts": "P"}, "whole numbers"),
        ({"size": [30, 40], "counts": "oooooooooo0"}, "whole numbers"),
        ({"size": [30, 40], "counts": [-5, 1205]}, "negative"),
        ({"size": [30, 40], "counts": "O"}, "negative"),
        ({"size": [30, 40], "counts": [2**32]}, "too large"),
        ({"size": [30, 40], "counts": [2**64]}, "whole numbers|too large"),
        ({"size": [2**31, 2**31], "counts": [1]}, "below 65536"),
        ({"size": [30], "counts": [30]}, "size"),
        ({"size": "30x40", "counts": [1200]}, "size"),
        ({"counts": [1200]}, "size"),
    ],
)  # fmt: skip
def test_an_outline_that_would_break_pycocotools_is_a_message(value: object, message: str) -> None:
    problem = read_outline(value)
    assert isinstance(problem, str)
    assert any(m in problem for m in message.split("|")), problem


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": [40, 30], "counts": [1200]}, "run-lengths are for (40, 30)"),
        ({"size": [30, 40], "counts": [1201]}, "add up to 1201"),
        ({"size": [30, 40], "counts": [0, 2**32 - 1]}, "add up to"),
        ([[0, 0, 10, 0, 200, 200]], "far outside"),
    ],
)
def test_an_outline_that_does_not_fit_its_image_is_a_message(value: object, message: str) -> None:
    outline = read_outline(value)
    assert isinstance(outline, Outline)
    assert message in (outline.problem(SIZE) or "")


@settings(max_examples=300)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_compressed_string_is_refused_or_safe(text: str) -> None:
    outline = read_outline({"size": list(SIZE), "counts": text})
    if isinstance(outline, Outline) and outline.problem(SIZE) is None:
        assert Segmentations([outline]).masks(slice(0, 1), SIZE).shape == (1, *SIZE)
