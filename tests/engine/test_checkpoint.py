import errno
import io
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from cvtasks.engine import checkpoint
from cvtasks.engine.checkpoint import load, load_last, save, save_last
from cvtasks.errors import OutOfDiskError, WeightsError

CONTENT = {
    "step": 3,
    "model": OrderedDict(weight=torch.arange(6.0).view(2, 3)),
    "best": None,
    "config": "seed: 0\n",
    "classes": {"names": ["cat", "dog"], "skeleton": [[0, 1]]},
}


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", CONTENT)
    loaded = load(tmp_path / "a.pt")
    assert torch.equal(loaded.pop("model")["weight"], CONTENT["model"]["weight"])
    assert loaded == {"version": 1, **{k: v for k, v in CONTENT.items() if k != "model"}}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("mmap", [False, True])
def test_a_user_can_read_it_with_torch_alone(tmp_path: Path, mmap: bool) -> None:
    save(tmp_path / "a.pt", CONTENT)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    assert torch.equal(loaded["model"]["weight"], CONTENT["model"]["weight"])
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"cvtasks-crc32:")


def test_a_flipped_byte_anywhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", CONTENT)
    whole = (tmp_path / "a.pt").read_bytes()
    for position in [*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))]:
        broken = bytearray(whole)
        broken[position] ^= 4
        (tmp_path / "a.pt").write_bytes(broken)
        with pytest.raises(WeightsError, match=r"a\.pt: (damaged|cut short)"):
            load(tmp_path / "a.pt")


@pytest.mark.parametrize("length", [0, 1, 21, 500, -1, -22, -40])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    save(tmp_path / "a.pt", CONTENT)
    path = tmp_path / "a.pt"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match="cut short"):
        load(path)


def foreign(kind: str) -> bytes:
    if kind == "text":
        return b"not a checkpoint"
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["text", "state dictionary"])
def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.pt").write_bytes(foreign(kind))
    with pytest.raises(WeightsError, match="not a checkpoint of cvtasks") as caught:
        load(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", {"version": 99})
    with pytest.raises(WeightsError, match="newer cvtasks"):
        load(tmp_path / "a.pt")


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_a_file_that_would_run_code_is_refused_although_its_checksum_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.pt", {"step": Malicious()})
    with pytest.raises(WeightsError, match="other than tensors and plain values"):
        load(tmp_path / "a.pt")
    assert not Path("executed").exists()


def test_a_crash_while_writing_leaves_the_old_file_and_the_next_save_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_last(tmp_path, {"step": 1})

    class Killed(BaseException):
        pass

    def killed(_: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            save_last(tmp_path, {"step": 2})
    assert load_last(tmp_path)[0] == {"version": 1, "step": 1}
    assert load_last(tmp_path)[1] is None
    save_last(tmp_path, {"step": 3})
    assert sorted(p.name for p in last(tmp_path).parent.iterdir()) == ["last.previous.pt", "last.pt"]


def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_last(tmp_path, {"step": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutOfDiskError, match=r"last\.pt: the disk is full") as caught:
            save_last(tmp_path, {"step": 2})
    assert caught.value.exit_code == 5
    assert load_last(tmp_path) == ({"version": 1, "step": 1}, None)
    assert [p.name for p in last(tmp_path).parent.iterdir()] == ["last.pt"]


def test_a_kill_between_the_two_renames_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_last(tmp_path, {"step": 1})
    replace, calls = os.replace, []

    class Killed(BaseException):
        pass

    def once(a: Path, b: Path) -> None:
        if calls:
            raise Killed
        calls.append(a)
        replace(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", once)
        with pytest.raises(Killed):
            save_last(tmp_path, {"step": 2})
    content, warning = load_last(tmp_path)
    assert content == {"version": 1, "step": 1}
    assert warning is not None
    assert warning.endswith("last.pt: no such checkpoint; going on from last.previous.pt, step 1")


def test_the_previous_one_is_kept_and_taken_with_one_warning(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_last(tmp_path, {"step": step})
    assert load_last(tmp_path) == ({"version": 1, "step": 3}, None)
    last(tmp_path).write_bytes(b"damaged")
    content, warning = load_last(tmp_path)
    assert content == {"version": 1, "step": 2}
    assert warning is not None
    assert "\n" not in warning


def test_two_damaged_files_are_refused_and_none_is_a_fresh_start(tmp_path: Path) -> None:
    assert load_last(tmp_path) == (None, None)
    last(tmp_path).parent.mkdir()
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        (last(tmp_path).parent / name).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"last\.pt: cut short"):
        load_last(tmp_path)
