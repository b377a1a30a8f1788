"""Oracle: the structures that the test writes; joint j of FLIC's eleven at (5 + j, 3 + j), pixels counted from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from cvtasks.data.skeletons import FLIC
from cvtasks.errors import ConfigError, DataError

from .pose_files import flic_examples, read_flic, write_flic


def test_eleven_of_the_file_s_joints_are_read_for_training_and_its_test_frames(tmp_path: Path) -> None:
    train, val = (read_flic(write_flic(tmp_path), split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1)
    assert train.truth(0)["visible"].tolist() == [[2] * 10 + [0]]
    assert val.truth(0)["keypoints"][0].tolist() == [[5 + j, 3 + j] for j in range(11)]
    assert val.truth(0)["image_id"] == "1"
    assert val.classes.keypoint_names == FLIC.names
    assert val.truth(0)["boxes"].tolist() == [[5, 3, 15, 13]]
    assert val[0]["keypoints"].shape == (1, 11, 2)


def test_each_joint_is_that_of_the_file_s_column(tmp_path: Path) -> None:
    """By the file's own list of its 29 columns."""
    columns = [
        *("lsho", "lelb", "lwri", "rsho", "relb", "rwri", "lhip", "lkne", "lank", "rhip", "rkne", "rank"),
        *("leye", "reye", "lear", "rear", "nose"),
    ]
    parts = {"sho": "shoulder", "elb": "elbow", "wri": "wrist", "eye": "eye", "nose": "nose"}
    parts |= {"hip": "hip", "kne": "knee", "ank": "ankle", "ear": "ear"}
    sides = {"l": "left ", "r": "right "}
    examples = flic_examples()
    examples[1]["coords"] = np.tile(np.arange(29) + 1.0, (2, 1))  # joint of column c at c + 0.5
    truth = read_flic(write_flic(tmp_path, examples), split="val").truth(0)
    for name, (x, y) in zip(FLIC.names, truth["keypoints"][0].tolist(), strict=True):
        short = columns[int(x)]
        assert x == y == int(x) + 0.5
        assert name == (parts[short] if short in parts else sides[short[0]] + parts[short[1:]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coords": np.zeros((2, 11))}, "coords are not 2 x 29 numbers"),
        ({"coords": np.full((2, 29), np.inf)}, r"joint 1 is at \(inf, inf\), far outside the image"),
        ({"coords": np.full((2, 29), 500.0)}, r"joint 1 is at .* far outside the image, which is 60 x 40"),
        ({"filepath": 7}, "filepath is .*, not the name of a file"),
        ({"filepath": "gone.jpg"}, "there is no image 'gone.jpg'"),
        ({"filepath": "../images/0.jpg"}, "leads out of the data set's folder"),
        ({"istrain": "yes"}, "istrain or istest is not 0 or 1"),
        ({"istrain": 7}, "istrain or istest is not 0 or 1"),
    ],
)
def test_a_wrong_example_is_named_or_skipped(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    examples = flic_examples()
    examples[0] |= changes
    root = write_flic(tmp_path, examples)
    with pytest.raises(DataError, match=rf"examples\.mat: example 1: .*{message}.*on_error=skip"):
        read_flic(root)
    skipped = read_flic(root, on_error="skip")
    assert skipped.truth(0)["image_id"] == "3"
    assert len(skipped) == 1
    assert "example 1" in skipped.notes[0]


def test_frames_without_a_joint_are_left_out_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    examples = flic_examples()
    examples[0]["coords"] = np.full((2, 29), np.nan)
    reader = read_flic(write_flic(tmp_path, examples))
    assert (len(reader), reader.notes) == (
        1, ["dataset flic: left out people without a labelled joint (1)"],
    )  # fmt: skip
    examples[3]["coords"] = np.full((2, 29), np.nan)
    with pytest.raises(DataError, match=r"examples\.mat: there is no person with a labelled joint"):
        read_flic(write_flic(tmp_path, examples))


@pytest.mark.parametrize("value", [7, "text", np.zeros((0, 0)), np.array([["a", "b"]], object), {"a": 7}])
def test_examples_that_are_no_structures_are_one_line(tmp_path: Path, value: Any) -> None:
    root = write_flic(tmp_path)
    scipy.io.savemat(root / "examples.mat", {"examples": value})
    with pytest.raises(DataError, match=r"examples\.mat: example") as raised:
        read_flic(root)
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not given; type dataset\.root=DIR for a folder with both"):
        read_flic(tmp_path, root=None)
    with pytest.raises(ConfigError, match=r"has no examples\.mat, or no images; type dataset\.root=DIR"):
        read_flic(tmp_path)
