"""What a proposal method is: boxes that may hold an object of any class, computed from the image alone.

A method is a frozen, keyword-only dataclass whose fields are plain values (and arrays, once it is fitted), so that it can
be pickled for other processes, and named by a fingerprint under which its boxes are cached.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np


@runtime_checkable
class Method(Protocol):
    """`name` and `version` are class attributes; `version` is raised whenever the same fields give other boxes."""

    name: ClassVar[str]
    version: ClassVar[int]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Of an image, uint8 [H, W, 3], the boxes float32 [P, 4] as (x1, y1, x2, y2), best first and none twice."""
        ...


@runtime_checkable
class Trained(Protocol):
    """A method that is fitted to labelled images first. All that it learns are fields: None before, arrays after."""

    def fit(self, images_and_boxes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Self:
        """The same method, fitted to images, uint8 [H, W, 3], and the true boxes of each, float [N, 4]."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoProposals:
    """`proposals=none`: no boxes at all. A task that needs proposals is refused with it."""

    name: ClassVar[str] = "none"
    version: ClassVar[int] = 1

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.zeros((0, 4), np.float32)


def fingerprint(method: Method) -> str:
    """16 hexadecimal digits that change with the method's class, its version and any of its fields."""
    kind = type(method)
    about = f"{kind.__module__}.{kind.__qualname__} {method.version}".encode()
    digest = hashlib.sha256(about)
    _feed(digest, fields_of(method))
    return digest.hexdigest()[:16]


def fields_of(method: Any) -> dict[str, Any]:
    """The method's settings and what it learned, by name."""
    assert dataclasses.is_dataclass(method), f"{type(method).__name__} is no dataclass"
    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}


def learned(method: Any) -> dict[str, np.ndarray]:
    """The arrays of a fitted method: with them `dataclasses.replace` makes one of the same settings."""
    return {name: value for name, value in fields_of(method).items() if isinstance(value, np.ndarray)}


def _feed(digest: Any, value: Any) -> None:
    """Add a plain value to the digest so that no two differing values add the same bytes."""
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for key in sorted(value):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    else:
        # A number of YAML may be written 1 or 1.0, and means the same.
        plain = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        assert plain is None or isinstance(plain, bool | float | str), f"not a plain value: {value!r}"
        digest.update(f"{type(plain).__name__} {plain!r} ".encode())
