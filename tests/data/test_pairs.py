"""Oracle: names that the test chose; the files are empty, since only names count here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvtasks.data.annotations import Findings
from cvtasks.data.pairs import Pair, Pairs
from cvtasks.data.paths import Folder
from cvtasks.errors import DataError


def put(root: Path, *names: str) -> Folder:
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Folder(root)


def find(images: Folder | None, labels: Folder, *, on_error: str = "raise", **options: object) -> list[Pair]:
    return Pairs(images, labels, **options).find(Findings("masks", on_error))  # type: ignore[arg-type]


def wrong(*args: Folder | None, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        find(*args, **options)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_images_and_labels_of_one_name_are_a_pair(tmp_path: Path) -> None:
    images = put(tmp_path / "i", "b.jpg", "a.x.PNG", "notes.txt", ".hidden.png")
    labels = put(tmp_path / "l", "a.x.png", "b.png", "Thumbs.db")
    assert find(images, labels) == [Pair("a.x", "a.x.PNG", "a.x.png"), Pair("b", "b.jpg", "b.png")]
    assert find(None, labels) == [Pair("a.x", None, "a.x.png"), Pair("b", None, "b.png")]


def test_suffixes_choose_among_the_files_of_cityscapes(tmp_path: Path) -> None:
    images = put(tmp_path / "i", "ulm/ulm_1_leftImg8bit.png", "bonn/bonn_2_leftImg8bit.png")
    stems = ("ulm/ulm_1", "bonn/bonn_2")
    labels = put(
        tmp_path / "l",
        *(f"{s}_gtFine_{k}" for s in stems for k in ("labelIds.png", "color.png", "polygons.json")),
    )
    found = find(images, labels, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelIds")
    assert found == [Pair(s, f"{s}_leftImg8bit.png", f"{s}_gtFine_labelIds.png") for s in sorted(stems)]


@pytest.mark.parametrize(
    ("image", "label", "options"),
    [
        ("a.jpg", "a.png", {}),
        ("a.png", "a_L.png", {"label_suffix": "_L"}),
        ("a_img.png", "a.png", {"image_suffix": "_img"}),
        ("a_1.png", "a_12.png", {"image_suffix": "_1", "label_suffix": "_12"}),
    ],
)
def test_one_folder_may_hold_both(tmp_path: Path, image: str, label: str, options: dict[str, str]) -> None:
    both = put(tmp_path / "both", image, label)
    assert find(both, both, **options) == [Pair("a", image, label)]


def test_labels_may_lie_in_a_folder_within_that_of_the_images_and_the_other_way_round(tmp_path: Path) -> None:
    outer, inner = put(tmp_path / "o", "a.png"), put(tmp_path / "o" / "in", "a.png")
    assert find(outer, inner) == [Pair("a", "a.png", "a.png")] == find(inner, outer)


def test_what_lacks_its_partner_is_named(tmp_path: Path) -> None:
    images, labels = put(tmp_path / "i", "a.png", "b.png"), put(tmp_path / "l", "b.png", "c.png")
    assert "a.png: there is no label image 'a.png' in" in wrong(images, labels)
    findings = Findings("masks", "skip")
    assert [pair.key for pair in Pairs(images, labels).find(findings)] == ["b"]
    assert findings.skipped == 2
    assert "c.png: there is no image 'c' in" in findings.notes()[1]


def test_a_forgotten_suffix_is_hinted_at(tmp_path: Path) -> None:
    images, labels = put(tmp_path / "i", "a.png"), put(tmp_path / "l", "a_L.png")
    assert "(there is 'a_L.png': see dataset.label_suffix)" in wrong(images, labels)


def test_two_files_of_one_name_and_empty_folders_are_errors(tmp_path: Path) -> None:
    images, labels = put(tmp_path / "i", "a.png", "a.jpg"), put(tmp_path / "l", "a.png")
    assert "'a.jpg' and 'a.png' have the same name" in wrong(images, labels)
    assert "there are no images" in wrong(put(tmp_path / "e", "a.txt"), labels)
    assert "there are no label images" in wrong(labels, put(tmp_path / "e"))
    assert "whose names end in '_x' before the dot" in wrong(labels, labels, image_suffix="_x")


# Lists


def test_a_line_is_a_name_or_a_pair_with_any_separator(tmp_path: Path) -> None:
    images, labels = put(tmp_path / "i", "a.jpg", "b.c.jpg", "d.jpg", "e e.jpg"), put(
        tmp_path / "l", "a.png", "b.c.png", "x.png", "y y.png"
    )  # fmt: skip
    lines = tmp_path / "list.txt"
    lines.write_text("\ufeffb.c\r\n\n a.jpg \nd.jpg x.png\ne e.jpg\ty y.png\n", "utf-8")
    assert find(images, labels, list_file=lines) == [
        Pair("b.c", "b.c.jpg", "b.c.png"),
        Pair("a", "a.jpg", "a.png"),
        Pair("d", "d.jpg", "x.png"),
        Pair("e e", "e e.jpg", "y y.png"),
    ]
    lines.write_text("a.jpg,a.png\nd.jpg, x.png")
    assert find(images, labels, list_file=lines) == [Pair("a", "a.jpg", "a.png"), Pair("d", "d.jpg", "x.png")]
    assert find(None, labels, list_file=lines) == [Pair("a", None, "a.png"), Pair("d", None, "x.png")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q", "there is no image 'q' in"),
        ("u.png", "there is no label image 'u.png' in"),
        ("q.png a.png", "there is no image 'q.png' in"),
        ("a.png q.png", "there is no label image 'q.png' in"),
        ("a.png a.png 1", "more than an image and its label image"),
        ("a a.png", "there is no image 'a' in"),
        ("../l/a.png a.png", "leads out of"),
        ("a.png ../i/a.png", "leads out of"),
        ("/etc/passwd", "must be relative"),
        ("a.png ~/a.png", "must be relative"),
        ("a\na", "line 2: 'a' is there twice"),
        ("", "names no images"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    images, labels = put(tmp_path / "i", "a.png", "u.png"), put(tmp_path / "l", "a.png")
    (tmp_path / "list.txt").write_text(line)
    found = wrong(images, labels, list_file=tmp_path / "list.txt")
    assert message in found
    assert found.startswith("dataset masks: list.txt: ")


names = st.lists(
    st.from_regex(r"[a-c.]{1,3}", fullmatch=True).filter(lambda s: s.strip(".")), unique=True, min_size=1
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=names.map(lambda found: [n for n in found if not n.startswith(".")] or ["a"]),
       suffixes=st.tuples(st.sampled_from(["", "_i", "_x_i"]), st.sampled_from(["", "_l", "_i_l"])))  # fmt: skip
def test_any_names_are_paired_whatever_their_order_and_dots(tmp_path_factory, names, suffixes) -> None:
    root = tmp_path_factory.mktemp("pairs")
    images = put(root / "i", *(f"{n}{suffixes[0]}.jpg" for n in names))
    labels = put(root / "l", *(f"{n}{suffixes[1]}.png" for n in names))
    found = find(images, labels, image_suffix=suffixes[0], label_suffix=suffixes[1])
    assert [pair.key for pair in found] == sorted(names)
    (root / "list.txt").write_text("\n".join(names))
    listed = find(
        images, labels, image_suffix=suffixes[0], label_suffix=suffixes[1], list_file=root / "list.txt"
    )
    assert listed == sorted(found, key=lambda pair: names.index(pair.key))
