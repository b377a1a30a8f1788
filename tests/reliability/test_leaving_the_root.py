"""Twelve ways for an annotation file to name something outside of its data set's folder: each is refused by every reader.

What lies outside is a sound image, so a reader that followed would succeed. `data/test_paths.py` tests the check itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from data.files import (
    coco_document,
    read_masks,
    read_voc,
    voc_object,
    voc_xml,
    write_coco,
    write_image,
    write_masks,
    write_voc,
)  # fmt: skip
from data.localization_files import read_imagenet, write_imagenet
from data.pose_files import flic_examples, mpii_document, read_flic, read_mpii, write_flic, write_mpii

from cvtasks.errors import DataError
from cvtasks.types import Reader

WAYS = {
    "up": "../../secret/a.jpg",
    "down and up": "sub/../../../secret/a.jpg",
    "absolute": "{outside}/a.jpg",
    "link to a file": "link.jpg",
    "link to a folder": "linked/a.jpg",
    "link to a link": "chain.jpg",
    "through a link and up": "linked/../secret/a.jpg",
    "backslashes": "..\\..\\secret\\a.jpg",
    "drive": "C:\\secret\\a.jpg",
    "network": "\\\\server\\share\\a.jpg",
    "home": "~/a.jpg",
    "address": "file://{outside}/a.jpg",
}


def coco(folder: Path, name: str) -> Callable[[str], Reader]:
    document = coco_document()
    document["images"][0]["file_name"] = name
    files = write_coco(folder, document)
    return lambda on_error: files.read(on_error=on_error)


def voc(folder: Path, name: str) -> Callable[[str], Reader]:
    """Without an image of the XML's own name, which would be taken instead."""
    root = write_voc(folder, train=["a", "b"])
    (root / "JPEGImages" / "a.jpg").unlink()
    (root / "Annotations" / "a.xml").write_text(voc_xml(name, voc_object((6, 6, 15, 25))))
    return lambda on_error: read_voc(root, on_error=on_error)


def voc_list(folder: Path, name: str) -> Callable[[str], Reader]:
    """The name stands in the list of images, and so leads to an XML file as well."""
    root = write_voc(folder, train=["a", "b"])
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{name.removesuffix('.jpg')}\nb\n")
    return lambda on_error: read_voc(root, on_error=on_error)


def masks_list(folder: Path, name: str) -> Callable[[str], Reader]:
    """The name stands in the list of pairs, in the place of an image."""
    root = write_masks(folder, train={"a": (0, 1), "b": (0, 1)})
    (root / "list.txt").write_text(f"{name}\ta.png\nb.jpg\tb.png\n")
    own = {"images": "images/train", "labels": "labels/train", "list": "list.txt"}
    return lambda on_error: read_masks(root, train=own, on_error=on_error)


def mpii(folder: Path, name: str) -> Callable[[str], Reader]:
    document = mpii_document()
    document[0]["image"] = name
    root = write_mpii(folder, document)
    return lambda on_error: read_mpii(root, on_error=on_error)


def flic(folder: Path, name: str) -> Callable[[str], Reader]:
    examples = flic_examples()
    examples[0]["filepath"] = name
    root = write_flic(folder, examples)
    return lambda on_error: read_flic(root, on_error=on_error)


def imagenet_loc(folder: Path, name: str) -> Callable[[str], Reader]:
    """The name stands in the table that takes the place of XML files."""
    root = write_imagenet(folder)
    (root / "LOC_val_solution.csv").write_text(f"{name.removesuffix('.jpg')},n01 1 2 3 4\nv_1,n01 1 2 3 4\n")
    own = {"annotations": "LOC_val_solution.csv"}
    return lambda on_error: read_imagenet(root, split="val", val=own, on_error=on_error)


READERS = {
    "coco": (coco, "images"),
    "voc": (voc, "JPEGImages"),
    "voc_list": (voc_list, "JPEGImages"),
    "masks_list": (masks_list, "images/train"),
    "mpii": (mpii, "images"),
    "flic": (flic, "images"),
    "imagenet_loc": (imagenet_loc, "ILSVRC/Data/CLS-LOC/val"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_leaves_the_root_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, way: str
) -> None:
    make, images = READERS[reader]
    outside, root = tmp_path / "secret", tmp_path / "data"
    write_image(outside / "a.jpg")
    (outside / "a.xml").write_text(voc_xml("a.jpg", voc_object((6, 6, 15, 25), "secret")))
    monkeypatch.setenv("HOME", str(outside))
    read = make(root, WAYS[way].format(outside=outside))
    for folder, suffix in ((root / images, "jpg"), (root / "Annotations", "xml")):
        if folder.is_dir():
            (folder / "sub").mkdir()
            (folder / f"link.{suffix}").symlink_to(outside / f"a.{suffix}")
            (folder / f"chain.{suffix}").symlink_to(folder / f"link.{suffix}")
            (folder / "linked").symlink_to(outside)

    with pytest.raises(DataError) as caught:
        read("raise")
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert re.search("leads out of|must be relative|is an address", message), message
    rest = read("skip")
    assert len(rest) == (2 if reader in ("coco", "mpii") else 1)
    assert "secret" not in rest.classes.names
    assert len([note for note in rest.notes if "skipped" in note]) == 1
