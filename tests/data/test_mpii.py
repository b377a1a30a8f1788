"""Oracle: the JSON and the structures that the test writes, in pixels counted from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from cvtasks.data.mpii import MAT
from cvtasks.errors import ConfigError, DataError

from .pose_files import mpii_document, mpii_release, places, read_mpii, write_mpii, write_mpii_mat


def test_a_sample_is_one_person_with_a_square_box(tmp_path: Path) -> None:
    reader = read_mpii(write_mpii(tmp_path))
    truth = reader.truth(1)
    assert [reader.truth(i)["image_id"] for i in range(3)] == ["a#1", "a#2", "b#1"]
    assert [reader.truth(i)["source_id"] for i in range(3)] == ["a", "a", "b"]
    assert truth["visible"].tolist() == [[0 if j == 3 else 2 for j in range(16)]]
    known = np.arange(16) != 3
    assert np.allclose(truth["keypoints"][0, known], places(3, 16)[1, known])
    # By hand: centre (30, 17 + 15 * 0.1), 20 pixels long at scale 0.1.
    assert np.allclose(truth["boxes"], [[20, 8.5, 40, 28.5]])
    assert np.isnan(truth["area"]).all()
    assert reader[1]["keypoints"].shape == (1, 16, 2)


def test_the_box_is_cut_at_the_image_s_edge(tmp_path: Path) -> None:
    document = mpii_document()
    document[0]["scale"] = 1.0
    assert read_mpii(write_mpii(tmp_path, document)).truth(0)["boxes"].tolist() == [[0, 0, 60, 40]]


def test_heads_are_measured_for_the_people_in_the_json_s_order(tmp_path: Path) -> None:
    root = write_mpii(tmp_path)
    corners = np.zeros((2, 2, 3))
    corners[1] = np.array([[3, 4], [6, 8], [0, 0]]).T  # diagonals of 5, 10 and nothing
    scipy.io.savemat(root / "annot" / "gt_valid.mat", {"headboxes_src": corners})
    reader = read_mpii(root, split="val")
    sizes = [reader.truth(i)["head_size"] for i in range(3)]
    assert sizes[:2] == [3, 6]
    assert np.isnan(sizes[2])
    scipy.io.savemat(root / "annot" / "gt_valid.mat", {"headboxes_src": corners[:, :, :2]})
    with pytest.raises(DataError, match=r"gt_valid\.mat: headboxes_src has the shape \(2, 2, 2\).*3 people"):
        read_mpii(root, split="val")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image", 7, "its image is 7, not the name of a file"),
        ("image", "gone.jpg", "there is no image 'gone.jpg'"),
        ("image", "../a.jpg", "leads out of the data set's folder"),
        ("joints", [[1, 2]] * 15, "its joints are not 16 times x, y"),
        ("joints", [[1, 2], [3]], "its joints are not 16 times x, y"),
        ("joints", [[1, "2"]] * 16, "its joints are not 16 times x, y"),
        (
            "joints",
            [[1000, 2]] * 16,
            r"joint 1 is at \(999\.5, 1\.5\), far outside the image, which is 60 x 40",
        ),
        ("joints_vis", [2] * 16, "its joints_vis are not 16 times 0 or 1"),
        ("center", None, "its center is not two numbers"),
        ("scale", 0, "its scale is not a number above 0, so its box has no area"),
        ("scale", float("nan"), "its scale is not a number above 0"),
    ],
)
def test_a_wrong_person_is_named_or_skipped(tmp_path: Path, key: str, value: Any, message: str) -> None:
    document = mpii_document()
    document[1][key] = value
    root = write_mpii(tmp_path, document)
    with pytest.raises(DataError, match=rf"train\.json: person 2: .*{message}"):
        read_mpii(root)
    reader = read_mpii(root, on_error="skip")
    assert len(reader) == 2
    assert "person 2" in reader.notes[0]


@pytest.mark.parametrize("text", ["{}", "[]", "[1", "7", '"a"'])
def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    root = write_mpii(tmp_path)
    (root / "annot" / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json: is not"):
        read_mpii(root)


# The data set's own file


def test_the_mat_has_visibility_heads_and_no_split_of_its_own(tmp_path: Path) -> None:
    root = write_mpii_mat(write_mpii(tmp_path), mpii_release())
    options: dict[str, Any] = {"train": {"annotations": MAT}}
    reader = read_mpii(root, **options)
    assert [reader.truth(i)["image_id"] for i in range(len(reader))] == ["a#1", "a#2", "b#1"]
    truth = reader.truth(0)
    assert truth["visible"].tolist() == [[{2: 1, 3: 0}.get(j, 2) for j in range(16)]]
    known = np.arange(16) != 3
    assert np.allclose(truth["keypoints"][0, known], places(1, 16)[0, known])
    assert truth["head_size"] == 3
    assert np.allclose(truth["boxes"], [[20, 8.5, 40, 28.5]])
    with pytest.raises(ConfigError, match=r"has labels for training only; type dataset\.val_fraction=0\.1"):
        read_mpii(root, split="val", val={"annotations": MAT})
    parts = [read_mpii(root, split=s, val_fraction=0.5, **options) for s in ("train", "val")]
    assert sorted(len(each) for each in parts) == [1, 2]  # people of one image stay together


def test_a_wrong_structure_is_named(tmp_path: Path) -> None:
    content = mpii_release()
    content["annolist"][1]["annorect"] = content["annolist"][1]["annorect"] | {"scale": 0}
    root = write_mpii_mat(write_mpii(tmp_path), content)
    with pytest.raises(DataError, match=r"u12_1\.mat: image 2: person 1: its scale is not a number above 0"):
        read_mpii(root, train={"annotations": MAT})
    write_mpii_mat(root, {"annolist": 7})
    with pytest.raises(DataError, match="RELEASE has not one annolist and img_train for each image"):
        read_mpii(root, train={"annotations": MAT})


def test_a_head_box_that_is_none_is_not_known(tmp_path: Path) -> None:
    """An endless head would make every guess right."""
    content = mpii_release()
    person = content["annolist"][1]["annorect"]
    for wrong in ({"x2": np.inf}, {"x2": np.nan}, {"x2": 1, "y2": 1}, {"y2": "5"}):
        content["annolist"][1]["annorect"] = person | wrong
        root = write_mpii_mat(tmp_path if (tmp_path / "annot").is_dir() else write_mpii(tmp_path), content)
        assert np.isnan(read_mpii(root, train={"annotations": MAT}).truth(2)["head_size"])
