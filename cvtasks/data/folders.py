"""A folder for each class: the layout of ImageNet's training data, and of most data sets that people make themselves.

cvtasks train task=classification dataset=folders dataset.root=/data/mine
cvtasks train task=classification dataset=folders dataset.root=/data/mine dataset.val_fraction=0.2

train/cat/1.jpg   train/cat/more/2.png   train/dog/3.jpg   val/cat/4.jpg   val/dog/5.jpg
cat/1.jpg   dog/2.jpg                    with dataset.val_fraction
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypedDict

import numpy as np
import torch

from cvtasks.config.schema import Range
from cvtasks.data.annotations import Findings, OnError, Strings, locate_image
from cvtasks.data.images import IMAGE_SUFFIXES, Size, read_image
from cvtasks.data.paths import Folder, is_name, root_folder
from cvtasks.data.splits import part, source_of
from cvtasks.data.whole_images import choose_images
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Sample, Split, Truth


class FoldersSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    """The folder with a folder for each class"""


class FoldersReader:
    """One split of a folder of classes (protocol `Reader`). An image's id is its name below that folder, `cat/1.jpg`.

    A class is a folder with images in it or further below, and the classes stand in the order of their names. Hidden files
    and files that are no images by their ending are not looked at.

    root: holds train/ and val/; or, with `val_fraction`, train/ alone, or the classes themselves.
    train, val: any other folders.
    val_fraction: this part of the training images is for validation, drawn from each class's.
    on_error: raise stops at the first image that is wrong; skip leaves it out, says so in `notes`, and decodes every image
        once beforehand.

    Raises DataError naming the file, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(
        self,
        *,
        split: Split,
        root: str | None = None,
        train: FoldersSplit | None = None,
        val: FoldersSplit | None = None,
        val_fraction: Annotated[float, Range(above=0, below=1)] | None = None,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("folders", on_error)
        folder = _place(root, split, train or {}, val or {}, val_fraction)
        files = _files(folder, findings)
        names = sorted(files)
        if val_fraction is not None:
            files = {name: part(own, split, val_fraction, split_seed) for name, own in files.items()}
        listed = [file for name in names for file in files[name]]
        labels = np.repeat(np.arange(len(names)), [len(files[name]) for name in names])
        chosen = choose_images(names, labels, classes, split, findings)
        located: list[tuple[str, Size, int]] = []
        for index, label in zip(chosen.images.tolist(), chosen.labels.tolist(), strict=True):
            try:
                located.append((*locate_image(folder, listed[index], None, findings), label))
            except DataError as error:
                findings.error(listed[index], str(error))
        if not located:
            raise findings.fatal(f"{folder.path}: no image is left")
        self.classes = chosen.classes
        self.notes = findings.notes()
        self._folder = folder.path
        self._files = Strings(file for file, _, _ in located)
        self._sizes = np.array([size for _, size, _ in located], np.int64)
        self._labels = np.array([label for _, _, label in located], np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        truth = self.truth(index)
        return {
            "image": read_image(truth["file"], truth["orig_size"]),
            "image_id": truth["image_id"],
            "orig_size": truth["orig_size"],
            "label": torch.tensor(truth["label"]),
        }

    def truth(self, index: int) -> Truth:
        index = range(len(self))[index]
        name = self._files[index]
        return {
            "image_id": name,
            "file": str(self._folder / name),
            "orig_size": tuple(self._sizes[index].tolist()),
            "label": int(self._labels[index]),
        }


def _place(
    root: str | None, split: Split, train: FoldersSplit, val: FoldersSplit, val_fraction: float | None
) -> Folder:
    """The folder of the classes' folders. Raises ConfigError."""
    source = source_of(split, val_fraction, val_given=any(val.values()))
    named = (train if source == "train" else val).get("images")
    base = root_folder(root)
    if named is not None:
        path = base / Path(named).expanduser()
    elif root is None:
        raise ConfigError(
            "dataset folders: type dataset.root=DIR for a folder with train/CLASS/ and val/CLASS/, or "
            f"dataset.{source}.images=DIR"
        )
    else:
        path = base / source
        if val_fraction is not None and not path.is_dir():
            path = base
    if not path.is_dir():
        raise ConfigError(
            f"dataset folders: there is no folder {path}; type dataset.{source}.images=DIR, or dataset.val_fraction=0.2 to "
            "divide one tree of classes"
        )
    return Folder(path)


def _files(folder: Folder, findings: Findings) -> dict[str, list[str]]:
    """The images of each class, by their names below `folder`."""
    found: dict[str, list[str]] = {}
    loose = 0
    for name in folder.tree():
        if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
            continue
        top, slash, _ = name.partition("/")
        if slash:
            found.setdefault(top, []).append(name)
        loose += not slash
    for entry in sorted(os.scandir(folder.path), key=lambda entry: entry.name):
        if entry.is_symlink() and entry.is_dir() and not entry.name.startswith("."):
            findings.error(entry.name, "is a link to a folder, which is not followed; move the folder here")
    for name in list(found):
        if not is_name(name) or not name.isprintable():
            findings.error(ascii(name), "is a folder's name that can be no class's")
            del found[name]
    if loose:
        findings.note(f"left out images in {folder.path} itself, in no class's folder ({loose})")
    if not found:
        raise findings.fatal(f"{folder.path}: there are no folders with images, one for each class")
    return found
