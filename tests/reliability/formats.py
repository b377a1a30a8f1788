"""The annotation formats that are put to the test: a sound data set of each, how to spoil it, and all ways to read it.

A further format is one more class here.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from data.files import (
    CocoFiles,
    coco_document,
    label_values,
    read_masks,
    read_voc,
    voc_object,
    voc_xml,
    write_coco,
    write_masks,
    write_voc,
)
from PIL import Image

from cvtasks.cli import explain
from cvtasks.errors import DataError
from cvtasks.types import Reader

from .damage import BYTES, JSON, LABELS, XML, spoil_json, spoil_label, spoil_xml


class Format(Protocol):
    kinds: ClassVar[list[str]]
    """The kinds of damage to its values"""
    deep: ClassVar[bytes]
    """Many nested pieces"""

    def __init__(self, folder: Path) -> None:
        """Writes a sound data set."""

    @property
    def file(self) -> Path:
        """The annotation file that is to be damaged"""

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        """The sound file with these kinds of damage to its values."""

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        """A file with one wrong field, the record that the message must name, and words of which it must say one."""

    def readings(self) -> list[Callable[[], Reader]]: ...


class Coco:
    kinds = JSON
    deep = b"[" * 100_000

    def __init__(self, folder: Path) -> None:
        self._files = write_coco(folder)

    @property
    def file(self) -> Path:
        return self._files.labels

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        document = self._document()
        for kind in kinds:
            spoil_json(rng, kind, document)
        return json.dumps(document).encode()

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        records = {"images": "image", "annotations": "annotation", "categories": "category"}
        words = {"segmentation": ("segmentation", "polygon", "run-lengths"), "bbox": ("bbox", "box")}
        for group, record in records.items():
            for key in self._document()[group][1]:
                document = self._document()
                document[group][1][key] = {"a": {}}
                yield json.dumps(document).encode(), record, words.get(key, (key,))

    def readings(self) -> list[Callable[[], Reader]]:
        ways = itertools.product(((), ("masks", "keypoints")), ("raise", "skip"))
        return [lambda f=f, e=e: self._files.read(*f, on_error=e) for f, e in ways]  # type: ignore[misc]

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = coco_document()
        document["categories"][1] |= {"keypoints": ["left", "right"], "skeleton": [[1, 2]]}
        document["annotations"][1]["keypoints"] = [1, 2, 2, 3, 4, 1]
        return document


class Voc:
    kinds = XML
    deep = b"<a>" * 50_000

    def __init__(self, folder: Path) -> None:
        self._root = write_voc(folder / "root", train=["a", "b"])

    @property
    def file(self) -> Path:
        return self._root / "Annotations" / "a.xml"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        tree = self._tree()
        for kind in kinds:
            spoil_xml(rng, kind, tree)
        return ElementTree.tostring(tree, "utf-8")

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for key in ("width", "xmin", "ymin", "xmax", "ymax", "difficult"):
            tree = self._tree()
            next(tree.iter(key)).text = "many"
            yield ElementTree.tostring(tree, "utf-8"), "" if key == "width" else "object 1", (key,)
        tree = self._tree()
        next(tree.iter("object")).remove(next(tree.iter("name")))
        yield ElementTree.tostring(tree, "utf-8"), "object 1", ("name",)

    def readings(self) -> list[Callable[[], Reader]]:
        return [lambda e=e: read_voc(self._root, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]

    def _tree(self) -> ElementTree.Element:
        cat = voc_object((6, 6, 15, 25), "cat", "<difficult>0</difficult>")
        return ElementTree.fromstring(voc_xml("a.jpg", cat, voc_object((1, 1, 40, 30), "dog")))


class Masks:
    kinds = LABELS
    deep = b"\0\0\0\0IDAT\x35\xaf\x06\x1e" * 10_000

    def __init__(self, folder: Path) -> None:
        self._root = write_masks(folder, train={"a": (0, 1, 2), "b": (2, 1)})

    @property
    def file(self) -> Path:
        return self._root / "labels" / "train" / "a.png"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        image = Image.fromarray(label_values(0, 1, 2))
        format = "PNG"
        for kind in kinds:
            image, format = spoil_label(rng, kind, image)
        file = io.BytesIO()
        image.save(file, format)
        return file.getvalue()

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for values, words in (
            (label_values(0, 1, 7), ("7",)),
            (label_values(0, 1, width=20), ("20",)),
            (label_values(0, 1)[..., None].repeat(3, -1), ("RGB", "colour")),
        ):
            file = io.BytesIO()
            Image.fromarray(values).save(file, "PNG")
            yield file.getvalue(), "a.png", words

    def readings(self) -> list[Callable[[], Reader]]:
        ways = itertools.product((["x", "y", "z"], None), ("raise", "skip"))
        return [lambda c=c, e=e: read_masks(self._root, classes=c, on_error=e) for c, e in ways]  # type: ignore[misc]


FORMATS: dict[str, type[Format]] = {"coco": Coco, "voc": Voc, "masks": Masks}


def damaged(format: Format, seed: int) -> tuple[str, bytes]:
    """Which kind of damage it is, and the file's bytes. Every kind has its turn; now and then there are several."""
    rng = random.Random(seed)
    kinds = [*format.kinds, *BYTES]
    main = kinds[seed % len(kinds)]
    more = rng.choices(format.kinds, k=rng.choice([0, 0, 1, 4]))
    if main in BYTES:
        return main, BYTES[main](rng, format.spoilt(rng, more[:1]), format.deep)
    return main, format.spoilt(rng, [main, *more])


def read_every_way(format: Format) -> None:
    """In a child: reads all that the file holds, in every way, and prints how each ended."""
    for reading in format.readings():
        print(json.dumps(_outcome(reading)), flush=True)


def _outcome(reading: Callable[[], Reader]) -> tuple[int, list[str]]:
    """The exit code, and the line of the error or the notes."""
    try:
        reader = reading()
        for index in range(len(reader)):
            _check(reader, index)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        return explained.exit_code, [str(explained)]
    return 0, reader.notes


def _check(reader: Reader, index: int) -> None:
    """What was let through must do no harm later."""
    truth = reader.truth(index)
    height, width = truth["orig_size"]
    if "segmentation" in truth:
        labels = truth["segmentation"]
        assert labels.shape == (height, width)
        assert labels[labels != 255].max(initial=0) < len(reader.classes)
        assert np.array_equal(reader[index]["segmentation"], labels)
        return
    boxes = truth["boxes"]
    assert np.isfinite(boxes).all()
    assert np.isfinite(truth["area"]).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= (width, height, width, height)).all()
    assert (truth["labels"] < len(reader.classes)).all()
    assert len(reader[index]["boxes"]) == len(boxes)


def read_odd_image(files: CocoFiles, name: str) -> None:
    """In a child: reads the data set whose first image has this name. Prints the image's size, or the error's line."""
    try:
        found: Any = files.read()[0]["image"].shape[1:]
    except DataError as error:
        found = str(error)
    reader = files.read(on_error="skip")
    refused = isinstance(found, str)
    # What cannot be read is found when the data set is, and training does not stop at it later.
    assert len(reader) == (2 if refused else 3), (found, reader.notes)
    assert [len(note) < 400 for note in reader.notes if name in note] == [True] * refused, reader.notes
    print(json.dumps(found))
