"""Proposals on disk: one small file for each image and method, shared by runs, splits and data sets.

    ~/.cache/cvtasks/proposals/<method>-<fingerprint>/<2 digits>/<30 digits>.npz

A file is named by the image's pixels: an image that was moved or renamed has its proposals already, one that was changed
gets new ones, and generated images have them, too. A file is whole or not there; a damaged one is computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvtasks.errors import CvtasksError, OutOfDiskError
from cvtasks.proposals.method import Method, fields_of, fingerprint, learned


@dataclass(frozen=True)
class Proposed:
    """What a method found in one image."""

    boxes: np.ndarray
    """float32 [P, 4], best first"""
    seconds: float
    """Processor time that it took, whenever that was"""


class ProposalCache:
    """A method that remembers: it computes what no file holds, and writes it there."""

    def __init__(self, method: Method, folder: Path) -> None:
        self.method = method
        self.folder = folder / f"{method.name}-{fingerprint(method)}"

    def of(self, image: np.ndarray) -> Proposed:
        """The proposals of an image, uint8 [H, W, 3].

        Raises OutOfDiskError, and CvtasksError where the folder can be read only and has not got them.
        """
        file = self.file(image)
        stored = _read(file)
        if stored.keys() == {"boxes", "seconds"} and _are_boxes(stored["boxes"]):
            return Proposed(stored["boxes"], float(stored["seconds"]))
        began = time.process_time()
        found = Proposed(self.method(image), time.process_time() - began)
        _write(file, {"boxes": found.boxes, "seconds": np.array(found.seconds)})
        return found

    def file(self, image: np.ndarray) -> Path:
        """Where the image's proposals are, or will be."""
        key = _key(image)
        return self.folder / key[:2] / f"{key[2:]}.npz"


def cache_folder(given: str | None) -> Path:
    """`proposals.cache`, or the folder `proposals` in CVTASKS_CACHE or ~/.cache/cvtasks."""
    if given is not None:
        return Path(given).expanduser()
    return Path(os.environ.get("CVTASKS_CACHE") or "~/.cache/cvtasks").expanduser() / "proposals"


class FittedMethods:
    """What trained methods learned, on disk beside the proposals: one file for a method and the images it was fitted to."""

    def __init__(self, method: Any, labelled: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path) -> None:
        """labelled: the images, uint8 [H, W, 3], and their true boxes [N, 4]; all are read here, for the file's name."""
        digest = hashlib.blake2b(digest_size=16)
        for image, boxes in labelled:
            digest.update(f"{_key(image)} {np.asarray(boxes, np.float64).tolist()}".encode())
        self.method = method
        self._file = folder / "fitted" / f"{method.name}-{fingerprint(method)}-{digest.hexdigest()}.npz"

    def stored(self) -> Any | None:
        """The fitted method, if it was fitted before."""
        arrays = _read(self._file)
        return dataclasses.replace(self.method, **arrays) if fits(self.method, arrays) else None

    def fit(self, labelled: Iterable[tuple[np.ndarray, np.ndarray]]) -> Any:
        """Fit it to the same images, and keep what it learned."""
        fitted = self.method.fit(labelled)
        assert learned(fitted), f"{type(fitted).__name__}.fit leaves no array in its fields"
        _write(self._file, learned(fitted))
        return fitted


def fits(method: Any, arrays: Mapping[str, Any]) -> bool:
    """Whether these are what such a method learns: arrays, for fields of it that are not set before."""
    fields = fields_of(method)
    return bool(arrays) and all(
        name in fields and fields[name] is None and isinstance(array, np.ndarray)
        for name, array in arrays.items()
    )


def _key(image: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{image.shape} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _are_boxes(value: np.ndarray) -> bool:
    return (
        value.dtype == np.float32
        and value.ndim == 2
        and value.shape[1] == 4
        and bool(np.isfinite(value).all())
    )


def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing where there is none, or a damaged one."""
    try:
        with np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:
        # A damaged archive raises half a dozen kinds; writing it anew tells what a file's owner must know.
        return {}


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Runs that share the folder may compute the same image at the same time.
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfDiskError(file) from None
        raise CvtasksError(
            f"proposals: {file.parent} cannot be written ({error.strerror}), and this image is not in the cache yet; "
            "set proposals.cache=DIR to a folder that can"
        ) from None
