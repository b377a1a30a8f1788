"""The cache: every image once, whatever happens to its files."""

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from proposal_methods import MeanBox, Tiles

from cvtasks.errors import CvtasksError, OutOfDiskError
from cvtasks.proposals.cache import FittedMethods, ProposalCache, cache_folder, fits

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture
def method(tmp_path: Path) -> Tiles:
    return Tiles(log=str(tmp_path / "log"))


def asked(method: Tiles) -> int:
    path = Path(method.log)
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_an_image_is_computed_once_and_for_every_process_alike(method: Tiles, tmp_path: Path) -> None:
    first = ProposalCache(method, tmp_path).of(IMAGE)
    again = ProposalCache(method, tmp_path).of(np.asfortranarray(IMAGE))
    np.testing.assert_array_equal(first.boxes, Tiles()(IMAGE))
    np.testing.assert_array_equal(again.boxes, first.boxes)
    assert again.boxes.dtype == np.float32
    assert again.seconds == first.seconds
    assert asked(method) == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(IMAGE.transpose(1, 0, 2), id="another shape"),
        pytest.param(IMAGE.reshape(30, 20, 3), id="the same bytes in another shape"),
        pytest.param(
            np.where(np.arange(20 * 30 * 3).reshape(IMAGE.shape) == 900, IMAGE ^ 1, IMAGE), id="one bit"
        ),
    ],
)
def test_another_image_has_a_file_of_its_own(method: Tiles, tmp_path: Path, other: np.ndarray) -> None:
    cache = ProposalCache(method, tmp_path)
    assert cache.file(other) != cache.file(IMAGE)


def test_other_settings_have_a_folder_of_their_own(method: Tiles, tmp_path: Path) -> None:
    other = dataclasses.replace(method, limit=3)
    assert len(ProposalCache(method, tmp_path).of(IMAGE).boxes) > 3
    assert len(ProposalCache(other, tmp_path).of(IMAGE).boxes) == 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: whole[: len(whole) // 2], id="cut short"),
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: b"no archive", id="something else"),
        pytest.param(lambda whole: whole[:60] + bytes([whole[60] ^ 255]) + whole[61:], id="a byte"),
    ],
)
def test_a_damaged_file_is_computed_again(method: Tiles, tmp_path: Path, damage) -> None:
    cache = ProposalCache(method, tmp_path)
    boxes = cache.of(IMAGE).boxes
    file = cache.file(IMAGE)
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(cache.of(IMAGE).boxes, boxes)
    assert asked(method) == 2
    np.testing.assert_array_equal(cache.of(IMAGE).boxes, boxes)
    assert asked(method) == 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"boxes": np.zeros((2, 4), np.float32)},
        {"boxes": np.zeros((2, 5), np.float32), "seconds": np.array(0.1)},
        {"boxes": np.zeros((2, 4)), "seconds": np.array(0.1)},
        {"boxes": np.full((2, 4), np.nan, np.float32), "seconds": np.array(0.1)},
        {"boxes": np.array([{}], object), "seconds": np.array(0.1)},
    ],
    ids=["no time", "five numbers", "another type", "not a number", "objects, which need pickle"],
)
def test_a_sound_archive_of_something_else_is_no_answer(method: Tiles, tmp_path: Path, arrays) -> None:
    cache = ProposalCache(method, tmp_path)
    file = cache.file(IMAGE)
    file.parent.mkdir(parents=True)
    np.savez(file, **arrays)
    np.testing.assert_array_equal(cache.of(IMAGE).boxes, Tiles()(IMAGE))


def test_a_kill_while_writing_leaves_no_half_file(method: Tiles, tmp_path: Path, monkeypatch) -> None:
    """Easier and wrong: writing under the file's own name."""
    cache = ProposalCache(method, tmp_path)

    def killed(stream, **_: object) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.of(IMAGE)
    assert not cache.file(IMAGE).exists()
    assert len(cache.of(IMAGE).boxes) == 21


def test_a_cache_that_can_only_be_read_serves_what_it_has(method: Tiles, tmp_path: Path, monkeypatch) -> None:
    cache = ProposalCache(method, tmp_path / "cache")
    cache.of(IMAGE)

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refused)
    cache.of(IMAGE)
    with pytest.raises(CvtasksError, match=r"Read-only.*proposals\.cache=DIR"):
        cache.of(255 - IMAGE)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.name.startswith(".")]


def test_a_full_disk_is_named(method: Tiles, tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(OutOfDiskError):
        ProposalCache(method, tmp_path).of(IMAGE)


def test_the_folder_is_the_given_one_or_the_environments_or_the_users(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CVTASKS_CACHE", str(tmp_path))
    assert cache_folder("mine") == Path("mine")
    assert cache_folder(None) == tmp_path / "proposals"
    monkeypatch.delenv("CVTASKS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "cvtasks" / "proposals"


def labelled(*corners: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from ((IMAGE, np.array([[0, 0, corner, corner]])) for corner in corners)


def test_a_method_is_fitted_once_to_the_same_images(tmp_path: Path) -> None:
    method = MeanBox(log=str(tmp_path / "log"))
    one = FittedMethods(method, labelled(4, 6), tmp_path)
    assert one.stored() is None
    assert one.fit(labelled(4, 6)).mean.tolist() == [0, 0, 5, 5]
    assert FittedMethods(method, labelled(4, 6), tmp_path).stored().mean.tolist() == [0, 0, 5, 5]
    assert FittedMethods(method, labelled(4, 7), tmp_path).stored() is None
    assert FittedMethods(dataclasses.replace(method, limit=3), labelled(4, 6), tmp_path).stored() is None


def test_a_damaged_file_of_a_fitted_method_is_none(tmp_path: Path) -> None:
    method = MeanBox()
    FittedMethods(method, labelled(4), tmp_path).fit(labelled(4))
    (file,) = (tmp_path / "fitted").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert FittedMethods(method, labelled(4), tmp_path).stored() is None


def test_only_what_a_method_learns_may_be_put_into_it() -> None:
    """A checkpoint is a stranger's: it must not set what the user's configuration says."""
    array = np.zeros(4)
    assert fits(MeanBox(), {"mean": array})
    assert not fits(MeanBox(), {})
    assert not fits(MeanBox(), {"mean": array, "limit": array})
    assert not fits(MeanBox(), {"unknown": array})
    assert not fits(MeanBox(), {"mean": [0.0]})
