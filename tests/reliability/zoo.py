"""Damaged and odd image files, made when they are needed, each with what must become of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

REFUSED, EITHER = "refused", "either"
Fate = tuple[int, int] | str
"""Height and width of what is read; or that it is refused; or that both will do."""

WIDTH, HEIGHT = 48, 32
_PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
_RGB = Image.fromarray(_PIXELS)
_GREY = _RGB.convert("L")
_SIZE = (HEIGHT, WIDTH)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, *more: tuple[bytes, bytes], depth: int = 8, color: int = 2) -> bytes:
    """A PNG that says it has this size and has few pixels; `more` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def resized(content: bytes, marker: bytes, at: int, form: str, *size: int) -> bytes:
    """The file with another size in the header behind `marker`."""
    where = content.index(marker) + at
    size_bytes = struct.pack(form, *size)
    return content[:where] + size_bytes + content[where + len(size_bytes) :]


def spoilt(content: bytes, *, after: float, with_: bytes = b"\xff" * 16) -> bytes:
    where = int(len(content) * after)
    return content[:where] + with_ + content[where + len(with_) :]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(_RGB, "JPEG", exif=exif)


def zeros(mib: int) -> bytes:
    """So many MiB of zeros, compressed by a factor of a thousand, without compressing them all."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">I", (mib * 2**20 % 65521) << 16 | 1)
    return b"\x78\xda" + one * mib + compressor.flush() + checksum


def with_pixels(*chunks: tuple[bytes, bytes]) -> bytes:
    """A sound PNG with further chunks."""
    info = PngImagePlugin.PngInfo()
    for kind, content in chunks:
        info.add(kind, content)
    return encoded(_RGB, "PNG", pnginfo=info)


_JPEG, _PNG, _GIF, _BMP, _TIFF, _WEBP, _JP2 = (
    encoded(_RGB, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000")
)
_FRAMES = [Image.fromarray(np.roll(_PIXELS, n, axis=1)) for n in range(4)]
_ZEROS = zeros(4096)
_LONG = np.zeros((1, 20_000), np.uint8)

FILES: dict[str, tuple[bytes, Fate]] = {
    "sound.png": (_PNG, _SIZE),
    # Cut short and damaged
    "truncated.jpg": (_JPEG[: len(_JPEG) // 2], REFUSED),
    "truncated.png": (_PNG[: len(_PNG) // 2], REFUSED),
    "truncated.gif": (_GIF[: len(_GIF) // 2], REFUSED),
    "truncated.bmp": (_BMP[: len(_BMP) // 2], REFUSED),
    "truncated.tif": (_TIFF[: len(_TIFF) // 2], REFUSED),
    "truncated.webp": (_WEBP[: len(_WEBP) // 2], REFUSED),
    "truncated.jp2": (_JP2[: len(_JP2) // 2], REFUSED),
    "header_only.jpg": (_JPEG[:20], REFUSED),
    "damaged_inside.jpg": (spoilt(_JPEG, after=0.5), EITHER),  # as libjpeg repairs it
    "damaged_inside.png": (spoilt(_PNG, after=0.5), REFUSED),
    "damaged_inside.webp": (spoilt(_WEBP, after=0.5), EITHER),
    "damaged_inside.tif": (spoilt(encoded(_RGB, "TIFF", compression="tiff_lzw"), after=0.5), EITHER),
    "damaged_inside.jp2": (spoilt(_JP2, after=0.5), EITHER),
    # Sizes that are not so
    "bomb.png": (png(30_000, 30_000), REFUSED),
    "bomb.jpg": (resized(_JPEG, b"\xff\xc0", 5, ">HH", 65_500, 65_500), REFUSED),
    "bomb.gif": (resized(_GIF, b"GIF8", 6, "<HH", 65_535, 65_535), EITHER),  # a small frame on a huge ground
    "bomb.bmp": (resized(_BMP, b"BM", 18, "<ii", 2**31 - 1, 2**31 - 1), REFUSED),
    "huge.png": (png(2**31 - 1, 2**31 - 1), REFUSED),
    "too_little.png": (png(9000, 9000), REFUSED),  # below the limit of pixels, which are not there
    "zero_size.png": (png(0, 0), REFUSED),
    "zero_size.jpg": (resized(_JPEG, b"\xff\xc0", 5, ">HH", 0, 0), REFUSED),
    "zero_size.bmp": (resized(_BMP, b"BM", 18, "<ii", 0, 0), REFUSED),
    "negative.bmp": (resized(_BMP, b"BM", 18, "<ii", -WIDTH, HEIGHT), REFUSED),
    "one.png": (encoded(_RGB.crop((0, 0, 1, 1)), "PNG"), (1, 1)),
    "wide.png": (encoded(Image.fromarray(_LONG), "PNG"), (1, 20_000)),
    "tall.png": (encoded(Image.fromarray(_LONG.T), "PNG"), (20_000, 1)),
    # Modes
    "cmyk.jpg": (encoded(_RGB.convert("CMYK"), "JPEG"), _SIZE),
    "grey16.png": (encoded(Image.fromarray(_PIXELS[:, :, 0].astype(np.uint16) * 257), "PNG"), _SIZE),
    "palette.png": (encoded(_RGB.quantize(16), "PNG", transparency=3), _SIZE),
    "palette_alpha.png": (encoded(_RGB.quantize(16), "PNG", transparency=bytes(range(16))), _SIZE),
    "rgba.png": (encoded(_RGB.convert("RGBA"), "PNG"), _SIZE),
    "la.png": (encoded(_GREY.convert("LA"), "PNG"), _SIZE),
    "binary.png": (encoded(_RGB.convert("1"), "PNG"), _SIZE),
    "binary.bmp": (encoded(_RGB.convert("1"), "BMP"), _SIZE),
    "palette.bmp": (encoded(_RGB.quantize(16), "BMP"), _SIZE),
    "float.tif": (encoded(_GREY.convert("F"), "TIFF"), _SIZE),
    "not_a_number.tif": (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), REFUSED),
    "integer.tif": (encoded(_GREY.convert("I"), "TIFF"), _SIZE),
    "cmyk.tif": (encoded(_RGB.convert("CMYK"), "TIFF"), _SIZE),
    "lab.tif": (encoded(_RGB.convert("LAB"), "TIFF"), EITHER),
    "alpha.webp": (encoded(_RGB.convert("RGBA"), "WEBP", lossless=True), _SIZE),
    # Several pictures in one file
    "animated.gif": (encoded(_RGB, "GIF", save_all=True, append_images=_FRAMES), _SIZE),
    "animated.webp": (encoded(_RGB, "WEBP", save_all=True, append_images=_FRAMES), _SIZE),
    "animated.png": (encoded(_RGB, "PNG", save_all=True, append_images=_FRAMES), _SIZE),
    "pages.tif": (encoded(_RGB, "TIFF", save_all=True, append_images=_FRAMES), _SIZE),
    "stereo.jpg": (encoded(_RGB, "MPO", save_all=True, append_images=_FRAMES[:1]), _SIZE),
    # EXIF, profiles and texts
    **{f"turned_{n}.jpg": (turned(n), _SIZE if n < 5 else _SIZE[::-1]) for n in range(1, 9)},
    "turned_nowhere.jpg": (turned(99), _SIZE),
    "broken_exif.jpg": (encoded(_RGB, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage"), _SIZE),
    "endless_exif.jpg": (encoded(_RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"), _SIZE),
    "broken_profile.png": (with_pixels((b"iCCP", b"name\0\0not compressed")), EITHER),
    "broken_profile.jpg": (encoded(_RGB, "JPEG", icc_profile=b"\xff" * 99), _SIZE),
    "profile_bomb.png": (with_pixels((b"iCCP", b"name\0\0" + _ZEROS)), EITHER),
    "text_bomb.png": (with_pixels((b"zTXt", b"name\0\0" + _ZEROS)), EITHER),
    "text_bombs.png": (with_pixels(*[(b"zTXt", b"name\0\0" + zlib.compress(bytes(10**6)))] * 90), EITHER),
    # What is no image, or another one
    "empty.jpg": (b"", REFUSED),
    "text.jpg": (b"<html>404 Not Found</html>", REFUSED),
    "zeros.png": (bytes(1000), REFUSED),
    "png_in.jpg": (_PNG, _SIZE),
    "jpeg_in.png": (_JPEG, _SIZE),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", REFUSED),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", REFUSED),
    "recursive.tif": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", REFUSED),  # its next page is itself
}

Maker = Callable[[Path], object]
PLACES: dict[str, tuple[Maker, Fate]] = {
    "folder.jpg": (Path.mkdir, REFUSED),
    "loop.jpg": (lambda path: path.symlink_to(path), REFUSED),
    "dangling.jpg": (lambda path: path.symlink_to("nowhere.jpg"), REFUSED),
    "device.jpg": (lambda path: path.symlink_to("/dev/zero"), REFUSED),
    "pipe.jpg": (lambda path: os.mkfifo(path), REFUSED),
    # Root may read it all the same.
    "locked.jpg": (lambda path: (path.write_bytes(_JPEG), path.chmod(0)), EITHER),
}
"""What is odd about the place, not the content."""

ZOO: dict[str, Fate] = {name: fate for name, (_, fate) in [*FILES.items(), *PLACES.items()]}


def put(name: str, folder: Path) -> Path:
    """The file of this name, in the folder."""
    path = folder / name
    if name in FILES:
        path.write_bytes(FILES[name][0])
    else:
        PLACES[name][0](path)
    return path
