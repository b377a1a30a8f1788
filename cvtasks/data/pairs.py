"""Which label image belongs to which image: by name, by name and suffix, or by a list of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from cvtasks.data.annotations import Findings
from cvtasks.data.images import IMAGE_SUFFIXES
from cvtasks.data.paths import Folder, quoted
from cvtasks.data.splits import read_list
from cvtasks.errors import DataError


class Pair(NamedTuple):
    key: str
    """What the two names have in common, with the folders below `images`: another one for each pair."""
    image: str | None
    """The file's name below the images' folder; None where only labels are wanted."""
    label: str


@dataclass
class Pairs:
    """Finds the images and label images of one split."""

    images: Folder | None
    """None if only the labels are wanted."""
    labels: Folder
    """May be the images' own folder, or one within it."""
    list_file: Path | None = None
    """A text file. A line is an image's name, with or without its ending, or the names of an image and of its label
    image, with a tab, a comma or a space between them."""
    image_suffix: str = ""
    """What follows the common part of the names, before the dot"""
    label_suffix: str = ""

    def find(self, findings: Findings) -> list[Pair]:
        """In the order of the list, or of the names. Raises DataError; what lacks its partner is an error."""
        if self.list_file is not None:
            return self._listed(self.list_file, findings)
        found = []
        images, labels = self._names
        for folder, names, what in ((self.images, images, "images"), (self.labels, labels, "label images")):
            if folder is not None and not names:
                suffix = self.image_suffix if what == "images" else self.label_suffix
                ending = f" whose names end in {quoted(suffix)} before the dot" if suffix else ""
                raise findings.fatal(f"{folder.path}: there are no {what}{ending}")
        for key in sorted(images | labels):
            try:
                if self.images is not None and key not in images:
                    raise DataError(
                        f"there is no image {quoted(key + self.image_suffix)} in {self.images.path}"
                    )
                found.append(self._pair(key))
            except DataError as error:
                findings.error((images.get(key) or labels[key])[0], str(error))
        return found

    def _listed(self, path: Path, findings: Findings) -> list[Pair]:
        found: dict[str, Pair] = {}
        for number, line in read_list(path, findings).items():
            try:
                pair = self._line(line)
                if pair.key in found:
                    raise DataError(f"{quoted(pair.key)} is there twice")
            except DataError as error:
                findings.error(f"{path.name}: line {number}", str(error))
                continue
            found[pair.key] = pair
        if not found:
            raise findings.fatal(f"{path.name}: names no images")
        return list(found.values())

    def _line(self, line: str) -> Pair:
        separator = next((mark for mark in "\t," if mark in line), None)
        image, *rest = (name.strip() for name in line.split(separator))
        if len(rest) > 1:
            raise DataError(
                f"{quoted(line)} is more than an image and its label image; names with spaces need a tab between them"
            )
        key = _key(image, self.image_suffix)
        if not rest:
            # Without its ending, a name may have dots of its own.
            return self._pair(key or image.removesuffix(self.image_suffix))
        for folder, name, what in ((self.images, image, "image"), (self.labels, rest[0], "label image")):
            if folder is not None and folder.find(name) is None:
                raise DataError(f"there is no {what} {quoted(name)} in {folder.path}")
        return Pair(key or image, None if self.images is None else image, rest[0])

    def _pair(self, key: str) -> Pair:
        """The files of that key. Raises DataError where there are none, or several."""
        images, labels = self._names
        image = None
        if self.images is not None:
            if key not in images:
                self.images.find(key)  # refuses what leads out of the folder
                raise DataError(f"there is no image {quoted(key + self.image_suffix)} in {self.images.path}")
            image = _only(images[key])
        if key not in labels:
            near = next((names[0] for other, names in labels.items() if other.startswith(key)), None)
            hint = f" (there is {quoted(near)}: see dataset.label_suffix)" if near else ""
            wanted = quoted(f"{key}{self.label_suffix}.png")
            raise DataError(f"there is no label image {wanted} in {self.labels.path}{hint}")
        return Pair(key, image, _only(labels[key]))

    @cached_property
    def _names(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The names of images, and of label images, by key."""
        images = {} if self.images is None else self._by_key(self.images, self.labels, of_labels=False)
        return images, self._by_key(self.labels, self.images, of_labels=True)

    def _by_key(self, folder: Folder, other: Folder | None, *, of_labels: bool) -> dict[str, list[str]]:
        suffix = self.label_suffix if of_labels else self.image_suffix
        found: dict[str, list[str]] = {}
        for name in folder.tree():
            key = _key(name, suffix)
            if key is None:
                continue
            if other is None or not other.path.is_relative_to(folder.path):
                mine = True
            elif other.path == folder.path:
                mine = self._is_label(name) == of_labels
            else:
                mine = not (folder.path / name).is_relative_to(other.path)
            if mine:
                found.setdefault(key, []).append(name)
        return found

    def _is_label(self, name: str) -> bool:
        """In a folder of both."""
        if self.image_suffix == self.label_suffix:
            return name.lower().endswith(".png")
        longer = max(self.image_suffix, self.label_suffix, key=len)
        return Path(name).stem.endswith(longer) == (longer == self.label_suffix)


def _only(names: list[str]) -> str:
    if len(names) > 1:
        raise DataError(f"{quoted(names[0])} and {quoted(names[1])} have the same name")
    return names[0]


def _key(name: str, suffix: str) -> str | None:
    """An image's name without its ending and suffix; None where it has others."""
    stem, dot, ending = name.rpartition(".")
    if f"{dot}{ending}".lower() not in IMAGE_SUFFIXES or not stem.endswith(suffix):
        return None
    return stem.removesuffix(suffix)
