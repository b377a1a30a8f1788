"""The annotation formats that are put to the test: a sound data set of each, how to spoil it, and the ways to read it.

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
import scipy.io
from data.classification_files import (
    cifar10_bytes,
    idx,
    read_cifar10,
    read_mnist,
    write_cifar10,
    write_mnist,
)
from data.files import (
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
from data.localization_files import ONE, read_imagenet, read_pets, write_imagenet, write_pets
from data.pose_files import (
    flic_examples,
    lsp_array,
    mpii_document,
    mpii_release,
    read_flic,
    read_lsp,
    read_mpii,
    write_flic,
    write_lsp,
    write_mpii,
)
from PIL import Image

from cvtasks.types import Reader

from .damage import (
    JSON,
    LABELS,
    POSES,
    STRUCTURES,
    VALUES,
    XML,
    spoil_joints,
    spoil_json,
    spoil_label,
    spoil_structures,
    spoil_xml,
)  # fmt: skip


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


class Lsp:
    kinds = POSES
    deep = b"\x0e\0\0\0\x08\0\0\0" * 10_000

    def __init__(self, folder: Path) -> None:
        self._root = write_lsp(folder / "root", lsp_array(2), train=[1, 2])

    @property
    def file(self) -> Path:
        return self._root / "joints.mat"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        joints: Any = lsp_array(2)
        for kind in kinds[:1]:
            joints = spoil_joints(rng, kind, joints)
        return _mat(joints=joints)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for row, value, word in ((0, np.nan, "outside"), (1, 1e5, "outside"), (2, 7, "third row")):
            joints = lsp_array(2)
            joints[4, row, 1] = value
            yield _mat(joints=joints), "image 2", (word,)
        yield _mat(joints=lsp_array(2)[:13]), "joints.mat", ("shape",)

    def readings(self) -> list[Callable[[], Reader]]:
        ways = itertools.product((None, "hidden"), ("raise", "skip"))
        return [lambda r=r, e=e: read_lsp(self._root, third_row=r, on_error=e) for r, e in ways]  # type: ignore[misc]


class Mpii:
    kinds = JSON
    deep = b"[" * 100_000

    def __init__(self, folder: Path) -> None:
        self._root = write_mpii(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "annot" / "train.json"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        document = mpii_document()
        for kind in kinds:
            spoil_json(rng, kind, document)
        return json.dumps(document).encode()

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for key in mpii_document()[1]:
            document = mpii_document()
            document[1][key] = {"a": {}}
            yield json.dumps(document).encode(), "person 2", (key,)

    def readings(self) -> list[Callable[[], Reader]]:
        return [lambda e=e: read_mpii(self._root, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]


class MpiiMat:
    kinds = STRUCTURES
    deep = Lsp.deep

    def __init__(self, folder: Path) -> None:
        self._root = write_mpii(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "annot" / "release.mat"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        content = mpii_release()
        for kind in kinds[:1]:
            spoil_structures(rng, kind, content)
        return _mat(RELEASE=content)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for key in ("scale", "objpos"):
            content = mpii_release()
            content["annolist"][1]["annorect"][key] = "many"
            yield _mat(RELEASE=content), "image 2: person 1", (key, "center")
        for key in ("x", "y", "id"):
            content = mpii_release()
            content["annolist"][1]["annorect"]["annopoints"]["point"][3][key] = "many"
            yield _mat(RELEASE=content), "image 2: person 1", ("joint",)
        content = mpii_release()
        content["annolist"][0]["image"] = {"name": 7.0}
        yield _mat(RELEASE=content), "image 1", ("name",)

    def readings(self) -> list[Callable[[], Reader]]:
        own: Any = {"annotations": str(self.file)}
        return [lambda e=e: read_mpii(self._root, train=own, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]


class Flic:
    kinds = STRUCTURES
    deep = Lsp.deep

    def __init__(self, folder: Path) -> None:
        self._root = write_flic(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "examples.mat"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        examples = flic_examples()
        for kind in kinds[:1]:
            spoil_structures(rng, kind, examples)
        return _mat(examples=examples)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for key in flic_examples()[3]:
            examples = flic_examples()
            examples[3][key] = {"a": 7.0}
            yield _mat(examples=examples), "example 4", (key,)

    def readings(self) -> list[Callable[[], Reader]]:
        return [lambda e=e: read_flic(self._root, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]


class Pets(Voc):
    def __init__(self, folder: Path) -> None:
        self._root = write_pets(folder / "root")
        listed = self._root / "annotations" / "trainval.txt"
        # That one has no boxes, which makes a note.
        listed.write_text(listed.read_text().replace("great_dane_9 1 1 1", ""))

    @property
    def file(self) -> Path:
        return self._root / "annotations" / "xmls" / "Abyssinian_1.xml"

    def readings(self) -> list[Callable[[], Reader]]:
        ways = itertools.product((ONE, frozenset({"boxes", "labels"})), ("raise", "skip"))
        options: dict[str, Any] = {"labels": "species", "select": "largest", "val_fraction": None}
        return [lambda f=f, e=e: read_pets(self._root, fields=f, on_error=e, **options) for f, e in ways]  # type: ignore[misc]


class ImageNetLoc:
    """The table that stands in for the XML files, which are VOC's."""

    kinds = ["missing", "twice", *VALUES]
    deep = b"n02 1 2 3 4 " * 10_000

    def __init__(self, folder: Path) -> None:
        self._root = write_imagenet(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "LOC_train_solution.csv"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        lines = self._lines()
        for kind in kinds:
            if lines:
                spoil_json(rng, kind, lines)
        return self._text(lines)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        for place, value, word in (
            (0, "n02_9", "no image"), (2, "many", "number"), (4, "1", "area"), (3, "-50", "outside"), (3, "", "times"),
        ):  # fmt: skip
            lines = self._lines()
            lines[1][place] = value
            yield self._text(lines), "line 3", (word,)

    def readings(self) -> list[Callable[[], Reader]]:
        ways = itertools.product((ONE, frozenset({"boxes", "labels"})), ("raise", "skip"))
        own: Any = {"annotations": self.file.name}
        return [lambda f=f, e=e: read_imagenet(self._root, train=own, fields=f, on_error=e) for f, e in ways]  # type: ignore[misc]

    def _lines(self) -> list[Any]:
        return [[f"n02_{n}", "n02", "5", "5", "19", "20"] for n in (1, 7)]

    def _text(self, lines: list[Any]) -> bytes:
        words = [[str(word) for word in line] if isinstance(line, list) else [str(line)] for line in lines]
        rows = [
            "ImageId,PredictionString",
            *(",".join((each[0], " ".join(each[1:]))) for each in words if each),
        ]
        return "\n".join(rows).encode("utf-8", "replace")


class Cifar10:
    """Records of bytes: every one but the label may have any value."""

    kinds: ClassVar[list[str]] = ["another label", "a byte more", "a byte less"]
    deep = b"\n" * 4000

    def __init__(self, folder: Path) -> None:
        self._root = write_cifar10(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "data_batch_1.bin"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        content = bytearray(cifar10_bytes(3, 0, 7))
        for kind in kinds:
            if kind == "another label":
                content[3073 * rng.randrange(3)] = rng.choice([1, 9, 10, 255])
            elif kind == "a byte more":
                content.insert(rng.randrange(len(content)), rng.choice([0, 200]))
            else:
                del content[rng.randrange(len(content))]
        return bytes(content)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        yield cifar10_bytes(3, 10), "data_batch_1.bin: record 1", ("label",)
        yield cifar10_bytes(3, 1) + b"x", "data_batch_1.bin: record 2", ("3073",)

    def readings(self) -> list[Callable[[], Reader]]:
        return [lambda e=e: read_cifar10(self._root, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]


class Mnist:
    """The file of labels: its header says how many there are."""

    kinds: ClassVar[list[str]] = ["another label", "another length", "more dimensions"]
    deep = b"\x1f\x8b\x08\0" * 1000

    def __init__(self, folder: Path) -> None:
        self._root = write_mnist(folder / "root")

    @property
    def file(self) -> Path:
        return self._root / "train-labels-idx1-ubyte"

    def spoilt(self, rng: random.Random, kinds: list[str]) -> bytes:
        content = bytearray(idx(np.array([7, 0, 9], np.uint8)))
        for kind in kinds:
            if kind == "another label":
                content[8 + rng.randrange(3)] = rng.choice([1, 9, 10, 255])
            elif kind == "another length":
                content[4:8] = rng.choice([0, 1, 2, 4, 2**31, 2**32 - 1]).to_bytes(4, "big")
            else:
                content[3] = rng.choice([0, 2, 3, 255])
        return bytes(content)

    def wrong_fields(self) -> Iterator[tuple[bytes, str, tuple[str, ...]]]:
        yield idx(np.array([7, 10, 9], np.uint8)), "record 1", ("label",)
        yield idx(np.array([7, 1], np.uint8)), "record 2", ("labels",)

    def readings(self) -> list[Callable[[], Reader]]:
        return [lambda e=e: read_mnist(self._root, on_error=e) for e in ("raise", "skip")]  # type: ignore[misc]


def _mat(**variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, _cells(variables), do_compression=True)
    return file.getvalue()


def _cells(value: Any) -> Any:
    """Lists of anything but numbers as MATLAB's cells: numpy makes no array of what is of different shapes."""
    if isinstance(value, dict):
        return {key: _cells(each) for key, each in value.items()}
    if not isinstance(value, list) or all(isinstance(each, int | float | complex) for each in value):
        return value
    cells = np.empty(len(value), object)
    for place, each in enumerate(value):
        cells[place] = _cells(each)
    return cells


FORMATS: dict[str, type[Format]] = {
    "coco": Coco,
    "voc": Voc,
    "masks": Masks,
    "lsp": Lsp,
    "mpii": Mpii,
    "mpii_mat": MpiiMat,
    "flic": Flic,
    "pets": Pets,
    "imagenet_loc": ImageNetLoc,
    "cifar10": Cifar10,
    "mnist": Mnist,
}
