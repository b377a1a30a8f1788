"""Checkpoints: one file that is whole or not there, and that says so when it was damaged.

A file is what `torch.save` writes, so `torch.load(path, weights_only=True)` reads it: tensors and plain values only. A
checksum of its bytes is the comment of its zip archive. It is written beside its name, synced and renamed, so a kill
at any moment leaves the file before it.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvtasks import torch_file
from cvtasks.errors import OutOfDiskError, WeightsError
from cvtasks.types import ClassInfo

VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"
NEEDED = {"task": str, "config": str, "precision": str, "classes": dict, "model": dict, "step": int}
"""What a checkpoint holds of a model, and of which kind it is"""
FOR_RESUME = {
    "optimizer": dict, "scheduler": dict, "metrics": dict, "window": list, "best": int | float | None,
    "best_step": int, "stale": int, "seconds": int | float, "training": int | float, "step_images": int,
    "stage": int, "stage_began": int, "stages": list, "trained": list,
}  # fmt: skip
"""What it holds of a training"""
_MARK = b"cvtasks-crc32:"
_COMMENT = len(_MARK) + 8


def save(path: Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write `content` (tensors and plain values) to `path`; the file that was there is renamed to `keep`.

    Raises OutOfDiskError; the old file then stays as it was.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **content}, buffer)
    # A zip archive ends with the length of its comment (0 in torch's) and the comment.
    body = buffer.getbuffer()[:-2]
    length = struct.pack("<H", _COMMENT)
    checksum = zlib.crc32(length, zlib.crc32(body))
    write_atomically(path, body, length, _MARK + b"%08x" % checksum, keep=keep)


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """last.pt of a run's folder; the one before it stays as last.previous.pt."""
    checkpoints = folder / "checkpoints"
    save(checkpoints / LAST, content, keep=checkpoints / PREVIOUS)


def load(path: Path | str) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU. Raises WeightsError for a missing, damaged or foreign file."""
    path = Path(path)
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    body, comment = memoryview(payload)[:-_COMMENT], payload[-_COMMENT:]
    if not comment.startswith(_MARK):
        raise WeightsError(
            f"{path}: cut short, or not a checkpoint of cvtasks (weights of other programs: weights=FILE)"
        )
    if comment != _MARK + b"%08x" % zlib.crc32(body):
        raise WeightsError(f"{path}: damaged (its checksum does not fit); use another checkpoint")
    try:
        content = torch_file.load(io.BytesIO(payload))
    except (
        Exception
    ):  # torch raises half a dozen kinds; a file with a right checksum was made to look like ours
        raise WeightsError(f"{path}: holds something other than tensors and plain values; refused") from None
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise WeightsError(f"{path}: not a checkpoint of cvtasks (it has no version)")
    if version > VERSION:
        raise WeightsError(
            f"{path}: written by a newer cvtasks (format {version}, this one reads {VERSION}); upgrade cvtasks"
        )
    return content


def load_last(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """last.pt of a run's folder, or the one before it if that is damaged, and then the warning to show.

    None where the run was stopped before its first checkpoint. Raises WeightsError where no file can be used.
    """
    checkpoints, problem = folder / "checkpoints", None
    if not any((checkpoints / name).exists() for name in (LAST, PREVIOUS)):
        return None, None
    for name in (LAST, PREVIOUS):
        try:
            content = load(checkpoints / name)
        except WeightsError as error:
            problem = problem or error
            continue
        return content, f"{problem}; going on from {name}, step {content['step']}" if problem else None
    assert problem is not None
    raise problem


def classes_of(content: Mapping[str, Any], source: Path | str) -> ClassInfo:
    """The classes of a trained model. Raises WeightsError for a checkpoint that lacks what every run writes."""
    wrong = [key for key, kind in NEEDED.items() if not isinstance(content.get(key), kind)]
    wrong += [
        key for key, kind in FOR_RESUME.items() if key in content and not isinstance(content[key], kind)
    ]
    try:
        classes = ClassInfo.from_dict({} if wrong else content["classes"])
        named = classes.names and all(isinstance(name, str) for name in classes.names)
        numbered = len(classes.category_ids) == len(classes) and all(
            type(i) is int for i in classes.category_ids
        )
        if named and numbered and all(isinstance(w, Tensor) for w in judged_weights(content).values()):
            return classes
    except (AttributeError, KeyError, TypeError):
        pass
    raise WeightsError(
        f"{source}: holds no trained model ({', '.join(wrong) or 'classes'} missing or damaged)"
    )


def judged_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that a checkpoint was judged with: their average, if the run kept one."""
    return content.get("ema", content["model"])


def write_atomically(path: Path, *parts: bytes | memoryview, keep: Path | None = None) -> None:
    """Write the parts to a new file in the same folder, sync it, and rename it to `path`.

    Raises OutOfDiskError; the old file then stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a killed process left behind is overwritten, and does not pile up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise OutOfDiskError(path) from None
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether there was no room left, or no more of it for this user."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
