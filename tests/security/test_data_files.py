"""Annotations by a stranger: XML that names other files or grows, JSON that goes deep, paths that lead away."""

import json
from pathlib import Path

import pytest
from PIL import Image

from .conftest import SMALL, Command

SECRET = "hunter2-5f1d"
XML = "<annotation><filename>a.png</filename>{}<size><width>64</width><height>48</height></size></annotation>"
BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set in each format's own layout but without labels, and a file to be stolen."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "annotations", "train2017", "val2017"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for folder in ("JPEGImages", "train2017", "val2017"):
        Image.new("RGB", (64, 48)).save(tmp_path / "data" / folder / "a.png")
    for split in ("train", "val"):
        (tmp_path / "data" / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")
    (tmp_path / "secret.txt").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(command: Command, dataset: str) -> None:
    options = [
        f"dataset={dataset}",
        "dataset.root=data",
        "recipe=faster_rcnn_shapes",
        "pipeline=fixed",
        *SMALL,
    ]
    code, line = command("train", *options, "run_dir=run")
    assert code == 2, line
    assert line.count("\n") == 1
    assert SECRET not in line
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///{home}/secret.txt">]>'
        + XML.format("<object><name>&x;</name></object>"),
        '<!DOCTYPE a SYSTEM "file:///{home}/secret.txt">' + XML.format(""),
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///{home}/secret.txt"> %x;]>' + XML.format(""),
        '<!DOCTYPE a [<!ENTITY a0 "ha">' + BOMB + "]>" + XML.format("<object><name>&a11;</name></object>"),
        '<?xml version="1.0"?><?xml-stylesheet href="secret.txt"?>'
        + XML.format('<x:include xmlns:x="http://www.w3.org/2001/XInclude" href="secret.txt" parse="text"/>'),
        XML.format("").replace("a.png", "../../secret.txt"),
        XML.format("").replace("a.png", "file:///{home}/secret.txt"),
        "<a>" * 200_000,
    ],
    ids=lambda text: text[:30],
)
def test_xml(text: str, home: Path, command: Command) -> None:
    (home / "data" / "Annotations" / "a.xml").write_text(text.replace("{home}", str(home)))
    refused(command, "voc")


SOUND = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 3, "name": "cup"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 6, 20, 30]}],
}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"images":' * 200_000,
        json.dumps(SOUND).replace('"a.png"', '"../../secret.txt"'),
        json.dumps(SOUND).replace('"a.png"', '"/etc/passwd"'),
        json.dumps(SOUND).replace('"a.png"', '"http://127.0.0.1:9/a.png"'),
        json.dumps(SOUND).replace("64", "9" * 5000),
        json.dumps(SOUND).replace("64", "1e400"),
        json.dumps(SOUND).replace("[5, 6, 20, 30]", "[NaN, Infinity, 1, 1]"),
        json.dumps(SOUND).replace('"cup"', '{"_target_": "os.system"}'),
        json.dumps(SOUND).replace('"cup"', '{"py/object": "os.system", "__reduce__": "os.system"}'),
        json.dumps(SOUND).replace('"id": 3', '"id": {"__class__": "os.system"}'),
    ],
    ids=lambda text: text[:30],
)
def test_json(text: str, home: Path, command: Command) -> None:
    for split in ("train2017", "val2017"):
        (home / "data" / "annotations" / f"instances_{split}.json").write_text(text)
    refused(command, "coco")
