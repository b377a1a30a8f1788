"""Damaged and odd image files: read as what they are, or refused in one line that names the file; never a crash.

Each is read in a process with a memory limit, by a reader and by `cvtasks predict`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.files import coco_document, write_coco

from .children import MIB, command, run
from .conftest import Unbroken
from .damaged_reading import read_odd_image
from .zoo import EITHER, REFUSED, ZOO, put

MEMORY = 1024 * MIB


@pytest.mark.parametrize("name", ZOO)
def test_an_odd_image_is_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    document: dict[str, Any] = coco_document()
    document["images"][0] = {"id": 10, "file_name": name}  # nothing says how large it is
    document["annotations"][0]["bbox"] = document["annotations"][2]["bbox"] = [0, 0, 1, 1]
    files = write_coco(tmp_path, document)
    put(name, files.images)
    ended = run(read_odd_image, files, name, memory=MEMORY)
    assert ended.code == 0, ended
    assert without_libtiff(ended.err) == ""
    found = json.loads(ended.out)
    if isinstance(found, str):
        assert ZOO[name] in (REFUSED, EITHER), found
        assert name in found
        assert found.isprintable(), found
        assert len(found) < 400
    else:
        assert ZOO[name] in (tuple(found), EITHER), found


def without_libtiff(err: str) -> str:
    """The C library has a word of its own to say, and Pillow no way to stop it."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("tempfile.tif: "))


def test_predict_draws_what_can_be_read_and_names_what_cannot(tmp_path: Path, unbroken: Unbroken) -> None:
    photos, found = tmp_path / "photos", tmp_path / "found"
    photos.mkdir()
    for name in ZOO:
        put(name, photos)
    options = [f"run={unbroken.folder}", f"source={photos}", f"output={found}", "score_threshold=0.0"]
    ended = run(command, "predict", *options, memory=MEMORY)
    assert ended.code == 2
    files = [p for p in photos.iterdir() if p.is_file()]  # no folder, pipe, loop or device
    read = json.loads((found / "predictions.json").read_text())["images"]
    last = without_libtiff(ended.err)
    assert last.startswith("cvtasks: ")
    assert last.count("\n") == 1
    assert f"and {len(files) - len(read) - 1} more; the other {len(read)} images are done" in last
    assert len(list(found.glob("*.png"))) == len(read)
    assert {name for name, fate in ZOO.items() if isinstance(fate, tuple)} <= {
        Path(r["file"]).name for r in read
    }
    for image in read:
        fate = ZOO[Path(image["file"]).name]
        assert fate in (EITHER, (image["height"], image["width"]))
