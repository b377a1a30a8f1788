"""Each way in which a COCO file can be wrong: one line with file and record, or left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cvtasks.errors import DataError

from .files import Document, write_coco, write_image

# pycocotools' own, in every mask that it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def spoil(document: Document, kind: str, position: int, **values: Any) -> None:
    record = document[kind][position]
    record.update(values)
    for key in [key for key, value in values.items() if value == "delete"]:
        del record[key]


BAD_ANNOTATIONS = [
    ({"bbox": [5, 5, 0, 10]}, "annotation 1: box has no area (x1 = x2 = 5)"),
    ({"bbox": [5, 5, -3, 10]}, "annotation 1: box has no area"),
    (
        {"bbox": [35, 5, 10, 10]},
        "annotation 1: box (35, 5, 45, 15) lies outside the image, which is 40 x 30 pixels",
    ),
    ({"bbox": [5, 5, float("nan"), 10]}, "annotation 1: bbox has a number that is not finite"),
    ({"bbox": [5, 5, float("inf"), 10]}, "annotation 1: bbox has a number that is not finite"),
    ({"bbox": [5, 5, 1e308, 10]}, "too large"),
    ({"bbox": [5, 5, 10**400, 10]}, "too large"),
    ({"bbox": [5, 5, 10]}, "four numbers"),
    ({"bbox": [5, 5, "10", 10]}, "four numbers"),
    ({"bbox": [5, 5, True, 10]}, "four numbers"),
    ({"bbox": None}, "four numbers"),
    ({"category_id": 8}, "annotation 1: category_id 8 is not among the categories"),
    ({"category_id": "7"}, "category_id '7'"),
    ({"category_id": [7]}, "category_id a list"),
    ({"image_id": 99}, "annotation 1: image_id 99 is not among the images"),
    ({"image_id": {}}, "image_id a dict"),
    ({"id": 3}, "annotation 3: this id is there twice"),
    ({"id": [3]}, "its id is neither"),
    ({"iscrowd": 2}, "iscrowd 2"),
    ({"iscrowd": "yes"}, "iscrowd 'yes'"),
    ({"area": float("nan")}, "area nan"),
    ({"area": -1}, "area -1"),
    ({"area": "big"}, "area 'big'"),
    ({"segmentation": [[1, 2, 3]]}, "annotation 1: polygon has an odd number of coordinates (3)"),
    ({"segmentation": []}, "has no segmentation"),
    ({"segmentation": {"size": [40, 30], "counts": [1200]}}, "run-lengths are for (40, 30)"),
]


@pytest.mark.parametrize(("values", "message"), BAD_ANNOTATIONS, ids=lambda v: str(v)[:50])
def test_a_wrong_annotation_is_named_or_skipped(
    tmp_path: Path, document: Document, values: dict[str, Any], message: str
) -> None:
    spoil(document, "annotations", 0, **values)
    files = write_coco(tmp_path, document)
    with pytest.raises(DataError) as caught:
        files.read("masks")
    line = str(caught.value)
    assert line.startswith("dataset coco: labels.json: annotation ")
    assert message in line
    assert line.endswith("; fix the file or set dataset.on_error=skip")
    assert "\n" not in line
    reader = files.read("masks", on_error="skip")
    assert len(reader) == 3
    assert sum(len(reader.truth(i)["labels"]) for i in range(3)) == 2
    assert len(reader.notes) == 1
    assert reader.notes[0].startswith("dataset coco: skipped: labels.json: annotation ")


BAD_IMAGES = [
    ({"id": 11}, "image 11: this id is there twice"),
    ({"id": None}, "image 1 of the list: needs an id"),
    ({"id": 1.5}, "image 1 of the list: needs an id"),
    ({"file_name": "delete"}, "image 10: has no file_name"),
    ({"file_name": 7}, "image 10: has no file_name"),
    ({"file_name": "missing.jpg"}, "image 10: there is no image 'missing.jpg' in "),
    ({"file_name": "../images/10.jpg"}, "image 10: the file name '../images/10.jpg' leads out"),
    ({"width": 0}, "image 10: width 0, height 30: not whole numbers from 1 to 65535"),
    ({"width": 2**31}, "width 2147483648"),
    ({"width": "40"}, "width '40'"),
    ({"width": float("nan")}, "width nan"),
    ({"width": 60_000, "height": 60_000}, "60000 x 60000 is larger"),
]


@pytest.mark.parametrize(("values", "message"), BAD_IMAGES, ids=lambda v: str(v)[:50])
def test_a_wrong_image_record_is_named_or_skipped_with_its_objects(
    tmp_path: Path, document: Document, values: dict[str, Any], message: str
) -> None:
    spoil(document, "images", 0, **values)
    files = write_coco(tmp_path, document)
    with pytest.raises(DataError) as caught:
        files.read()
    assert message in str(caught.value)
    assert "labels.json: image " in str(caught.value)
    reader = files.read(on_error="skip")
    assert len(reader) == 2
    assert len(reader.notes) >= 1
    assert [reader[i]["image_id"] for i in range(2)] == [11, 12]


def test_sizes_that_contradict_the_image_stop_at_the_image_or_are_skipped_beforehand(
    tmp_path: Path, document: Document
) -> None:
    spoil(document, "images", 0, width=50, height=50)
    files = write_coco(tmp_path, document)
    reader = files.read()
    assert reader[1]["image_id"] == 11
    with pytest.raises(DataError, match=r"10\.jpg: is 40 x 30 pixels .* its annotation says 50 x 50"):
        reader[0]
    reader = files.read(on_error="skip")
    assert len(reader) == 2
    assert "image 10: " in reader.notes[0]


def test_a_truncated_image_stops_when_it_is_decoded_or_is_skipped_beforehand(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    path = files.images / "10.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"10\.jpg: is truncated"):
        files.read()[0]
    reader = files.read(on_error="skip")
    assert [reader[i]["image_id"] for i in range(len(reader))] == [11, 12]


@pytest.mark.parametrize("swapped", [False, True])
def test_sizes_may_be_those_of_the_stored_or_the_turned_pixels(
    tmp_path: Path, document: Document, swapped: bool
) -> None:
    document["images"] = document["images"][:1]
    document["annotations"] = document["annotations"][:1]
    spoil(document, "images", 0, width=30 if swapped else 40, height=40 if swapped else 30)
    files = write_coco(tmp_path, document)
    write_image(files.images / "10.jpg", 40, 30, orientation=6)
    size = (40, 30) if swapped else (30, 40)
    assert files.read()[0]["image"].shape == (3, *size)
    assert files.read(on_error="skip").notes == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"images": [', "is not JSON"),
        ("[]", "is a list, as results are"),
        ("7", 'has no list "images"'),
        ('{"images": {}, "annotations": [], "categories": []}', 'has no list "images"'),
        ('{"images": [], "categories": []}', 'has no list "annotations"'),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no images in it"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 10_000 + "}", "is not JSON"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_no_data_set_is_one_line(
    tmp_path: Path, text: str, message: str, on_error: str
) -> None:
    files = write_coco(tmp_path)
    files.labels.write_text(text)
    with pytest.raises(DataError) as caught:
        files.read(on_error=on_error)
    assert str(caught.value).startswith("dataset coco: labels.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    files = write_coco(tmp_path)
    files.labels.write_bytes(b'{"images": "\xff\xfe\x80"}')
    with pytest.raises(DataError, match=r"labels\.json: is not JSON"):
        files.read()


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
        [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}],
        [{"id": 1}],
        [{"name": "cat"}],
        [{"id": 1, "name": " "}],
        [{"id": 1, "name": "two\nlines"}],
        [{"id": 1, "name": "\ud800"}],
        [{"id": "1", "name": "cat"}],
        ["cat"],
    ],
)
def test_categories_have_ids_and_names_of_their_own(
    tmp_path: Path, document: Document, categories: list[Any]
) -> None:
    document["categories"] = categories
    with pytest.raises(DataError, match=r"labels\.json: category [12]: "):
        write_coco(tmp_path, document).read(on_error="skip")
