"""Proposals out of files: three foreign forms and our own, matched by id or name, or refused as another data set's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proposal_methods import Tiles

from cvtasks.data.proposal_files import FORMAT, ProposalFiles, own_form
from cvtasks.data.voc import VocReader
from cvtasks.errors import ConfigError, DataError

from .files import read_voc, write_coco, write_voc

STEMS = ["000005", "000007", "000009"]
SIZE = (30, 40)  # height, width of every image


@pytest.fixture
def reader(tmp_path: Path) -> VocReader:
    write_voc(tmp_path / "voc", train=STEMS, val=STEMS[:1])
    return read_voc(tmp_path / "voc", fields=frozenset({"boxes", "labels", "ignore"}))


def match(
    path: Path, reader: Any, content: Any = None, **settings: Any
) -> tuple[list[list[list[float]]], list[str]]:
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    boxes, notes = ProposalFiles(train=str(path), **settings).match("train", reader)
    return [b.tolist() for b in boxes], notes


def write_mat(path: Path, names: Sequence[str], boxes: Sequence[Any], *, column: bool = False) -> Path:
    """As the R-CNN authors' files: cells of 1 x N (or N x 1)."""
    from scipy.io import savemat

    cells = {"boxes": np.empty(len(boxes), object), "images": np.empty(len(names), object)}
    for key, values in (("boxes", boxes), ("images", names)):
        for i, value in enumerate(values):
            cells[key][i] = np.array(value, np.float64).reshape(-1, 4) if key == "boxes" else value
        cells[key] = cells[key][:, None] if column else cells[key][None]
    savemat(path, cells)
    return path


@pytest.mark.parametrize("column", [False, True])
def test_the_authors_matlab_file_counts_rows_first_and_from_one(
    tmp_path: Path, reader: Any, column: bool
) -> None:
    """By hand: rows 1 to 30 and columns 1 to 40 are the whole image; one pixel is 1 x 1; order is the file's."""
    boxes = [[[1, 1, 30, 40], [3, 5, 3, 5]], [], [[2, 1, 10, 20]]]
    path = write_mat(tmp_path / "voc_2007_train.mat", STEMS[::-1], boxes, column=column)
    found, notes = match(path, reader)
    assert found == [[[0, 1, 20, 10]], [], [[0, 0, 40, 30], [4, 2, 5, 3]]]
    assert notes == [f"{path}: 1 proposals an image", f"{path}: 1 of 3 images have no proposals"]


def test_a_mapping_of_names_keeps_its_order(tmp_path: Path, reader: Any) -> None:
    boxes = [[1.5, 2, 3, 4], [0, 0, 40, 30]]
    for suffix in ("", ".jpg"):
        content = {stem + suffix: boxes for stem in STEMS}
        assert match(tmp_path / "p.json", reader, content)[0] == [boxes] * 3


