"""Names that a data set's files give: of files, found in its folder and never outside of it; and for people.

A name in an annotation file is written by a stranger. It may lead up, away through a symbolic link, to
another drive or to an address; each of these is refused, whether or not such a file exists. The folder itself
comes from the user and may be a link: what counts is where it leads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cvtasks.errors import ConfigError, DataError

_DRIVE = re.compile(r"[A-Za-z]:")


def inside(root: str | Path, name: str) -> Path:
    """The real path of `name` below `root`, all links followed; the file need not exist.

    `name` is relative, with / or \\ between its parts. Raises DataError where it is not a file's name, or
    leads out of `root`.
    """
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, *_parts(name)))
    if os.path.commonpath([base, real]) != base:
        raise DataError(f"the file name {quoted(name)} leads out of {base} through a symbolic link")
    return Path(real)


def root_folder(root: str | None) -> Path:
    """`dataset.root`, or the working directory. Raises ConfigError where there is no such folder."""
    base = Path(root or "").expanduser()
    if not base.is_dir():
        raise ConfigError(f"dataset.root={root}: there is no such folder")
    return base


def quoted(value: object) -> str:
    """A value from a file for a message: one line, without control characters, not long."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"


def is_name(value: object) -> bool:
    """Whether a value from a file can be the name of a class or a joint: one line of text."""
    return isinstance(value, str) and len(value.strip().splitlines()) == 1 and _is_text(value)


class Folder:
    """A folder of a data set; each directory in it is listed once, because asking file by file is slow."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._listings: dict[str, dict[str, bool]] = {}

    def find(self, name: str) -> Path | None:
        """The file with this name, or None. Raises DataError where `inside` does."""
        *parents, last = _parts(name)
        entries = self.names("/".join(parents))
        if last not in entries:
            return None
        is_link = entries[last]
        return inside(self.path, name) if is_link else self.path.joinpath(*parents, last)

    def names(self, below: str = "") -> dict[str, bool]:
        """The files in this folder, or in the one `below` it, and which of them are links."""
        if below not in self._listings:
            directory = inside(self.path, below) if below else self.path
            try:
                with os.scandir(directory) as entries:
                    self._listings[below] = {e.name: e.is_symlink() for e in entries if _is_file(e)}
            except OSError:
                self._listings[below] = {}
        return self._listings[below]

    def tree(self) -> list[str]:
        """The files in this folder and in the folders below it, sorted; what is hidden, and folders that are links,
        are left out."""
        found = []
        for directory, folders, names in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(directory).relative_to(self.path)
            found += [(below / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(found)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Also through a link; a link to itself is none, and no reason to find none of its neighbours."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_text(value: str) -> bool:
    """False for the half characters that JSON's escapes can make, and that no file or terminal takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(name: str) -> list[str]:
    if not _is_text(name):
        raise DataError(f"the file name {quoted(name)} is not valid text")
    if "\0" in name:
        raise DataError(f"the file name {quoted(name)} holds a NUL character")
    if "://" in name:
        raise DataError(f"the file name {quoted(name)} is an address; download the file and name it here")
    portable = name.replace("\\", "/")  # files written on Windows name folders so
    if portable.startswith(("/", "~")) or _DRIVE.match(portable):
        raise DataError(f"the file name {quoted(name)} must be relative to the data set's folder")
    parts = [part for part in portable.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(f"the file name {quoted(name)} leads out of the data set's folder")
    if not parts or portable.endswith("/"):
        raise DataError(f"{quoted(name)} is not the name of a file")
    return parts
