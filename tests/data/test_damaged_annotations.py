"""Annotation files damaged in seeded, random ways: a DataError of one line, or accepted; never anything else.

What was accepted is read to the end, with images and masks, since a value that is let through may do its harm
there. CVTASKS_FUZZ sets how many files each reader gets.
"""

from __future__ import annotations

import copy
import json
import os
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvtasks.errors import DataError
from cvtasks.types import Reader

from .files import CocoFiles, coco_document, read_voc, voc_object, voc_xml, write_coco, write_voc

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

FILES = int(os.environ.get("CVTASKS_FUZZ", "60"))

NUMBERS: list[Any] = [
    float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, -1, 0, 0.5, 2**31, 2**31 - 1, -(2**31),
    2**63, 2**64, 10**400, True, 41, 1e6, 3.0,
]  # fmt: skip
OTHERS: list[Any] = [
    None, "", "7", "cat", "\ud800", "two\nlines", "\0", "../../etc/passwd", [], {}, [[]], [None], {"a": {}}, [1, "2"],
    [[1, 2, 3, 4, 5]], [[0, 0, 1e5, 1e5, 0, 1e5] * 50], [[1e308] * 6], [[float("nan")] * 8],
    {"size": [2**31, 2**31], "counts": [2**31]}, {"size": [30, 40], "counts": [2**31, 2**31]},
    {"size": [30, 40], "counts": "oooooo"}, {"size": [30, 40], "counts": [-1, 1201]},
    {"size": [30, 40], "counts": "1" * 999},
    {"size": [65535, 65535], "counts": [65535**2]}, {"size": [30, 40], "counts": {}}, {"counts": None, "size": None},
]  # fmt: skip


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON document with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [place for key in keys for place in [(node, key), *places(node[key])]]


def damaged_json(rng: random.Random) -> bytes:
    document = copy.deepcopy(coco_document())
    document["categories"][1] |= {"keypoints": ["left", "right"], "skeleton": [[1, 2]]}
    document["annotations"][1]["keypoints"] = [1, 2, 2, 3, 4, 1]
    for _ in range(rng.choice([1, 1, 2, 5])):
        container, key = rng.choice(places(document))
        action = rng.randrange(4)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(rng.choice(NUMBERS if rng.random() < 0.5 else OTHERS))
    return damaged_text(rng, json.dumps(document).encode(), b"[" * 100_000)


def damaged_xml(rng: random.Random) -> bytes:
    difficult = "<difficult>0</difficult>"
    tree = ElementTree.fromstring(
        voc_xml("a.jpg", voc_object((6, 6, 15, 25), "cat", difficult), voc_object((1, 1, 40, 30), "dog"))
    )
    for _ in range(rng.choice([1, 1, 2, 5])):
        parent, child = rng.choice([(parent, child) for parent in tree.iter() for child in parent])
        action = rng.randrange(5)
        if action == 0:
            parent.remove(child)
        elif action == 1:
            parent.append(child)
        elif action == 2:
            child.tag = rng.choice(["name", "object", "x", "size"])
        else:
            child.text = str(
                rng.choice(
                    [*NUMBERS, "", "cat", " ", "9" * 5000, "../../etc/passwd", "C:\\a.jpg", "0x10", "é"]
                )
            )
    deep = b"<a>" * 50_000
    return damaged_text(rng, ElementTree.tostring(tree, "utf-8"), deep)


def damaged_text(rng: random.Random, text: bytes, deep: bytes) -> bytes:
    """Most often as it is, so that what was done to the values counts."""
    where = rng.randrange(len(text))
    return rng.choices(
        [
            text,
            text[:where],
            text[:where] + bytes([rng.randrange(256)]) + text[where + 1 :],
            text[:where] + deep + text[where:],
            text[:where] + b"\xff\xfe\x80" + text[where:],
            text.decode().encode("utf-16"),
        ],
        weights=[20, 2, 2, 1, 1, 1],
    )[0]


def read_all(make: Callable[[], Reader]) -> str:
    """How it ended; fails on anything but a reader that works or one line."""
    try:
        reader = make()
        for index in range(len(reader)):
            truth = reader.truth(index)
            height, width = truth["orig_size"]
            boxes = truth["boxes"]
            assert np.isfinite(boxes).all()
            assert np.isfinite(truth["area"]).all()
            assert (boxes[:, :2] < boxes[:, 2:]).all()
            assert (boxes >= 0).all()
            assert (boxes <= (width, height, width, height)).all()
            assert (truth["labels"] < len(reader.classes)).all()
            sample = reader[index]
            assert len(sample["boxes"]) == len(boxes)
            for note in reader.notes:
                assert len(note.splitlines()) == 1
    except DataError as error:
        message = str(error)
        message.encode()
        assert len(message.splitlines()) == 1, message
        assert len(message) < 800, message
        return "error"
    return "skipped" if reader.notes else "accepted"


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> CocoFiles:
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc") / "root", train=["a", "b"])


@pytest.mark.parametrize("seed", range(FILES))
def test_damaged_json_is_one_line_or_accepted(coco: CocoFiles, seed: int) -> None:
    coco.labels.write_bytes(damaged_json(random.Random(seed)))
    for on_error in ("raise", "skip"):
        for fields in ((), ("masks", "keypoints")):
            read_all(lambda f=fields, e=on_error: coco.read(*f, on_error=e))


@pytest.mark.parametrize("seed", range(FILES))
def test_damaged_xml_is_one_line_or_accepted(voc: Path, seed: int) -> None:
    (voc / "Annotations" / "a.xml").write_bytes(damaged_xml(random.Random(seed)))
    for on_error in ("raise", "skip"):
        read_all(lambda e=on_error: read_voc(voc, on_error=e))


def test_the_damage_is_of_every_sort(coco: CocoFiles) -> None:
    """Guards the test itself: were all files refused, or none, it would show nothing."""
    ends = []
    for seed in range(40):
        coco.labels.write_bytes(damaged_json(random.Random(seed)))
        ends.append(read_all(lambda: coco.read("masks", "keypoints", on_error="skip")))
    assert set(ends) == {"error", "skipped", "accepted"}
