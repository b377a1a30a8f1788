"""Ways to spoil an annotation file, each with a name: first its values, then, for some, its bytes.

A format needs a sound document, which of these functions spoils it, and how it becomes text (`formats`).
"""

from __future__ import annotations

import copy
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

VALUES: dict[str, list[Any]] = {
    "wrong type": [
        None, "", "7", "cat", "0x10", True, [], {}, [[]], [None], {"a": {}}, [1, "2"], "\ud800", "two\nlines", "\0",
        "../../etc/passwd", "C:\\a.jpg", "9" * 5000, "x" * 100_000, [[]] * 10_000,
    ],
    "not finite": [float("nan"), float("inf"), -float("inf"), [float("nan")] * 4, [[float("nan")] * 8]],
    "huge": [
        1e308, -1e308, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**400, 1e6, [1e308] * 4, [0, 0, 2**31, 2**31], 65_535,
        [[1e308] * 6], [[0, 0, 1e5, 1e5, 0, 1e5] * 50],
    ],
    "negative": [-1, -0.5, -(2**31), -(2**63), [-5, -5, 10, 10], [5, 5, -10, 10], [[-9, -9, -5, -9, -5, -5]]],
    "odd number": [0, 0.5, 1e-320, 3.0, 41, [0, 0, 0, 0], [39.5, 0, 1e-9, 30]],
}  # fmt: skip
"""What takes a value's place"""

OUTLINES: dict[str, list[Any]] = {
    "odd polygon": [
        [[1, 2, 3, 4, 5]], [[1, 2]], [[1, 2, 3, 4]], [[]], [[5, 5, 5, 5, 5, 5]], [[0, 0, 40, 0, 20, 0]],
        [[0, 0, 40, 30, 40, 0, 0, 30]], [["1", 2, 3, 4, 5, 6]], [[5, 5, 15, 5, 15, 15], [1, 2, 3]], [5, 5, 15, 5, 15, 15],
        [[10, 10, 60, 10, 60, 45]], [[1e5, 1e5, 1e5, 2e5, 2e5, 2e5]], [[0, 0, 40, 30] * 20_000],
    ],
    "run-lengths": [
        {"size": [2**31, 2**31], "counts": [2**31]}, {"size": [30, 40], "counts": [2**31, 2**31]},
        {"size": [30, 40], "counts": [2**31]}, {"size": [65_535, 65_535], "counts": [65_535**2]},
        {"size": [30, 40], "counts": [-1, 1201]}, {"size": [30, 40], "counts": [0.5, 1199.5]},
        {"size": [30, 40], "counts": "oooooo"}, {"size": [30, 40], "counts": "1" * 999}, {"size": [30, 40], "counts": "é"},
        {"size": [30, 40], "counts": {}}, {"size": [30, 40], "counts": []}, {"counts": None, "size": None},
        {"size": [40, 30], "counts": [1200]}, {"size": "30", "counts": [1200]}, {"size": [30, 40]},
        {"size": [30, 40], "counts": [0] * 100_000 + [1200]}, {"size": [30, 40], "counts": [1200]},
    ],
}  # fmt: skip

BYTES: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    "truncated": lambda rng, text, deep: text[: rng.randrange(len(text))],
    "another byte": lambda rng, text, deep: _inserted(rng, text, bytes([rng.randrange(256)]), instead=1),
    "deep nesting": lambda rng, text, deep: _inserted(rng, text, deep),
    "invalid UTF-8": lambda rng, text, deep: _inserted(rng, text, b"\xff\xfe\x80"),
    "UTF-16": lambda rng, text, deep: text.decode(errors="replace").encode("utf-16"),
    "NUL": lambda rng, text, deep: _inserted(rng, text, b"\0"),
    "empty": lambda rng, text, deep: b"",
}
"""For any kind of text; `deep` is many nested pieces of the format"""

MATLAB: dict[str, list[Any]] = {
    "wrong type": ["", "7", "cat", {"a": 7.0}, "../../etc/passwd", "x" * 100_000, np.zeros((0, 0)), np.ones((2, 3, 2)),
                   np.array([["a", 7.0]], object), 1j],
    "not finite": [np.nan, np.inf, -np.inf],
    "huge": [1e308, -1e308, 2**63 - 1, 1e6, 300],
    "negative": [-1, -30, -1e5],
    "odd number": [0, 0.5, 1e-320, True, 2],
}  # fmt: skip
"""The same, of what MATLAB's structures can hold"""

JSON = ["missing", "twice", *VALUES, *OUTLINES]
XML = ["missing", "twice", "renamed", *VALUES]
STRUCTURES = ["missing", "twice", *MATLAB]
POSES = ["another shape", "another type", "another flag", "not finite", "huge", "negative"]
LABELS = ["another id", "another size", "another mode", "another format", "a palette"]


