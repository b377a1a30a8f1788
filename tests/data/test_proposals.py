"""Readers with proposals: what is computed, where, and what a sample has."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from proposal_methods import Tiles

from cvtasks.data import transforms
from cvtasks.data.collate import collate
from cvtasks.data.proposals import ComputedProposals, GivenProposals, computed, pixels, within
from cvtasks.data.shapes import ShapesReader
from cvtasks.errors import CvtasksError, DataError
from cvtasks.proposals.cache import ProposalCache

from .samples import MemoryReader, make_sample

FIELDS = frozenset({"boxes", "labels", "ignore"})


def reader_of(folder: Path, *, count: int = 6, bad: int | None = None, **settings) -> ComputedProposals:
    method = Tiles(log=str(folder / "log"), **settings)
    inner = MemoryReader(count, bad=bad)
    return ComputedProposals(inner, ProposalCache(method, folder / "cache"))


def log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_a_sample_has_the_methods_boxes_in_the_images_pixels(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    sample = reader[4]
    height, width = sample["orig_size"]
    assert (height, width) == (25, 36)
    assert sample["proposals"].dtype == torch.float32
    assert sample["proposals"][0].tolist() == [0, 0, width, height]
    assert len(sample["proposals"]) == 21
    assert "proposals" in reader.provides
    assert reader.truth(4)["boxes"].tolist() == [[4] * 4]
    assert len(reader) == 6


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_is_missing_is_computed_once_in_order_and_not_again(tmp_path: Path, workers: int) -> None:
    found = list(computed(reader_of(tmp_path), range(6), workers=workers))
    assert [tuple(p.boxes[0, 2:]) for p in found] == [(32 + i % 5, 24 + i % 3) for i in range(6)]
    lines = log(tmp_path)
    assert len(lines) == 6
    assert (str(os.getpid()) in {line.split()[0] for line in lines}) == (workers < 2)
    again = list(computed(reader_of(tmp_path), range(6), workers=workers))
    assert [p.seconds for p in again] == [p.seconds for p in found]
    assert len(log(tmp_path)) == 6


def test_only_the_images_in_use_are_computed(tmp_path: Path) -> None:
    list(computed(reader_of(tmp_path), range(1, 6, 2), workers=2))
    assert len(log(tmp_path)) == 3


def test_stopped_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    running = computed(reader_of(tmp_path, count=40), range(40), workers=2)
    next(running)
    running.close()
    done = len(log(tmp_path))
    assert 1 <= done < 40
    list(computed(reader_of(tmp_path, count=40), range(40), workers=2))
    assert len(log(tmp_path)) == 40


def test_a_worker_that_is_killed_is_an_error_of_one_line_and_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(CvtasksError, match=r"killed.*type the same again"):
        list(computed(reader_of(tmp_path, count=12, dies_at=7), range(12), workers=2))
    done = len(list((tmp_path / "cache").rglob("*.npz")))
    assert done >= 4
    list(computed(reader_of(tmp_path, count=12, dies_at=7), range(12), workers=2))
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 12


def test_ctrl_c_ends_the_workers(tmp_path: Path) -> None:
    """The signal reaches the whole group; the parent alone acts on it."""
    running = computed(reader_of(tmp_path, count=40), range(40), workers=2)
    next(running)
    workers = {int(line.split()[0]) for line in log(tmp_path)}
    for pid in workers:
        os.kill(pid, signal.SIGINT)
    next(running)
    running.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_broken_image_is_the_readers_own_error(tmp_path: Path) -> None:
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"^fake: 3\.jpg: cannot be decoded$"):
            list(computed(reader_of(tmp_path, bad=3), range(6), workers=workers))


def test_generated_images_are_known_by_their_pixels(tmp_path: Path) -> None:
    """Of two splits, and of two seeds, no image is another's; the same scene made again is the same image."""

    def one(**options) -> None:
        shapes = ShapesReader(fields=FIELDS, image_size=64, **options)
        method = Tiles(log=str(tmp_path / "log"))
        list(computed(ComputedProposals(shapes, ProposalCache(method, tmp_path)), range(2), workers=0))

    one(split="train")
    assert len(log(tmp_path)) == 2
    one(split="train")
    assert len(log(tmp_path)) == 2
    one(split="val")
    assert len(log(tmp_path)) == 4
    one(split="train", seed=1)
    assert len(log(tmp_path)) == 6


def test_given_boxes_are_each_images_own_clipped_and_without_empty_ones() -> None:
    boxes = [
        np.array(rows, np.float32).reshape(-1, 4)
        for rows in ([], [[-5, 2, 10, 99], [50, 0, 60, 5]], [[1, 1, 2, 2]])
    ]
    reader = GivenProposals(MemoryReader(3), boxes, ["a note"])
    assert reader[0]["proposals"].shape == (0, 4)
    assert reader[1]["proposals"].tolist() == [[0, 2, 10, 25]]
    assert reader[2]["proposals"].tolist() == [[1, 1, 2, 2]]
    assert reader.notes == ["a note"]


def test_a_batch_pads_with_empty_boxes_and_an_image_without_any_is_no_error() -> None:
    reader = GivenProposals(
        MemoryReader(2), [np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32) * [0, 0, 5, 5]]
    )
    batch = collate([reader[0], reader[1]])
    sides = batch.proposals[..., 2:] - batch.proposals[..., :2]
    assert (sides > 0).all(-1).tolist() == [[False] * 3, [True] * 3]


def test_pixels_are_the_images_own_rows() -> None:
    sample = make_sample(1)
    array = pixels(sample["image"])
    assert array.flags.c_contiguous
    assert array.shape == (48, 64, 3)
    assert array[5, 7].tolist() == sample["image"][:, 5, 7].tolist()


def test_within_keeps_the_order() -> None:
    boxes = np.array([[3, 3, 9, 9], [-1, -1, 0, 5], [2, 2, 2, 4], [0, 0, 1, 1]], np.float32)
    assert within(boxes, (6, 7)).tolist() == [[3, 3, 7, 6], [0, 0, 1, 1]]


@pytest.mark.parametrize("change", ["flip", "crop"])
def test_proposals_move_with_the_pixels_as_boxes_do(change: str) -> None:
    """The oracle: proposals that are the boxes stay the boxes, of objects that fill their boxes."""
    for seed in range(8):
        sample = make_sample(seed, ellipses=False)
        del sample["masks"]
        sample["proposals"] = sample["boxes"].as_subclass(torch.Tensor).clone()
        if change == "flip":
            moved = transforms.horizontal_flip(sample, flip_index=(1, 0, 2))
        else:
            moved = transforms.crop_resize(sample, window=(7, 5, 51, 40), size=(88, 70))
        torch.testing.assert_close(moved["proposals"], moved["boxes"].as_subclass(torch.Tensor))
