"""Oracle: the pixels of the picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cvtasks.types import ClassInfo
from cvtasks.viz.canvas import Canvas
from cvtasks.viz.colors import GREY, SIDE_COLORS, VOID_COLOR, class_color, class_colors
from cvtasks.viz.overlays import contact_sheet, draw

CLASSES = ClassInfo(("cat", "dog", "a class with a name that is longer than a picture is wide " * 3))
BLACK = torch.zeros(3, 400, 600, dtype=torch.uint8)


def things(boxes: Any, labels: Any, scores: Any = None, **more: Any) -> dict[str, Any]:
    return {"boxes": boxes, "labels": labels} | ({} if scores is None else {"scores": scores}) | more


def test_a_frame_stands_where_the_box_is() -> None:
    pixels = np.array(draw(BLACK, things([[100, 200, 300, 350]], [1], [0.9]), CLASSES))
    color = class_color(1)
    for x, y in ((100, 275), (300, 275), (200, 350), (200, 200)):
        assert tuple(pixels[y, x]) == color
    assert pixels[210:340, 110:290].max() == 0  # nothing inside
    assert pixels[:, 310:].max() == pixels[360:].max() == 0


def test_small_images_are_enlarged_with_their_boxes() -> None:
    picture = draw(np.zeros((3, 48, 64), np.uint8), things([[16, 12, 48, 36]], [0], [0.9]), CLASSES)
    assert picture.size == (480, 360)
    pixels = np.array(picture)
    assert tuple(pixels[180, 120]) == tuple(pixels[180, 360]) == class_color(0)


def test_large_images_keep_their_size_and_get_thicker_frames() -> None:
    def colored(size: int) -> int:
        box = [[size / 4, size / 4, size / 2, size / 2]]
        picture = draw(np.zeros((3, size, size), np.uint8), things(box, [0]), CLASSES)
        return int((np.array(picture)[size * 3 // 8] == class_color(0)).all(axis=1).sum())

    assert draw(BLACK, things([], []), CLASSES).size == (600, 400)
    assert colored(2400) > 2 * colored(600)


@pytest.mark.parametrize("kind", ["tensor", "array", "picture"])
def test_the_image_itself_is_left_alone(kind: str) -> None:
    array = np.full((3, 500, 500), 7, np.uint8)
    image = {
        "tensor": torch.from_numpy(array),
        "array": array,
        "picture": Image.fromarray(array.transpose(1, 2, 0)),
    }[kind]
    labels = things(torch.tensor([[10.0, 10, 90, 90]]), torch.tensor([0]))
    picture = draw(image, labels | {"segmentation": torch.ones(500, 500, dtype=torch.uint8)}, CLASSES)
    assert (np.asarray(image) == 7).all()
    assert not (np.asarray(picture) == 7).all()


def test_truth_is_thinner_than_predictions_and_ignored_truth_is_dashed_and_grey() -> None:
    box, row = [[100, 100, 500, 300]], 300

    def count(picture: Image.Image, color: tuple) -> int:
        return int((np.array(picture) == color).all(axis=2).sum())

    bold = draw(BLACK, things(box, [0], [1.0]), CLASSES)
    thin = draw(BLACK, things(box, [0], ignore=[False]), CLASSES)
    dashed = draw(BLACK, things(box, [0], ignore=torch.tensor([True])), CLASSES)
    assert count(thin, class_color(0)) < count(bold, class_color(0))
    assert count(dashed, class_color(0)) == 0
    on = (np.array(dashed)[row, 100:500] == GREY).all(axis=1)
    assert 0.3 < on.mean() < 0.7
    assert np.diff(on.astype(int)).clip(0).sum() > 5  # many dashes


def halves(left: int, right: int, height: int = 400, width: int = 600) -> np.ndarray:
    labels = np.full((height, width), left, np.uint8)
    labels[:, width // 2 :] = right
    return labels


def test_a_label_map_tints_each_pixel_and_draws_a_line_where_a_class_ends() -> None:
    pixels = np.array(draw(BLACK, {"segmentation": halves(0, 1)}, CLASSES))
    for x, k in ((100, 0), (500, 1)):
        np.testing.assert_allclose(pixels[200, x], np.array(class_color(k)) * 140 / 255, atol=1)
    assert tuple(pixels[200, 300]) == class_color(1)
    white = np.array(draw(255 - BLACK, {"segmentation": halves(0, 1)}, CLASSES))
    assert (white[200, 100] > pixels[200, 100] + 100).all()  # the image shines through


def test_the_legend_below_names_the_classes_that_occur_and_void() -> None:
    def colors_below(labels: np.ndarray) -> set[tuple]:
        pixels = np.array(draw(BLACK, {"segmentation": labels}, CLASSES))
        assert pixels.shape[0] > 400
        return set(map(tuple, pixels[400:].reshape(-1, 3).tolist()))

    one, both = colors_below(halves(1, 1)), colors_below(halves(255, 2))
    assert class_color(1) in one
    assert not {class_color(0), class_color(2), VOID_COLOR} & one
    assert {class_color(2), VOID_COLOR} <= both
    assert class_color(1) not in both


def test_a_legend_of_many_classes_wraps_and_ends() -> None:
    classes = ClassInfo(tuple(f"class {k}" for k in range(100)))
    labels = np.repeat(np.arange(100, dtype=np.uint8), 2400).reshape(400, 600)
    below = np.array(draw(BLACK, {"segmentation": labels}, classes))[400:]
    shown = {class_color(k) for k in range(100)} & set(map(tuple, below.reshape(-1, 3).tolist()))
    assert len(shown) == 24
    assert len(below) < 200


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (3, 5), (37, 1100)])
def test_images_of_any_size_can_be_drawn_on(height: int, width: int) -> None:
    labels = things([[0, 0, width, height]], [2], [0.5], segmentation=halves(0, 2, height, width))
    picture = draw(np.zeros((3, height, width), np.uint8), labels, CLASSES)
    assert np.array(picture).std() > 1


def test_a_field_that_cannot_be_seen_is_passed_over() -> None:
    assert np.array(draw(BLACK, {"label": 255, "image_id": "a"}, CLASSES)).max() == 0


def test_a_class_without_a_box_stands_below_the_picture_where_it_hides_nothing() -> None:
    guesses = {"labels": torch.tensor([1, 0]), "scores": torch.tensor([0.9, 0.1])}
    plain, truth, found = (np.array(draw(BLACK, labels, CLASSES)) for labels in ({}, {"label": 1}, guesses))
    height = len(plain)
    for drawn in (truth, found):
        assert (drawn[:height] == plain).all()
        assert (drawn[height:] == class_colors(CLASSES)[1]).all(axis=2).any()
        assert not (drawn[height:] == class_colors(CLASSES)[0]).all(axis=2).any()
    assert not np.array_equal(truth, found)  # which has a score


def test_the_datas_own_colors_are_used_for_boxes_and_pixels() -> None:
    own = ClassInfo(("a", "b"), colors=((1, 200, 3), (250, 0, 9)))
    pixels = np.array(draw(BLACK, things([[100, 200, 300, 350]], [1]), own))
    assert tuple(pixels[275, 100]) == (250, 0, 9)
    assert tuple(np.array(draw(BLACK, {"segmentation": halves(1, 0)}, own))[200, 300]) == (1, 200, 3)


def test_objects_keep_their_color_behind_a_background_which_is_black() -> None:
    things, ground = ClassInfo(("cat", "dog")), ClassInfo(("background", "cat", "dog"))
    assert class_colors(ground) == ((0, 0, 0), *class_colors(things))


coordinate = st.floats(-200, 900)


@settings(max_examples=30)
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
    draw(BLACK, things(boxes, [0, 1, 0, 1], [math.nan, 0.5, 0.2, 0.1]), CLASSES)


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


PERSON = ClassInfo(
    ("person",),
    keypoint_names=("left_hip", "left_knee", "right_hip", "right_knee", "nose"),
    skeleton=((0, 1), (2, 3), (0, 2), (0, 4)),
)
JOINTS = [[400, 150], [400, 350], [200, 150], [200, 350], [300, 50]]


def posed(visible: Any = (2,) * 5, joints: Any = JOINTS, **more: Any) -> np.ndarray:
    labels = {"keypoints": np.array([joints], np.float32), "visible": np.array([visible]), **more}
    return np.array(draw(BLACK, labels, PERSON)).astype(int)[:400]


def shows(pixels: np.ndarray, x: int, y: int, side: str) -> bool:
    return bool(np.abs(pixels[y, x] - SIDE_COLORS[side]).max() < 8)


def test_limbs_have_the_colour_of_their_side_and_those_across_a_third() -> None:
    pixels = posed()
    assert shows(pixels, 400, 250, "left")
    assert shows(pixels, 200, 250, "right")
    assert shows(pixels, 300, 150, "middle")
    assert shows(pixels, 350, 100, "left")  # to the nose, which has no side
    for (x, y), side in zip(JOINTS, ("left", "left", "right", "right", "middle"), strict=True):
        assert shows(pixels, x, y, side)


def test_what_is_not_labelled_is_not_drawn_nor_are_its_limbs() -> None:
    pixels = posed(visible=(2, 0, 2, 2, 2))
    assert pixels[250, 400].max() == pixels[350, 400].max() == 0
    assert shows(pixels, 200, 250, "right")
    assert posed(visible=(0,) * 5).max() == 0


def test_a_hidden_joint_is_a_ring_through_which_the_picture_shows() -> None:
    pixels = posed(visible=(2, 1, 2, 2, 2))
    assert pixels[350, 400].max() < 40
    around = pixels[340:361, 390:411].reshape(-1, 3)
    assert (np.abs(around - SIDE_COLORS["left"]).max(axis=1) < 8).sum() > 20


def test_predicted_joints_are_all_drawn_and_those_that_make_no_sense_are_no_reason_to_fail() -> None:
    joints = np.array([JOINTS], np.float32)
    joints[0, 1], joints[0, 3] = (math.nan, 0), (1e30, 1e30)
    pixels = np.array(draw(BLACK, {"keypoints": joints}, PERSON)).astype(int)
    assert shows(pixels, 400, 150, "left")
    assert shows(pixels, 300, 50, "middle")
    assert pixels[250, 400].max() == 0


def test_lines_are_as_thick_as_the_picture_is_large_and_thinner_for_a_small_person() -> None:
    def thickness(size: int, person: float) -> int:
        joints = np.array([JOINTS]) * person
        picture = draw(np.zeros((3, size, size), np.uint8), {"keypoints": joints}, PERSON)
        row = np.array(picture).astype(int)[round(250 * person), : round(300 * person)]
        return int((np.abs(row - SIDE_COLORS["right"]).max(axis=1) < 60).sum())

    assert thickness(600, 1) >= 4
    assert thickness(2400, 4) >= 3 * thickness(600, 1)
    assert thickness(2400, 0.5) < thickness(2400, 4)


def test_the_legend_of_a_skeleton_names_left_and_right() -> None:
    below = np.array(draw(BLACK, {"keypoints": np.array([JOINTS])}, PERSON))[400:].reshape(-1, 3)
    assert {SIDE_COLORS["left"], SIDE_COLORS["right"]} <= set(map(tuple, below.tolist()))
    assert draw(BLACK, {"keypoints": np.zeros((0, 5, 2))}, PERSON).size == (600, 400)


def test_the_box_of_a_person_is_grey_and_dashed_and_the_only_object_has_its_class() -> None:
    box = {"boxes": torch.tensor([[100.0, 100, 500, 300]])}
    grey = np.array(draw(BLACK, box, CLASSES))
    on = (grey[300, 100:500] == GREY).all(axis=1)
    assert 0.3 < on.mean() < 0.7
    one = np.array(draw(BLACK, box | {"label": torch.tensor(1)}, CLASSES))
    assert tuple(one[200, 100]) == class_color(1)
