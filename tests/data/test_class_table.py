"""Names and colours of classes in every form that they may be given in."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvtasks.data.annotations import Findings
from cvtasks.data.class_table import class_colors, read_colors, read_names
from cvtasks.errors import ConfigError, DataError

ROAD, CAR = (128, 64, 128), (0, 0, 142)


def findings() -> Findings:
    return Findings("masks", "raise")


@pytest.mark.parametrize(
    "text",
    [
        "128 64 128 road\n0 0 142 parked car\n",
        "128 64 128\t\troad\r\n0 0 142\tparked car",  # CamVid's label_colors.txt
        "name,r,g,b\nroad,128,64,128\nparked car,0,0,142\n",
        "r g b name\n128, 64, 128, road\n\n0,0,142,parked car\n",
    ],
)
def test_a_table_of_colours_may_be_written_in_either_order(tmp_path: Path, text: str) -> None:
    (tmp_path / "colors.txt").write_text(text)
    assert read_colors(tmp_path / "colors.txt", findings()) == {"road": ROAD, "parked car": CAR}


def test_names_stand_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeff road \n\nparked car, or van\n", "utf-8")
    assert read_names(tmp_path / "names.txt", findings()) == ["road", "parked car, or van"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road", "line 1 is 'road'; expected"),
        ("1 2 256 road", "line 1: '1 2 256 road' has a value above 255"),
        ("1 2 3 road\n1 2 4 road", "line 2: the name 'road' is there twice"),
        ("", "is empty"),
        ("1 2 3 a\x07b", "line 1 is"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "colors.txt").write_text(text)
    with pytest.raises(DataError, match=r"dataset masks: colors\.txt: ") as caught:
        read_colors(tmp_path / "colors.txt", findings())
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.classes=.*no\.txt: there is no such file"):
        read_names(tmp_path / "no.txt", findings())


def test_colours_bring_their_names_or_are_brought_to_them() -> None:
    named = class_colors({"road": ROAD, "car": CAR}, None, None, findings())
    assert named == (["road", "car"], {ROAD: 0, CAR: 1}, (ROAD, CAR))
    assert class_colors([ROAD, CAR], None, [0, 0, 0], findings()).meaning == {ROAD: 0, CAR: 1, (0, 0, 0): 255}
    assert class_colors([ROAD, CAR], None, None, findings()).names == ["class_0", "class_1"]
    told = findings()
    chosen = class_colors({"road": ROAD, "car": CAR}, ["car"], None, told)
    assert chosen == (["car"], {CAR: 0, ROAD: 255}, (CAR,))
    assert "leaves out: road" in told.notes()[0]


@pytest.mark.parametrize(
    ("colors", "names", "void", "message"),
    [
        ([ROAD], ["a", "b"], None, "1 colours for 2 classes"),
        ({"a": ROAD}, ["a", "b"], None, "no colour for 'b'"),
        ({}, None, None, "no colour for any class"),
        ({"a": ROAD, "b": ROAD}, None, None, r"\[128, 64, 128\] is the colour of 'a' and 'b'"),
        ({"a": ROAD}, None, ROAD, "ignore_color=.* is the colour of 'a'"),
        (None, None, ROAD, "set dataset.colors too"),
        ([(k, 0, 0) for k in range(255)], None, None, "at most 254"),
    ],
)
def test_what_does_not_fit_together_is_refused(colors, names, void, message) -> None:
    with pytest.raises(ConfigError, match=message):
        class_colors(colors, names, void, findings())
