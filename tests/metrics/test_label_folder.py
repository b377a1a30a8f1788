"""Round trip: what is written is read back; and every way in which a folder of label maps can be wrong."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cvtasks.errors import DataError
from cvtasks.metrics.label_folder import LabelFolder, encode, file_name
from cvtasks.metrics.segmentation import SegmentationEvaluator
from cvtasks.types import ClassInfo, Truth
from cvtasks.viz.colors import class_colors

from .test_segmentation import CLASSES, judged, random_images, same, truth_of

MAP = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)


def truth(image_id: int | str = "a", file: str = "photos/a.jpg", labels: Any = MAP) -> Truth:
    return truth_of(image_id, labels) | {"file": file}


def save(path: Path, labels: np.ndarray = MAP, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, **options)


def message(folder: Path, of: Truth | None = None) -> str:
    with pytest.raises(DataError) as caught:
        LabelFolder(folder, CLASSES).prediction(of or truth())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_what_an_evaluator_writes_is_judged_with_the_same_numbers(tmp_path: Path, seed: int) -> None:
    images = random_images(seed)
    evaluator = judged(images)
    evaluator.write(tmp_path / "predictions")
    folder, again = LabelFolder(tmp_path / "predictions", CLASSES), SegmentationEvaluator(CLASSES)
    for number, (labels, _) in images.items():
        of = truth_of(number, labels)
        again.update([folder.prediction(of)], [of])
    assert same(again.compute(), evaluator.compute())
    assert folder.notes() == []


def test_a_written_map_shows_the_classes_colors_and_holds_their_numbers(tmp_path: Path) -> None:
    own = ClassInfo(("a", "b"), colors=((1, 2, 3), (250, 0, 9)))
    for classes in (CLASSES, own):
        labels = np.arange(len(classes), dtype=np.uint8)[None]
        (tmp_path / "a.png").write_bytes(encode(labels, classes))
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(picture, labels)
            assert tuple(map(tuple, np.array(picture.convert("RGB"))[0].tolist())) == class_colors(classes)
    assert class_colors(own) == own.colors


def test_thousands_of_maps_are_kept_as_small_files() -> None:
    """A map of 480 x 360 pixels takes a few kilobytes in the evaluator, and in the state that processes exchange."""
    labels = np.zeros((360, 480), np.uint8)
    labels[100:200, 100:300] = 1
    state = judged(dict.fromkeys(range(3), (labels, labels))).state()
    arrays = [column for table in state["tables"].values() for column in table.values()]
    assert sum(column.nbytes for column in arrays) < 3 * 10_000


@pytest.mark.parametrize(
    ("image_id", "file", "there"),
    [
        ("a", "photos/a.jpg", "a.png"),
        (7, "photos/000007.jpg", "7.png"),
        (7, "photos/000007.jpg", "000007.png"),  # the name of the image's file
        ("berlin/a", "photos/berlin/a.jpg", "berlin/a.png"),
        ("berlin/a", "photos/berlin/a.jpg", "a.png"),
        ("a", "photos/a.jpg", "below/a.PNG"),
    ],
)
def test_files_go_by_image_id_or_by_the_images_file(
    tmp_path: Path, image_id: Any, file: str, there: str
) -> None:
    save(tmp_path / there, format="PNG")
    found = LabelFolder(tmp_path, CLASSES).prediction(truth(image_id, file))["segmentation"]
    np.testing.assert_array_equal(found, MAP)


def test_the_exact_id_wins_over_a_like_name(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png", np.zeros_like(MAP))
    save(tmp_path / "a.png")
    found = LabelFolder(tmp_path, CLASSES).prediction(truth())["segmentation"]
    np.testing.assert_array_equal(found, MAP)
    assert LabelFolder(tmp_path, CLASSES).prediction(truth("x/a"))["segmentation"].max() == 0


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no PNG files"):
        LabelFolder(tmp_path, CLASSES)
    save(tmp_path / "b.png")
    assert "there is no a.png for the image photos/a.jpg (there is b.png)" in message(tmp_path)
    assert "7.png or a.png" in message(tmp_path, truth(7))


def test_two_files_for_one_image_are_not_guessed_between(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png")
    assert "x/a.png, y/a.png could all be of the image" in message(tmp_path)


def test_surplus_files_are_told(tmp_path: Path) -> None:
    for name in "abcdef":
        save(tmp_path / f"{name}.png")
    folder = LabelFolder(tmp_path, CLASSES)
    folder.prediction(truth())
    (note,) = folder.notes()
    assert "5 of 6 PNG files are of no image here (b.png, c.png, d.png, ...)" in note


def test_another_size_a_value_without_class_and_colors_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((3, 2), np.uint8))
    assert message(tmp_path).endswith("a.png: is 2 x 3 pixels (width x height), but its image is 3 x 2")
    save(tmp_path / "a.png", np.where(MAP == 3, np.uint8(4), MAP))
    assert "has the value 4, but there are 4 classes" in message(tmp_path)
    save(tmp_path / "a.png", np.zeros((2, 3, 3), np.uint8))
    assert "holds colours" in message(tmp_path)
    (tmp_path / "a.png").write_bytes(encode(MAP, CLASSES)[:-40])
    assert "a.png: is not an image" in message(tmp_path)


def test_a_palette_in_another_order_is_noticed(tmp_path: Path) -> None:
    """As if another program had saved the picture again: its colours are right, and its numbers are not."""
    colors = np.array(class_colors(CLASSES), np.uint8)
    picture = Image.fromarray(MAP % 4)
    picture.putpalette(colors[[1, 0, 2, 3]].tobytes())
    picture.save(tmp_path / "a.png")
    assert "value 0 (road) the colour of class 1 (sky)" in message(tmp_path)
    for other in (colors + 1, colors * 0):  # a palette of its own, and one that says nothing
        picture.putpalette(other.tobytes())
        picture.save(tmp_path / "a.png")
        LabelFolder(tmp_path, CLASSES).prediction(truth())


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6, unique=True))
def test_no_id_leads_out_of_the_folder_and_no_two_share_a_file(ids: list[str]) -> None:
    names = [file_name(i) for i in (*ids, "../up", "/etc/passwd", "..", "a/../b", "C:\\x", "")]
    for name in names:
        assert not name.startswith(("/", "."))
        assert not {"..", ".", ""} & set(name.split("/"))
        assert "\\" not in name
        assert "\0" not in name
    for one, other in itertools.combinations({i: file_name(i) for i in ids}.values(), 2):
        assert one != other
    assert file_name("berlin/a_01.b") == "berlin/a_01.b.png"
    assert file_name(12) == "12.png"
