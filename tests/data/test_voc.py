"""Oracle: the XML that the test writes, with VOC's boxes turned into continuous ones by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cvtasks.data.voc import VocReader
from cvtasks.errors import ConfigError, DataError

from .files import read_voc, voc_object, voc_xml, write_image, write_voc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc", train=["a", "b", "c"], val=["d", "e"], test=["f"])


def xml_of(root: Path, stem: str = "a") -> Path:
    return root / "Annotations" / f"{stem}.xml"


def ids(reader: VocReader) -> list[str]:
    return [str(reader.truth(i)["image_id"]) for i in range(len(reader))]


def test_a_sample_holds_the_image_and_continuous_boxes(root: Path) -> None:
    reader = read_voc(root)
    assert reader.classes.names == ("cat", "dog")
    assert reader.notes == []
    sample = reader[1]
    assert sample["image_id"] == "b"
    assert sample["orig_size"] == (30, 40)
    assert sample["image"].shape == (3, 30, 40)
    assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes)
    assert sample["boxes"].dtype == torch.float32
    assert sample["boxes"].tolist() == [[5, 5, 15, 25]]  # pixels 6 to 15 from 1, both included
    assert sample["labels"].tolist() == [1]
    truth = reader.truth(1)
    assert truth["boxes"].tolist() == [[5, 5, 15, 25]]
    assert truth["boxes"].dtype == np.float64
    assert truth["area"].tolist() == [200]
    assert truth["file"] == str(root.resolve() / "JPEGImages" / "b.jpg")


def test_files_that_count_from_zero_are_an_option(root: Path) -> None:
    xml_of(root).write_text(voc_xml("a.jpg", voc_object((0, 0, 40, 30))))
    assert read_voc(root, one_based=False).truth(0)["boxes"].tolist() == [[0, 0, 40, 30]]
    reader = read_voc(root)
    assert reader.truth(0)["boxes"].tolist() == [[0, 0, 40, 30]]
    assert "1" in reader.notes[0]
    assert "a.xml: object 1" in reader.notes[0]
    assert "dataset.one_based=false" in reader.notes[1]


def test_difficult_objects_are_ignored_and_parts_are_not_objects(root: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    objects = (
        voc_object((1, 1, 9, 9), "dog", "<difficult>1</difficult>"),
        voc_object((2, 2, 9, 9), "cat", part + "<difficult> 0 </difficult>"),
        voc_object((3.5, 3, 9, 9), "cat"),
    )
    xml_of(root).write_text(voc_xml("a.jpg", *objects))
    reader = read_voc(root)
    assert reader.classes.names == ("cat", "dog")
    assert reader.truth(0)["ignore"].tolist() == [True, False, False]
    assert reader[0]["ignore"].tolist() == [True, False, False]
    assert reader.truth(0)["boxes"][:, 0].tolist() == [0, 1, 2.5]


def test_an_image_without_objects_is_kept(root: Path) -> None:
    xml_of(root).write_text(voc_xml("a.jpg"))
    reader = read_voc(root)
    assert len(reader) == 3
    assert reader[0]["boxes"].shape == (0, 4)
    assert reader.truth(0)["boxes"].shape == (0, 4)


# Splits


def test_lists_of_the_own_layout_are_chosen_by_name(root: Path) -> None:
    assert ids(read_voc(root)) == ["a", "b", "c"]
    assert ids(read_voc(root, split="val")) == ["d", "e"]
    assert ids(read_voc(root, split="val", val={"split": "test"})) == ["f"]
    empty = {"images": None, "annotations": None, "list": None, "split": "val"}
    assert ids(read_voc(root, split="val", val=empty)) == ["d", "e"]
    with pytest.raises(
        ConfigError, match=r"trainval\.txt; type dataset\.train\.list=FILE, or dataset\.val_fraction=0\.2"
    ):
        read_voc(root, train={"split": "trainval"})


def test_a_list_may_hold_stems_file_names_flags_and_empty_lines(root: Path) -> None:
    (root / "my.txt").write_text("\ufeffa\r\n\nb.jpg\n  c.xml  \nd  1\ne -1\n", "utf-8")
    assert ids(read_voc(root, train={"list": "my.txt"})) == ["a", "b", "c", "d", "e"]


def test_a_stem_may_have_dots(root: Path) -> None:
    write_image(root / "JPEGImages" / "x.rf.12.jpg")
    xml_of(root, "x.rf.12").write_text(voc_xml("x.rf.12.jpg", voc_object((1, 1, 5, 5))))
    (root / "my.txt").write_text("x.rf.12\n")
    assert ids(read_voc(root, train={"list": "my.txt"})) == ["x.rf.12"]


def test_one_folder_may_hold_images_and_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for stem in ("u", "v"):
            write_image(tmp_path / split / f"{stem}{split}.png").rename(
                tmp_path / split / f"{stem}{split}.PNG"
            )
            xml = voc_xml("wrong name.jpg", voc_object((1, 1, 5, 5), "king"))
            (tmp_path / split / f"{stem}{split}.xml").write_text(xml)
    write_image(tmp_path / "train" / "unlabelled.jpg")
    options: dict[str, Any] = {"train": {"images": "train"}, "val": {"annotations": str(tmp_path / "test")}}
    train, val = (VocReader(split=s, root=str(tmp_path), **options) for s in ("train", "val"))
    assert ids(train) == ["utrain", "vtrain"]
    assert ids(val) == ["utest", "vtest"]
    assert train[0]["image"].shape == (3, 30, 40)
    assert len(train.notes) == 1
    assert "1 images in " in train.notes[0]
    assert val.notes == []


def test_a_fraction_divides_the_data_the_same_way_every_time(root: Path) -> None:
    stems = [f"n{i:03d}" for i in range(100)]
    many = write_voc(root.parent / "many", train=stems)
    options = {"val_fraction": 0.2}
    train, val = (ids(read_voc(many, split=s, **options)) for s in ("train", "val"))
    assert len(val) == 20
    assert sorted(train + val) == stems
    assert val == ids(read_voc(many, split="val", **options))
    assert val != ids(read_voc(many, split="val", split_seed=1, **options))
    (many / "ImageSets" / "Main" / "train.txt").unlink()  # now it is the whole folder
    assert val == ids(read_voc(many, split="val", **options))
    # Nearly all images stay on their side when a few are taken away: names decide, not positions.
    for stem in stems[:5]:
        xml_of(many, stem).unlink()
    assert len(set(val) - set(ids(read_voc(many, split="val", **options)))) <= 5
    with pytest.raises(ConfigError, match=r"dataset\.val and dataset\.val_fraction"):
        read_voc(many, val={"images": "JPEGImages"}, **options)


def test_a_fraction_leaves_something_on_either_side(root: Path) -> None:
    for fraction in (0.001, 0.999):
        sizes = [len(read_voc(root, split=s, val_fraction=fraction)) for s in ("train", "val")]
        assert sorted(sizes) == [1, 2]


def test_what_is_missing_on_the_command_line_is_said(root: Path, tmp_path: Path) -> None:
    train = {"images": str(root / "JPEGImages"), "annotations": str(root / "Annotations")}
    for message, options in {
        r"no val data; type dataset\.val\.images=DIR .*dataset\.val_fraction=0\.2": {
            "train": train,
            "root": None,
        },
        r"dataset\.root=.*: there is no such folder": {"root": str(tmp_path / "nowhere")},
        r"neither Annotations nor XML files in it; type dataset\.val\.images=DIR": {"root": str(tmp_path)},
        r"no folder .*nowhere; type dataset\.val\.images=DIR": {"val": train | {"images": "nowhere"}},
        r"no folder .*; type dataset\.val\.annotations=DIR": {"val": train | {"annotations": "nowhere"}},
        r"no list .*nowhere; type dataset\.val\.list=FILE": {"val": train | {"list": "nowhere"}},
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_voc(root, split="val", **options)


def test_classes_restrict_and_order_and_what_is_left_out_is_counted(root: Path) -> None:
    reader = read_voc(root, classes=["dog"])
    assert reader.classes.names == ("dog",)
    assert [reader.truth(i)["labels"].tolist() for i in range(3)] == [[], [0], []]
    assert reader.notes == ["dataset voc: 2 objects of classes that dataset.classes leaves out: cat (2)"]
    with pytest.raises(ConfigError, match=r"did you mean cat\?"):
        read_voc(root, classes=["cta"])
    assert read_voc(root, split="val", classes=["bird", "cat"]).classes.names == ("bird", "cat")


# The image of an XML file


def test_the_image_is_the_one_named_else_the_one_with_the_same_stem(root: Path) -> None:
    write_image(root / "JPEGImages" / "other.png", 20, 20)
    box = voc_object((1, 1, 5, 5))
    xml_of(root).write_text(voc_xml("other.png", box, width=20, height=20))
    assert read_voc(root)[0]["image"].shape == (3, 20, 20)
    for filename in ("", "a", "gone.jpg"):
        xml_of(root).write_text(voc_xml(filename, box))
        assert read_voc(root)[0]["image"].shape == (3, 30, 40)
    xml_of(root).write_text(f"<annotation>{box}</annotation>")
    assert read_voc(root)[0]["orig_size"] == (30, 40)


def test_a_size_of_zero_is_read_from_the_image(root: Path) -> None:
    xml_of(root).write_text(voc_xml("a.jpg", voc_object((1, 1, 5, 5)), width=0, height=0))
    assert read_voc(root)[0]["orig_size"] == (30, 40)


def test_a_turned_image_may_have_either_size(root: Path) -> None:
    write_image(root / "JPEGImages" / "a.jpg", 40, 30, orientation=8)
    for width, height in ((40, 30), (30, 40)):
        xml_of(root).write_text(voc_xml("a.jpg", voc_object((1, 1, 5, 5)), width=width, height=height))
        assert read_voc(root)[0]["image"].shape == (3, height, width)


# What is wrong

OBJECT = voc_object((1, 1, 5, 5))
BAD_OBJECTS = [
    (voc_object((61, 6, 61, 9)), "a.xml: object 2: box has no area (x1 = x2 = 61)"),
    (voc_object((9, 6, 5, 9)), "a.xml: object 2: box has no area (x1 = 9 is larger than x2 = 5)"),
    (
        voc_object((30, 6, 50, 9)),
        "a.xml: object 2: box (30, 6, 50, 9) lies outside the image, which is 40 x 30 pixels",
    ),
    (voc_object(("nan", 6, 50, 9)), "a.xml: object 2: box (nan, 6, 50, 9) has a number that is not finite"),
    (voc_object(("-inf", 6, "inf", 9)), "not finite"),
    (voc_object((1, 6, "1e308", 9)), "too large"),
    (voc_object((1, 6, "9" * 500, 9)), "too large"),
    (voc_object((1, 6, "wide", 9)), "object 2: <xmax> is 'wide', not a number"),
    (voc_object((1, 6, "", 9)), "object 2: <xmax> is '', not a number"),
    (voc_object((1, 6, 9)), "object 2: has no <ymax>"),
    (voc_object((1, 1, 9, 9), " "), "object 2: has no <name>"),
    (voc_object((1, 1, 9, 9), "cat", "<difficult>maybe</difficult>"), "<difficult> is 'maybe'"),
    (voc_object((1, 1, 9, 9), "cat", "<difficult>7</difficult>"), "<difficult> is 7, not 0 or 1"),
    ("<object/>", "object 2: has no <name>"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_OBJECTS, ids=lambda v: str(v)[-40:])
def test_a_wrong_object_is_named_or_skipped(root: Path, wrong: str, message: str) -> None:
    xml_of(root).write_text(voc_xml("a.jpg", OBJECT, wrong))
    with pytest.raises(DataError) as caught:
        read_voc(root)
    line = str(caught.value)
    assert line.startswith("dataset voc: a.xml: object 2: ")
    assert message in line
    assert line.endswith("; fix the file or set dataset.on_error=skip")
    reader = read_voc(root, on_error="skip")
    assert ids(reader) == ["a", "b", "c"]
    assert len(reader.truth(0)["labels"]) == 1
    assert len(reader.notes) == 1
    assert reader.notes[0].startswith("dataset voc: skipped: a.xml: object 2: ")


def test_a_stray_click_is_left_out_with_a_note(root: Path) -> None:
    xml_of(root).write_text(voc_xml("a.jpg", OBJECT, voc_object((7, 8, 7, 8))))
    reader = read_voc(root)
    assert len(reader.truth(0)["labels"]) == 1
    assert reader.notes == [
        "dataset voc: left out boxes that are a single point, a stray click (1): a.xml: object 2"
    ]


BAD_FILES = [
    ("", "is not XML"),
    ("<annotation><object>", "is not XML"),
    ("<annotation>&unknown;</annotation>", "is not XML"),
    ("<html></html>", "is not VOC's XML: expected <annotation>, found <html>"),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DOCTYPE"),
    ('<?xml version="1.0" encoding="martian"?><annotation/>', "is not XML"),
    ('<?xml version="1.0" encoding="utf-7"?><annotation/>', "is not XML"),
    ("<annotation>\udcff</annotation>", "is not XML"),
    (voc_xml("a.jpg", width=-3), "its size is '-3' x '30'"),
    (voc_xml("a.jpg", width="nan"), "its size is 'nan' x '30'"),
    (voc_xml("a.jpg", width="1e308"), "its size is '1e308'"),
    (voc_xml("a.jpg", width="wide"), "<width> is 'wide'"),
    (voc_xml("../JPEGImages/a.jpg"), "leads out"),
    (voc_xml("/etc/passwd"), "must be relative"),
    (voc_xml("b.jpg"), "its image 'b.jpg' is also that of b.xml"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=lambda v: ascii(v)[:40])
def test_a_wrong_file_is_named_or_skipped(root: Path, text: str, message: str) -> None:
    (root / "my.txt").write_text("b\na\nc\n")
    xml_of(root).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_voc(root, train={"list": "my.txt"})
    line = str(caught.value)
    assert line.startswith("dataset voc: a.xml: ")
    assert message in line
    assert "\n" not in line
    reader = read_voc(root, train={"list": "my.txt"}, on_error="skip")
    assert ids(reader) == ["b", "c"]
    assert reader.notes[0].startswith("dataset voc: skipped: a.xml: ")


def test_a_doctype_in_utf_16_does_not_slip_through(root: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><annotation/>'
    xml_of(root).write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.xml: is not UTF-8"):
        read_voc(root)


def test_a_huge_file_is_refused_without_parsing(root: Path) -> None:
    with xml_of(root).open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(DataError, match=r"a\.xml: is larger than"):
        read_voc(root)


@pytest.mark.parametrize(
    "deep", ["<a>" * 300_000, "<annotation>" + "<a>" * 300_000 + "</a>" * 300_000 + "</annotation>"]
)
def test_deep_nesting_is_survived(root: Path, deep: str) -> None:
    xml_of(root).write_text(deep)
    reader = read_voc(root, on_error="skip")
    assert ids(reader) in (["a", "b", "c"], ["b", "c"])


@pytest.mark.parametrize("name", ["a", "../Annotations/a", "no"])
def test_a_wrong_line_of_the_list_is_named_or_skipped(root: Path, name: str) -> None:
    (root / "my.txt").write_text(f"a\n{name}\nb\n")
    with pytest.raises(
        DataError, match=r"my\.txt: line 2: 'a' is there twice|leads out|no\.xml: there is no such file"
    ):
        read_voc(root, train={"list": "my.txt"})
    reader = read_voc(root, train={"list": "my.txt"}, on_error="skip")
    assert ids(reader) == ["a", "b"]
    assert len(reader.notes) == 1


def test_missing_and_broken_images_are_named_or_skipped(root: Path) -> None:
    image = root / "JPEGImages" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"a\.jpg: is truncated"):
        read_voc(root)[0]
    assert ids(read_voc(root, on_error="skip")) == ["b", "c"]
    write_image(image, 50, 30)
    with pytest.raises(DataError, match=r"a\.jpg: is 50 x 30 pixels .* says 40 x 30"):
        read_voc(root)[0]
    assert ids(read_voc(root, on_error="skip")) == ["b", "c"]
    image.unlink()
    with pytest.raises(DataError, match=r"dataset voc: a\.xml: there is no image 'a\.jpg' in "):
        read_voc(root)
    assert ids(read_voc(root, on_error="skip")) == ["b", "c"]


def test_nothing_left_is_an_error_also_where_errors_are_skipped(root: Path) -> None:
    for stem in "abc":
        xml_of(root, stem).write_text("broken")
    with pytest.raises(DataError, match="no images are left"):
        read_voc(root, on_error="skip")
    for stem in "abc":
        xml_of(root, stem).write_text(voc_xml(f"{stem}.jpg"))
    with pytest.raises(DataError, match="not one object"):
        read_voc(root)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="names no images"):
        read_voc(root)


def test_a_link_that_leaves_the_images_is_refused_and_a_linked_folder_is_not(
    root: Path, tmp_path: Path
) -> None:
    (root / "JPEGImages").rename(tmp_path / "elsewhere")
    (root / "JPEGImages").symlink_to(tmp_path / "elsewhere")
    assert read_voc(root)[0]["image"].shape == (3, 30, 40)
    write_image(tmp_path / "secret" / "s.jpg")
    (tmp_path / "elsewhere" / "a.jpg").unlink()
    (tmp_path / "elsewhere" / "a.jpg").symlink_to(tmp_path / "secret" / "s.jpg")
    with pytest.raises(DataError, match=r"a\.xml: the file name 'a\.jpg' leads out"):
        read_voc(root)


def test_a_reader_travels_to_workers_and_its_ids_to_json(root: Path) -> None:
    reader = pickle.loads(pickle.dumps(read_voc(root)))
    assert reader[2]["image_id"] == "c"
    assert json.loads(json.dumps(reader.truth(0)["image_id"])) == "a"
    with pytest.raises(IndexError):
        reader[3]