def test_cocos_results_are_sorted_by_score_and_matched_by_id(tmp_path: Path) -> None:
    """Ids 10, 11, 12, whose files are 10.jpg, ...; equal scores keep their order."""
    reader = write_coco(tmp_path / "coco").read("boxes", "labels", "ignore", split="val")
    records = [
        {"image_id": 11, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 11, "bbox": [5, 6, 7, 8], "score": 0.9, "category_id": 3},
        {"image_id": 11, "bbox": [9, 9, 1, 1], "score": 0.5},
        {"image_id": "10", "bbox": [0, 0, 40, 30], "score": -3},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    boxes, _ = ProposalFiles(val=str(path)).match("val", reader)
    assert [b.tolist() for b in boxes] == [
        [[0, 0, 40, 30]], [[5, 6, 12, 14], [1, 2, 4, 6], [9, 9, 10, 10]], [],
    ]  # fmt: skip


class Two:
    """A reader whose ids are the names of the other image's files."""

    def __init__(self, *images: tuple[Any, str]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def truth(self, index: int) -> dict[str, Any]:
        image_id, file = self.images[index]
        return {"image_id": image_id, "file": file, "orig_size": SIZE}


def test_all_names_of_a_file_are_of_one_kind(tmp_path: Path) -> None:
    """Easier and wrong: each name as whatever it fits, so that an image gets the other's boxes."""
    content = {"1": [[0, 0, 1, 1]], "2": [[0, 0, 2, 2]]}
    crossed = Two((1, "2.jpg"), (2, "1.jpg"))
    assert match(tmp_path / "p.json", crossed, content)[0] == [[[0, 0, 1, 1]], [[0, 0, 2, 2]]]


def test_a_name_of_two_images_is_neithers(tmp_path: Path) -> None:
    content = {"a/1.jpg": [[0, 0, 1, 1]], "b/1.jpg": [[0, 0, 2, 2]], "c/3.jpg": [[0, 0, 3, 3]]}
    folders = Two((7, "a/1.jpg"), (8, "b/1.jpg"), (9, "c/3.jpg"))
    assert [b[0][2] for b in match(tmp_path / "p.json", folders, content)[0]] == [1, 2, 3]
    content = {"1": [[0, 0, 1, 1]], "3": [[0, 0, 3, 3]], "4": []}
    found, _ = match(
        tmp_path / "p.json", Two((7, "a/1.jpg"), (8, "b/1.jpg"), (9, "c/3.jpg"), (6, "4.jpg")), content
    )
    assert found == [[], [], [[0, 0, 3, 3]], []]


def test_our_own_file_comes_back_as_it_was_written(tmp_path: Path, reader: Any) -> None:
    """To a hundredth of a pixel; of the first images alone, where only these were asked for."""
    rng = np.random.default_rng(0)
    corners = (
        np.sort(rng.uniform((0, 0), SIZE[::-1], (2, 50, 2, 2)), axis=2).reshape(2, 50, 4).astype(np.float32)
    )
    path = tmp_path / "proposals.json"
    path.write_text("".join(own_form(reader, list(corners), {"method": "tiles"})))
    assert json.loads(path.read_text())["method"] == "tiles"
    found, notes = match(path, reader)
    np.testing.assert_allclose(found[0], corners[0], atol=0.0051)
    np.testing.assert_allclose(found[1], corners[1], atol=0.0051)
    assert found[2] == []
    assert notes[-1].endswith("1 of 3 images have no proposals")


def test_only_the_best_of_each_image_are_used(tmp_path: Path, reader: Any) -> None:
    content = {stem: [[0, 0, n, n] for n in range(1, 9)] for stem in STEMS}
    assert match(tmp_path / "p.json", reader, content, limit=2)[0] == [[[0, 0, 1, 1], [0, 0, 2, 2]]] * 3


def test_what_reaches_over_an_edge_is_clipped_and_counted(tmp_path: Path, reader: Any) -> None:
    content = {stem: [[-1, 0, 41, 30], [2, 2, 9, 9]] for stem in STEMS} | {"other": [[0, 0, 900, 900]]}
    found, notes = match(tmp_path / "p.json", reader, content)
    assert found == [[[0, 0, 40, 30], [2, 2, 9, 9]]] * 3
    assert any("3 proposals reach over an edge" in note for note in notes)


def test_another_data_sets_file_is_refused_by_its_fingerprint(tmp_path: Path, reader: Any) -> None:
    """The same names and sizes, but one image less; and the same images, one of them of another size."""
    boxes = [Tiles()(np.zeros((*SIZE, 3), np.uint8))] * 2
    path = tmp_path / "p.json"
    images = [(t["image_id"], t["file"]) for t in map(reader.truth, range(3))]
    path.write_text("".join(own_form(Two(*images[:2]), boxes, {})))
    with pytest.raises(DataError, match=r"belongs to another data set.*cvtasks proposals"):
        match(path, reader)

    class Resized(Two):
        def truth(self, index: int) -> dict[str, Any]:
            return super().truth(index) | ({"orig_size": (60, 80)} if index == 2 else {})

    path.write_text("".join(own_form(Resized(*images), boxes, {})))
    with pytest.raises(DataError, match="belongs to another data set"):
        match(path, reader)
    path.write_text("".join(own_form(Two(*images), boxes, {})))
    match(path, reader)


def test_a_file_that_knows_few_of_the_images_is_refused(tmp_path: Path, reader: Any) -> None:
    content = {stem: [[0, 0, 5, 5]] for stem in ("000005", "1", "2", "3")}
    with pytest.raises(DataError, match="has 1 of the 3 images, by id or by file name"):
        match(tmp_path / "p.json", reader, content)


def test_boxes_far_outside_of_the_images_are_another_data_sets(tmp_path: Path, reader: Any) -> None:
    """Of the same images at twice the size."""
    content = {stem: [[0, 0, 80, 60], [50, 40, 79, 59], [1, 1, 9, 9]] for stem in STEMS}
    with pytest.raises(
        DataError, match=r"6 of its 9 boxes lie far outside.*\[0, 0, 80, 60\] in image 000005, 40 x 30"
    ):
        match(tmp_path / "p.json", reader, content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "neither MATLAB's file .* nor JSON"),
        ("[" * 100_000, "nested too deeply|nor JSON"),
        ("3", "holds no proposals"),
        ({"images": 3}, "holds no proposals"),
        ({"format": FORMAT}, "holds no proposals"),
        ({"format": FORMAT, "data": "x", "images": [{"boxes": []}]}, "image number 1 has no image_id"),
        ({"format": FORMAT, "data": "x", "images": [3]}, "image number 1 has no image_id"),
        ({"000005": [[1, 2, 3]]}, r"image '000005': expected boxes \[\[x1, y1, x2, y2\]"),
        ({"000005": [[1, 2, 3, 4], [1]]}, "image '000005': expected boxes"),
        ({"000005": [1, 2, 3, 4]}, "image '000005': expected boxes"),
        ({"000005": [["1", "2", "3", "4"]]}, "image '000005': expected boxes"),
        ({"000005": [[True, False, True, True]]}, "image '000005': expected boxes"),
        ({"000005": [[1, 2, None, 4]]}, "image '000005': expected boxes"),
        (
            '{"000005": [[0, 0, 1, 1], [1, 2, NaN, 4]]}',
            r"box 2 is \[1.0, 2.0, nan, 4.0\], which are no pixels",
        ),
        ('{"000005": [[1, 2, 1e300, 4]]}', "which are no pixels"),
        ([3], "record 0 is no result"),
        ([{"image_id": 1, "bbox": [1, 2, 3], "score": 1}], "record 0 is no result"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "record 0 is no result"),
        ([{"image_id": 1, "bbox": [1, 2, 3, True], "score": 1}], "record 0 is no result"),
        ([{"bbox": [1, 2, 3, 4], "score": 1}], "record 0 is no result"),
        ('[{"image_id": 1, "bbox": [1, 2, Infinity, 4], "score": 1}]', "which are no pixels"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, reader: Any, content: Any, says: str
) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(DataError, match=says) as error:
        match(path, reader, content)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_damaged_matlab_file_is_named(tmp_path: Path, reader: Any) -> None:
    path = write_mat(tmp_path / "p.mat", STEMS, [[[1, 1, 9, 9]]] * 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"p\.mat"):
        match(path, reader)
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match=r"p\.mat: is not a MATLAB file"):
        match(path, reader)
    write_mat(path, STEMS[:2], [[[1, 1, 9, 9]]] * 3)
    with pytest.raises(DataError, match="of one length, not 3 and 2"):
        match(path, reader)


def test_a_split_without_a_file_says_what_to_type(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(ConfigError, match=r"type proposals\.val=FILE"):
        ProposalFiles(train="x").match("val", reader)
    with pytest.raises(ConfigError, match=r"proposals\.train=x: there is no such file"):
        ProposalFiles(train="x").match("train", reader)
