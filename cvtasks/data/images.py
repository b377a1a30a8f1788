"""Image files into uint8 RGB, decoded with Pillow: whatever a camera, a scanner or a labelling tool writes.

Every mode has one documented meaning (`read_image`), also where Pillow's own conversion would lose the image:
16-bit grey is scaled and not clipped, and what is transparent lies over `BACKGROUND`.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors

from cvtasks.errors import ConfigError, DataError

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2"}
)

# Named one by one: among Pillow's other decoders is one that starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")

MAX_PIXELS = 89_478_485
"""A larger image is refused by its header alone: 256 MiB as RGB, where Pillow too begins to warn."""

BACKGROUND = (255, 255, 255)
"""What shows through a transparent pixel."""

# Pillow warns of images that are refused here, and of damaged EXIF: each would be a second message.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, size: Size | None = None) -> tv_tensors.Image:
    """The image as people see it, uint8 [3, H, W], RGB; of several frames or pages the first.

    EXIF orientation is applied. 16-bit grey is divided by 257, 32-bit integers likewise (0..65535); floats
    are 0..1 if none is above 1, else 0..255. Transparent pixels show `BACKGROUND`.

    size: height and width that the annotations give. Some data sets give those of the stored pixels and some
        those of the turned image, so the image is turned only where that fits (or where both do).

    Raises DataError naming the file: missing, truncated, not decodable, above `MAX_PIXELS`, not of `size`.
    """
    with open_image(path) as image:
        load_pixels(image, path)
        method = _turn(image, path, size)
        rgb = _rgb(image if method is None else image.transpose(method), path)
    return tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1))


def image_size(path: str | Path) -> Size:
    """Height and width as `read_image` gives them, from the file's header. Raises DataError as it does."""
    with open_image(path) as image:
        return _turned_size(image.size, _orientation(image))


def has_size(path: str | Path, size: Size) -> bool:
    """Whether `read_image` takes `size` as the file's, turned or as stored; from its header. Raises DataError."""
    with open_image(path) as image:
        return size in (_turned_size(image.size, _orientation(image)), (image.height, image.width))


def check_image(path: str | Path, size: Size | None = None) -> None:
    """Raises the DataError that `read_image` would raise, in less time (JPEG: at an eighth of the size)."""
    with open_image(path) as image:
        if (
            image.format != "JPEG"
        ):  # Pillow decodes a PNG to look for EXIF behind its pixels: damage must be heard
            load_pixels(image, path)
        _turn(image, path, size)
        image.draft(None, (1, 1))
        load_pixels(image, path)
        _rgb(image, path)


def find_images(source: str) -> list[Path]:
    """The images that a FILE, FOLDER or GLOB names, sorted; raises ConfigError where there are none."""
    path = Path(source).expanduser()
    found: Iterable[Path]
    if path.is_file():
        return [path]
    if path.is_dir():
        found, hint = path.iterdir(), f"; for folders below it, type source='{path}/**/*'"
    elif glob.has_magic(source):
        found, hint = map(Path, glob.iglob(str(path), recursive=True)), ""
    else:
        raise ConfigError(f"source={source}: no such file or folder")
    images = sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise ConfigError(f"source={source}: no images there (looked for {known}){hint}")
    return images


def open_image(path: str | Path) -> Image.Image:
    """The image with its header read. Pillow lets many kinds of exceptions through from damaged files."""
    try:
        image = Image.open(path, formats=_FORMATS)
        width, height = image.size
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not an image") from None
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise DataError(f"{path}: {'is empty' if empty else 'is not an image that can be read'}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: is larger than {MAX_PIXELS} pixels, the limit") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from None
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(f"{path}: {width} x {height} is larger than {MAX_PIXELS} pixels, the limit")
    return image


def load_pixels(image: Image.Image, path: str | Path) -> None:
    """Decode all of it. Raises DataError where Pillow lets any exception through."""
    try:
        image.load()
    except Exception as error:
        raise DataError(f"{path}: is truncated or damaged ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns this one by itself
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is decoration; a damaged one must not cost the image
        return 1


def _turn(image: Image.Image, path: str | Path, size: Size | None) -> Image.Transpose | None:
    orientation = _orientation(image)
    turned, stored = _turned_size(image.size, orientation), (image.height, image.width)
    if size in (None, turned):
        return _TURNS.get(orientation)
    if size == stored:
        return None
    assert size is not None
    raise DataError(
        f"{path}: is {turned[1]} x {turned[0]} pixels (width x height), but its annotation says "
        f"{size[1]} x {size[0]}"
    )


def _turned_size(size: tuple[int, int], orientation: int) -> Size:
    width, height = size
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _rgb(image: Image.Image, path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3]"""
    if image.mode.startswith("I"):
        values = np.array(image, np.int32)  # in place: a large image would take gigabytes in 64 bits
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path}: its grey values are not within 0..65535")
        values += 128
        values //= 257
        return _repeat(values)
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 255):
            raise DataError(f"{path}: its grey values are not within 0..1 or 0..255")
        return _repeat(np.rint(values * 255 if values.max() <= 1 else values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image)
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise DataError(f"{path}: cannot be turned into RGB ({error})") from None


def _repeat(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
