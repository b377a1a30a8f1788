"""Predicted label maps as files: `<image id>.png`, a palette PNG whose values are classes, 0..K-1 (255: none).

What this package writes, and what `cvtasks eval predictions=FOLDER` judges.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image

from cvtasks.data.label_images import read_label
from cvtasks.errors import DataError
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth
from cvtasks.viz.colors import VOID_COLOR, class_colors

NO_CLASS = 255
_EXAMPLES = 3


def encode(labels: np.ndarray, classes: ClassInfo) -> bytes:
    """The label map, uint8 [H, W], as a PNG in the classes' colours."""
    picture = Image.fromarray(labels)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = class_colors(classes)
    palette[NO_CLASS] = VOID_COLOR
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    # Label maps compress as well at level 1, in a third of the time.
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def file_name(image_id: ImageId) -> str:
    """`<image id>.png`; an id with slashes names folders. No id leads out of the folder, and no two share a file."""
    parts = re.sub(r'[\x00-\x1f%:*?"<>|\\]', _escaped, str(image_id)).split("/")
    return "/".join(re.sub(r"^(\.|$)", _escaped, part) for part in parts) + ".png"


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{ord(character):02X}" for character in match[0]) or "%"


class LabelFolder:
    """A folder of predicted label maps, of this package's or another tool's making.

    Files are found by image id, else by the name of the image's file; in the folder itself or below it.
    Raises DataError where the folder holds no PNG.
    """

    def __init__(self, folder: Path, classes: ClassInfo) -> None:
        self.folder = folder
        self.classes = classes
        below = sorted(
            Path(directory, name).relative_to(folder)
            for directory, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(".png")
        )
        if not below:
            raise DataError(
                f"predictions {folder}: there are no PNG files; expected one for each image, <image id>.png"
            )
        self._by_path = {path.with_suffix("").as_posix(): path for path in below}
        self._by_stem: dict[str, list[Path]] = {}
        for path in below:
            self._by_stem.setdefault(path.stem, []).append(path)
        self._used: set[Path] = set()

    def prediction(self, truth: Truth) -> Prediction:
        """`segmentation` of the image that `truth` is of. Raises DataError naming the file: missing, damaged, of
        another size than the image, with a value that is no class."""
        path = self.folder / self._find(truth["image_id"], truth["file"])
        labels, palette = read_label(path)
        if labels.dtype != np.uint8:
            raise DataError(f"{path}: holds colours; expected a grey or palette PNG whose values are classes")
        expected = tuple(truth["orig_size"])
        if labels.shape != expected:
            raise DataError(
                f"{path}: is {_shown(labels.shape)} pixels (width x height), but its image is {_shown(expected)}"
            )
        used = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
        wrong = used[(used >= len(self.classes)) & (used != NO_CLASS)]
        if len(wrong):
            raise DataError(
                f"{path}: has the value {wrong[-1]}, but there are {len(self.classes)} classes, counted from 0 "
                f"({NO_CLASS}: none); if classes are lacking, name all of them by dataset.classes"
            )
        if palette is not None:
            self._check_palette(path, palette, used[used != NO_CLASS])
        return {"segmentation": torch.from_numpy(labels)}

    def notes(self) -> list[str]:
        """When all images are judged: which files are of none of them."""
        surplus = [path for path in self._by_path.values() if path not in self._used]
        if not surplus:
            return []
        total = len(self._by_path)
        return [
            f"predictions {self.folder}: {len(surplus)} of {total} PNG files are of no image here ({_examples(surplus)})"
        ]

    def _find(self, image_id: ImageId, image_file: str) -> Path:
        name = file_name(image_id).removesuffix(".png")
        stems = dict.fromkeys((PurePath(name).name, PurePath(image_file).stem))
        found = [self._by_path[name]] if name in self._by_path else []
        for stem in stems:
            found = found or self._by_stem.get(stem, [])
        if not found:
            there = _examples(list(self._by_path.values()))
            raise DataError(
                f"predictions {self.folder}: there is no {' or '.join(f'{stem}.png' for stem in stems)} for the image "
                f"{image_file} (there is {there})"
            )
        if len(found) > 1:
            raise DataError(
                f"predictions {self.folder}: {_examples(found)} could all be of the image {image_file}; expected one"
            )
        self._used.add(found[0])
        return found[0]

    def _check_palette(self, path: Path, palette: np.ndarray, used: np.ndarray) -> None:
        """Saved again by another program, a palette may stand in another order: then colours tell what values do not."""
        colors = class_colors(self.classes)
        if (palette == palette[:1]).all():
            return
        for value in used[used < len(palette)].tolist():
            color = tuple(palette[value].tolist())
            if color != colors[value] and color in colors:
                names = self.classes.names
                raise DataError(
                    f"{path}: its palette gives the value {value} ({names[value]}) the colour of class "
                    f"{colors.index(color)} ({names[colors.index(color)]}); save the classes' numbers as a grey PNG"
                )


def _examples(paths: Sequence[Path]) -> str:
    names = [path.as_posix() for path in paths[:_EXAMPLES]]
    return ", ".join(names) + (", ..." if len(paths) > _EXAMPLES else "")


def _shown(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