def spoil_json(rng: random.Random, kind: str, document: Any) -> None:
    """Somewhere in the document, in place."""
    places = _places(document)
    if kind in OUTLINES:
        outlines = [place for place in places if place[1] == "segmentation"]
        container, key = rng.choice(outlines or places)
        container[key] = copy.deepcopy(rng.choice(OUTLINES[kind]))
        return
    container, key = rng.choice(places)
    if kind == "missing":
        del container[key]
    elif kind == "twice":
        lists = [place for place in places if isinstance(place[0], list)]
        container, key = rng.choice(lists)
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES[kind]))


def spoil_structures(rng: random.Random, kind: str, content: Any) -> None:
    """Somewhere in nested dictionaries and lists, in place; of an array one number, if it is a number that is wrong."""
    container, key = rng.choice(_places(content))
    if kind == "missing":
        del container[key]
    elif kind == "twice":
        container, key = rng.choice([place for place in _places(content) if isinstance(place[0], list)])
        container.insert(key, copy.deepcopy(container[key]))
    elif isinstance(container[key], np.ndarray) and container[key].size and kind != "wrong type":
        container[key].flat[rng.randrange(container[key].size)] = rng.choice(MATLAB[kind])
    else:
        container[key] = copy.deepcopy(rng.choice(MATLAB[kind]))


def spoil_xml(rng: random.Random, kind: str, tree: ElementTree.Element) -> None:
    """Somewhere in the tree, in place."""
    parent, child = rng.choice([(parent, child) for parent in tree.iter() for child in parent])
    if kind == "missing":
        parent.remove(child)
    elif kind == "twice":
        parent.append(copy.deepcopy(child))
    elif kind == "renamed":
        child.tag = rng.choice(["name", "object", "bndbox", "x", "size"])
    else:
        # What XML cannot hold at all is another matter: the bytes' damage.
        plain = [v for v in VALUES[kind] if not isinstance(v, list | dict) and v not in ("\ud800", "\0")]
        child.text = str(rng.choice(plain))


def spoil_label(rng: random.Random, kind: str, image: Image.Image) -> tuple[Image.Image, str]:
    """The image and the format that it is to be written in."""
    if kind == "another id":
        spoilt = image.copy()
        spoilt.putpixel(
            (rng.randrange(image.width), rng.randrange(image.height)), rng.choice([3, 7, 254, 255])
        )
        return spoilt, "PNG"
    if kind == "another size":
        return image.resize((rng.choice([1, 30, 39, 41, 4000]), rng.choice([1, 29, 31, 40]))), "PNG"
    if kind == "another mode":
        return image.convert(rng.choice(["1", "LA", "RGB", "RGBA", "I;16", "P"])), "PNG"
    if kind == "another format":
        return image.convert("L"), rng.choice(["JPEG", "GIF", "BMP", "TIFF", "WEBP"])
    spoilt = image.convert("L")
    spoilt.putpalette([rng.randrange(256) for _ in range(3 * rng.choice([1, 2, 3, 256]))])
    return spoilt, "PNG"


def spoil_joints(rng: random.Random, kind: str, joints: np.ndarray) -> object:
    """Another value for the array (14, 3, N) of joints."""
    if kind == "another shape":
        shape = rng.choice([(3, 14), (14, 2, 3), (14, 3, 0), (14,), (1, 1), (3, 3, 14), (14, 3, 1, 2)])
        return np.resize(joints, shape) if 0 not in shape else np.zeros(shape)
    if kind == "another type":
        cell = np.empty((14, 3, 2), object)
        cell[:] = 7
        return rng.choice(
            [joints.astype(bool), joints + 1j, joints.astype("uint8"), "text", cell, {"a": 7.0}]
        )
    values = {"another flag": [2, 0.5, -1, np.nan], "not finite": [np.nan, np.inf, -np.inf]}
    values |= {"huge": [1e308, -1e308, 2**63, 1e6, 100], "negative": [-1, -3, -30, -1e5]}
    spoilt = joints.copy()
    row = 2 if kind == "another flag" else rng.randrange(2)
    where = rng.choice([slice(None), rng.randrange(14)])
    spoilt[where, row, rng.randrange(joints.shape[2])] = rng.choice(values[kind])
    return spoilt


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON document with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [place for key in keys for place in [(node, key), *_places(node[key])]]


def _inserted(rng: random.Random, text: bytes, piece: bytes, *, instead: int = 0) -> bytes:
    where = rng.randrange(len(text))
    return text[:where] + piece + text[where + instead :]
