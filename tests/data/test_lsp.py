"""Oracle: the array that the test writes, whose joints stand where `pose_files.places` says."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from cvtasks.data.skeletons import LSP
from cvtasks.errors import ConfigError, DataError

from .files import write_image
from .pose_files import lsp_array, places, read_lsp, write_lsp


def ids(reader: Any) -> list[str]:
    return [reader.truth(i)["image_id"] for i in range(len(reader))]


@pytest.mark.parametrize("extended", [True, False])
def test_either_order_of_the_array_gives_the_same_joints_and_its_own_visibility(
    tmp_path: Path, extended: bool
) -> None:
    root = write_lsp(tmp_path, lsp_array(3, extended=extended), train=[1, 2, 3])
    reader = read_lsp(root)
    sample, truth = reader[1], reader.truth(1)
    labelled = np.arange(14) != 3
    wanted = places(3, 14)[1]
    # The place of an unlabelled joint means nothing; that of a hidden one is known.
    assert truth["visible"].tolist() == [[2 if each else 0 if extended else 1 for each in labelled]]
    known = labelled if extended else np.ones(14, bool)
    assert np.allclose(truth["keypoints"][0, known], wanted[known])
    assert (truth["keypoints"][0, ~known] == 0).all()
    assert truth["keypoints"].dtype == np.float64
    assert torch.equal(sample["keypoints"], torch.from_numpy(truth["keypoints"]).float())
    assert sample["visible"].tolist() == truth["visible"].tolist()
    assert set(sample) == {"image", "image_id", "orig_size", "boxes", "keypoints", "visible"}
    assert (truth["image_id"], truth["source_id"]) == ("im0002", "im0002")
    assert np.isnan(truth["head_size"])
    assert reader.classes.keypoint_names == LSP.names
    assert reader.classes.names == ("person",)
    assert pickle.loads(pickle.dumps(reader)).truth(2)["image_id"] == "im0003"


def test_the_third_row_can_be_told(tmp_path: Path) -> None:
    root = write_lsp(tmp_path, lsp_array(2, extended=True), train=[1, 2])
    visible = read_lsp(root, third_row="hidden").truth(0)["visible"][0]
    assert visible.tolist() == [2 if j == 3 else 1 for j in range(14)]


def test_the_person_s_box_is_that_of_the_labelled_joints(tmp_path: Path) -> None:
    array = lsp_array(1)
    array[0, :2, 0], array[0, 2, 0] = 1000, 0  # far off, and not labelled
    truth = read_lsp(write_lsp(tmp_path, array, train=[1])).truth(0)
    x, y = places(1, 14)[0].T
    assert np.allclose(truth["boxes"], [[x[1], y[1], x[13], y[13]]])


def test_a_thin_box_is_widened_about_its_middle(tmp_path: Path) -> None:
    # By hand: joints on the line x = 20 from y = 2 to y = 34, 32 long; a quarter of it is 8.
    array = lsp_array(1)
    array[:, 0], array[:, 1, 0], array[:, 2] = 20.5, np.linspace(2.5, 34.5, 14), 1
    assert np.allclose(read_lsp(write_lsp(tmp_path, array, train=[1])).truth(0)["boxes"], [[16, 2, 24, 34]])


def test_lists_the_paper_s_halves_whole_files_and_fractions_are_splits(tmp_path: Path) -> None:
    listed = write_lsp(tmp_path / "listed", train=[2, 4], val=[1])
    assert ids(read_lsp(listed)) == ["im0002", "im0004"]
    assert ids(read_lsp(listed, split="val")) == ["im0001"]
    own = {"list": "val.txt"}
    assert ids(read_lsp(listed, train=own)) == ["im0001"]
    plain = write_lsp(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"has 6 images, of which nobody says.*dataset\.val_fraction=0\.2"):
        read_lsp(plain)
    whole = {"annotations": str(plain / "joints.mat")}
    assert len(read_lsp(plain, root=None, train=whole)) == 6
    train, val = (ids(read_lsp(plain, split=s, val_fraction=0.4)) for s in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert sorted(train + val) == [f"im{n:04d}" for n in range(1, 7)]


def test_of_the_2000_images_of_lsp_the_first_half_is_for_training(tmp_path: Path) -> None:
    root = write_lsp(tmp_path, lsp_array(2000, extended=False), images=0)
    for number in (1, 1000, 1001, 2000):
        write_image(root / "images" / f"im{number:04d}.jpg", 60, 40)
    train, val = (read_lsp(root, split=s, on_error="skip") for s in ("train", "val"))
    assert (ids(train), ids(val)) == (["im0001", "im1000"], ["im1001", "im2000"])


# What is wrong


def test_a_joint_outside_the_image_is_unlabelled_and_one_far_off_an_error(tmp_path: Path) -> None:
    array = lsp_array(3)
    array[0, :2, 0] = (-1, 5)  # within the tolerance of two pixels
    array[0, :2, 1] = (-9, 5)
    reader = read_lsp(write_lsp(tmp_path, array, train=[1, 2]))
    assert [reader.truth(i)["visible"][0, 0] for i in (0, 1)] == [2, 0]
    assert reader.notes == [
        "dataset lsp: left out joints that lie outside the image, of (1): joints.mat: image 2 (im0002.jpg)"
    ]
    for far in (np.nan, 1e9, 200):
        array[5, 0, 2] = far
        root = write_lsp(tmp_path, array, train=[3, 1])
        with pytest.raises(
            DataError, match=r"joints\.mat: image 3 \(im0003\.jpg\): joint 6 is at .*far outside"
        ):
            read_lsp(root)
        assert ids(read_lsp(root, on_error="skip")) == ["im0001"]


def test_people_without_a_labelled_joint_or_a_box_are_left_out_and_counted(tmp_path: Path) -> None:
    array = lsp_array(3)
    array[:, 2, 0] = 0
    array[:, 2, 1] = np.arange(14) == 5  # one joint has no box
    reader = read_lsp(write_lsp(tmp_path, array, train=[1, 2, 3]))
    assert ids(reader) == ["im0003"]
    assert "left out people without a labelled joint (1)" in reader.notes[1]
    assert "all in one place (1): joints.mat: image 2 (im0002.jpg)" in reader.notes[0]
    array[:, 2] = 0
    with pytest.raises(DataError, match=r"joints\.mat: there is no person with a labelled joint"):
        read_lsp(write_lsp(tmp_path, array, train=[1, 2, 3]))


def spoilt(path: Path, what: str) -> None:
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif what == "text":
        path.write_text("joints")
    elif what == "7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(200))
    elif what == "shape":
        scipy.io.savemat(path, {"joints": np.zeros((14, 2, 6))})
    elif what == "cell":
        scipy.io.savemat(path, {"joints": np.array([["a", "b"]], object)})
    else:
        scipy.io.savemat(path, {"other": np.zeros((14, 3, 6))})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", r"joints\.mat: is truncated or damaged"),
        ("text", r"joints\.mat: is not a MATLAB file"),
        ("7.3", r"joints\.mat: is MATLAB 7\.3's format; save it anew"),
        ("shape", r"joints\.mat: joints has the shape \(14, 2, 6\); expected numbers \(3, 14, images\)"),
        ("cell", r"joints\.mat: joints has the shape \(1, 2\)"),
        ("variable", r"joints\.mat: has no variable joints"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(tmp_path: Path, what: str, message: str) -> None:
    root = write_lsp(tmp_path, train=[1])
    spoilt(root / "joints.mat", what)
    for on_error in ("raise", "skip"):
        with pytest.raises(DataError, match=message) as raised:
            read_lsp(root, on_error=on_error)
        assert len(str(raised.value).splitlines()) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = write_lsp(tmp_path, train=[1])
    for message, options in {
        r"there is no train data; type dataset\.root=DIR": {"root": None},
        r"there is no file .*nowhere; type dataset\.train\.annotations=FILE": {
            "train": {"annotations": "nowhere"}
        },
        r"there is no folder .*nowhere; type dataset\.train\.images=DIR": {"train": {"images": "nowhere"}},
        r"there is no list .*nowhere; type dataset\.train\.list=FILE": {"train": {"list": "nowhere"}},
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_lsp(root, **options)
    (root / "train.txt").write_text("im0007.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: line 1: 'im0007\.jpg' is not one of im1 to im6"):
        read_lsp(root)
    (root / "images" / "im0001.jpg").unlink()
    (root / "train.txt").write_text("im0001\n")
    with pytest.raises(DataError, match=r"joints\.mat: image 1: there is no such image in "):
        read_lsp(root)
