"""Oracle: the pixels of the picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cvtasks.types import ClassInfo
from cvtasks.viz.colors import GREY, class_color
from cvtasks.viz.overlays import Canvas, contact_sheet, draw_detections, draw_truth

CLASSES = ClassInfo(("cat", "dog", "a class with a name that is longer than a picture is wide " * 3))
BLACK = torch.zeros(3, 400, 600, dtype=torch.uint8)


def test_a_frame_stands_where_the_box_is() -> None:
    pixels = np.array(draw_detections(BLACK, [[100, 200, 300, 350]], [1], [0.9], CLASSES))
    color = class_color(1)
    for x, y in ((100, 275), (300, 275), (200, 350), (200, 200)):
        assert tuple(pixels[y, x]) == color
    assert pixels[210:340, 110:290].max() == 0  # nothing inside
    assert pixels[:, 310:].max() == pixels[360:].max() == 0


def test_small_images_are_enlarged_with_their_boxes() -> None:
    picture = draw_detections(np.zeros((3, 48, 64), np.uint8), [[16, 12, 48, 36]], [0], None, CLASSES)
    assert picture.size == (480, 360)
    pixels = np.array(picture)
    assert tuple(pixels[180, 120]) == tuple(pixels[180, 360]) == class_color(0)


def test_large_images_keep_their_size_and_get_thicker_frames() -> None:
    def colored(size: int) -> int:
        box = [[size / 4, size / 4, size / 2, size / 2]]
        picture = draw_truth(np.zeros((3, size, size), np.uint8), box, [0], CLASSES)
        return int((np.array(picture)[size * 3 // 8] == class_color(0)).all(axis=1).sum())

    assert draw_detections(BLACK, [], [], None, CLASSES).size == (600, 400)
    assert colored(2400) > 2 * colored(600)


@pytest.mark.parametrize("kind", ["tensor", "array", "picture"])
def test_the_image_itself_is_left_alone(kind: str) -> None:
    array = np.full((3, 500, 500), 7, np.uint8)
    image = {
        "tensor": torch.from_numpy(array),
        "array": array,
        "picture": Image.fromarray(array.transpose(1, 2, 0)),
    }[kind]
    picture = draw_detections(image, torch.tensor([[10.0, 10, 90, 90]]), torch.tensor([0]), None, CLASSES)
    assert (np.asarray(image) == 7).all()
    assert not (np.asarray(picture) == 7).all()


def test_truth_is_thinner_than_predictions_and_ignored_truth_is_dashed_and_grey() -> None:
    box, row = [[100, 100, 500, 300]], 300

    def count(picture: Image.Image, color: tuple) -> int:
        return int((np.array(picture) == color).all(axis=2).sum())

    bold = draw_detections(BLACK, box, [0], None, CLASSES)
    thin = draw_truth(BLACK, box, [0], CLASSES, ignore=[False])
    dashed = draw_truth(BLACK, box, [0], CLASSES, ignore=torch.tensor([True]))
    assert count(thin, class_color(0)) < count(bold, class_color(0))
    assert count(dashed, class_color(0)) == 0
    on = (np.array(dashed)[row, 100:500] == GREY).all(axis=1)
    assert 0.3 < on.mean() < 0.7
    assert np.diff(on.astype(int)).clip(0).sum() > 5  # many dashes


coordinate = st.floats(-200, 900)


@settings(max_examples=30, deadline=None)
@given(boxes=st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=12))
def test_names_stay_inside_the_picture_and_apart(boxes: list[tuple[float, ...]]) -> None:
    canvas = Canvas(BLACK)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        canvas.box(box, class_color(i), line="bold")
        canvas.label(CLASSES.names[i % 3], box, class_color(i))
    for i, a in enumerate(canvas._tags):
        assert a[0] >= 0
        assert a[1] >= 0
        assert a[2] <= 600
        assert a[3] <= 400
        for b in canvas._tags[:i]:
            common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            assert common <= 0.25 * (a[2] - a[0]) * (a[3] - a[1])


def test_names_beside_each_other_do_not_overlap_where_there_is_room() -> None:
    canvas = Canvas(BLACK)
    for _ in range(4):  # four objects at one place: a name above, below, and so on
        canvas.label("cat 0.95", (200, 100, 400, 300), class_color(0))
    assert len(set(canvas._tags)) == 4
    ys = sorted(tag[1] for tag in canvas._tags)
    assert ys[0] < 100
    assert ys[-1] >= 300


def test_boxes_that_make_no_sense_are_no_reason_to_fail() -> None:
    boxes = [[math.nan] * 4, [math.inf, 0, -math.inf, 5], [50, 50, 40, 40], [1e30, 1e30, 1e30, 1e30]]
    draw_detections(BLACK, boxes, [0, 1, 0, 1], [math.nan, 0.5, 0.2, 0.1], CLASSES)


def test_a_sheet_holds_every_picture_in_rows() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = [
        Image.new("RGB", size, c) for size, c in zip([(50, 50), (100, 40), (30, 90)], colors, strict=True)
    ]
    sheet = contact_sheet(pictures, ["one", "two " * 100, "three"], columns=2, cell=96)
    pixels = np.array(sheet)
    places = [np.argwhere((pixels == color).all(axis=2)) for color in colors]
    assert [tuple(np.ptp(p, axis=0) + 1) for p in places] == [(96, 96), (38, 96), (96, 32)]
    assert places[0][0, 0] == places[1][0, 0]  # one row
    assert places[2][0, 0] > places[0][-1, 0]  # and the next
    assert (pixels[: places[0][0, 0]] < 100).any()  # titles above
    assert contact_sheet([]).size[0] > 0
