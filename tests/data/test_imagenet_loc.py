"""ImageNet's layout: the mapping's names and order, its XML files, and the tables that stand in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvtasks.errors import ConfigError, DataError

from .files import voc_object, voc_xml
from .localization_files import labels_of, read_imagenet, write_imagenet


def test_the_classes_have_the_mapping_s_names_and_order(tmp_path: Path) -> None:
    reader = read_imagenet(write_imagenet(tmp_path))
    assert reader.classes.names == ("crane (n02)", "tench")
    assert labels_of(reader) == {"n01/n01_3": "tench", "n02/n02_1": "crane (n02)", "n02/n02_7": "crane (n02)"}
    assert reader.truth(2)["boxes"].tolist() == [[5, 5, 19, 20]]
    assert reader[2]["image"].shape == (3, 30, 40)
    val = read_imagenet(tmp_path, split="val", classes=list(reader.classes.names))
    assert labels_of(val) == {"v_1": "tench"}
    assert val.truth(0)["label"] == 1
    with pytest.raises(DataError, match=r"n02/n02_7\.xml: has 2 objects, .*set dataset\.select=largest"):
        read_imagenet(tmp_path, select="one")


def test_without_the_mapping_the_classes_are_synsets(tmp_path: Path) -> None:
    (write_imagenet(tmp_path) / "LOC_synset_mapping.txt").unlink()
    assert read_imagenet(tmp_path).classes.names == ("n01", "n02")


def test_the_folder_ilsvrc_itself_can_be_the_root(tmp_path: Path) -> None:
    assert len(read_imagenet(write_imagenet(tmp_path) / "ILSVRC")) == 3


def test_as_a_list_of_objects_all_boxes_are_there(tmp_path: Path) -> None:
    reader = read_imagenet(write_imagenet(tmp_path), fields=frozenset({"boxes", "labels"}))
    assert [len(reader.truth(i)["boxes"]) for i in range(3)] == [1, 1, 2]


def tables(root: Path, **lines: list[str]) -> Path:
    for split, own in lines.items():
        for path in (root / "ILSVRC" / "Annotations" / "CLS-LOC" / split).rglob("*.xml"):
            path.unlink()
        (root / f"LOC_{split}_solution.csv").write_text("\n".join(["ImageId,PredictionString", *own]))
    return root


FILES = {split: {"annotations": f"LOC_{split}_solution.csv"} for split in ("train", "val")}


def test_solution_files_stand_in_for_xml(tmp_path: Path) -> None:
    root = tables(
        write_imagenet(tmp_path), val=["v_1,n01 1 2 30 20 "], train=["n02_1,n02 1 2 3 4 n02 0 0 9 9"]
    )
    train, val = (read_imagenet(root, split=split, **FILES) for split in ("train", "val"))
    assert train.truth(0)["boxes"].tolist() == [[0, 0, 9, 9]]
    assert labels_of(train) == {"n02/n02_1": "crane (n02)"}
    assert val.truth(0)["boxes"].tolist() == [[1, 2, 30, 20]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v_1,n01 1 2", "line 2: its boxes are not times a synset and four numbers"),
        ("v_1,n01 1 2 x 4", "line 2: object 1: its box is not four numbers"),
        ("v_1,n01 5 2 5 4", "line 2: object 1: box has no area"),
        ("v_1,n01 5 2 nan 4", "line 2: object 1: box .* not finite"),
        ("v_1,", "there is not one object"),
        ("v_1,n01 1 2 3 4\nv_1,n01 1 2 3 4", "line 3: 'v_1' is there twice"),
        ("v_2,n01 1 2 3 4", "line 2: there is no image 'v_2'"),
        ("../train/n01/n01_3,n01 1 2 3 4", "line 2: .* leads out of the data set's folder"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    root = tables(write_imagenet(tmp_path), val=[line])
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv: " + message):
        read_imagenet(root, split="val", **FILES)


def test_an_image_without_an_object_is_named_or_skipped(tmp_path: Path) -> None:
    root = write_imagenet(tmp_path)
    xml = root / "ILSVRC" / "Annotations" / "CLS-LOC" / "train" / "n02" / "n02_1.xml"
    for objects, message in (
        ([], r"n02/n02_1\.xml: has no object"),
        ([voc_object((9, 5, 9, 20), "n02")], r"n02/n02_1\.xml: object 1: box has no area \(x1 = x2 = 9\)"),
    ):
        xml.write_text(voc_xml("n02_1", *objects))
        with pytest.raises(DataError, match=message):
            read_imagenet(root)
        skipped = read_imagenet(root, on_error="skip")
        assert list(labels_of(skipped)) == ["n01/n01_3", "n02/n02_7"]
        assert "n02/n02_1.xml" in skipped.notes[0]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = write_imagenet(tmp_path)
    with pytest.raises(ConfigError, match=r"type dataset\.root=DIR for a folder with ILSVRC/Annotations"):
        read_imagenet(root / "ILSVRC" / "Data")
    with pytest.raises(ConfigError, match=r"dataset imagenet_loc: type dataset\.root=DIR"):
        read_imagenet(root, root=None)
    (root / "LOC_synset_mapping.txt").write_text("n02 crane\nn01\n")
    with pytest.raises(DataError, match=r"LOC_synset_mapping\.txt: line 2 is 'n01'; expected a synset and"):
        read_imagenet(root)
