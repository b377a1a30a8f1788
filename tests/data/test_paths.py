"""Oracle: the operating system. What is refused here would open a file outside of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvtasks.data.paths import Folder, inside, quoted
from cvtasks.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files, and beside it a secret to which links lead."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.jpg").write_text("secret")
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_text("a")
    (root / "sub" / "b.jpg").write_text("b")
    (root / "linked_folder").symlink_to(secret)
    (root / "linked_file.jpg").symlink_to(secret / "a.jpg")
    (root / "chained.jpg").symlink_to(root / "linked_file.jpg")
    (root / "good_link.jpg").symlink_to(root / "sub" / "b.jpg")
    return root


ESCAPES = [
    "../secret/a.jpg",
    "sub/../../secret/a.jpg",
    "/etc/passwd",
    "linked_folder/a.jpg",
    "linked_file.jpg",
    "chained.jpg",
    "..\\secret\\a.jpg",
    "\\\\server\\share\\a.jpg",
    "C:\\secret\\a.jpg",
    "c:a.jpg",
    "a.jpg\0.png",
    "~/a.jpg",
    "~root/a.jpg",
    "file:///etc/passwd",
    "https://example.com/a.jpg",
    "..",
    "linked_folder/../a.jpg",
    "\udcff\ud800.jpg",
    "",
    ".",
    "sub/",
]


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
def test_a_name_that_leaves_the_root_is_refused_in_one_line(root: Path, name: str) -> None:
    for ask in (lambda: inside(root, name), lambda: Folder(root).find(name)):
        with pytest.raises(DataError) as caught:
            ask()
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        message.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jpg", "a"),
        ("sub/b.jpg", "b"),
        ("./sub//b.jpg", "b"),
        ("sub\\b.jpg", "b"),
        ("good_link.jpg", "b"),
    ],
)
def test_a_name_that_stays_inside_is_found(root: Path, name: str, content: str) -> None:
    assert inside(root, name).read_text() == content
    found = Folder(root).find(name)
    assert found is not None
    assert found.read_text() == content


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert inside(link, "a.jpg").read_text() == "a"
    found = Folder(link).find("a.jpg")
    assert found is not None
    assert found.read_text() == "a"
    with pytest.raises(DataError):
        Folder(link).find("linked_file.jpg")


def test_a_neighbour_whose_name_begins_like_the_root_is_outside(root: Path) -> None:
    (root.parent / "data2").mkdir()
    (root.parent / "data2" / "a.jpg").write_text("other")
    (root / "next.jpg").symlink_to(root.parent / "data2" / "a.jpg")
    with pytest.raises(DataError, match="symbolic link"):
        inside(root, "next.jpg")


def test_missing_files_folders_loops_and_endless_names_are_not_found(root: Path) -> None:
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    folder = Folder(root)
    assert folder.find("a.jpg") is not None
    for name in ("no.jpg", "nowhere/a.jpg", "sub", "loop.jpg", "a.jpg/b.jpg", "x" * 5000, "y/" * 3000 + "z"):
        assert folder.find(name) is None


def test_a_quoted_value_is_short_and_on_one_line() -> None:
    for value in (
        "two\nlines",
        "\x1b[31mred",
        "\ud800",
        "long" * 1000,
        10**200,
        [1] * 1000,
        None,
        float("nan"),
    ):
        text = quoted(value)
        assert len(text) <= 80
        assert text.isprintable()
        text.encode()
