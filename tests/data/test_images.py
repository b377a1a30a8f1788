"""Oracle: pixels that the test itself chose, written by Pillow in every mode."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from cvtasks.data.images import BACKGROUND, check_image, find_images, image_size, read_image
from cvtasks.errors import ConfigError, DataError

from .files import ORIENTATION, write_image

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's; `images` silences them, and pytest undoes it

GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def pixels(path: Path) -> np.ndarray:
    """[H, W, 3], after the checks that hold for every image."""
    image = read_image(path)
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert tuple(image.shape[1:]) == image_size(path)
    check_image(path)
    return image.permute(1, 2, 0).numpy()


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_colour_and_grey_keep_their_values(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(GREY > 50).save(tmp_path / "binary.png")
    assert (pixels(tmp_path / "rgb.png") == RGB).all()
    assert (pixels(tmp_path / "grey.png") == grey3(GREY)).all()
    assert (pixels(tmp_path / "binary.png") == grey3(np.where(GREY > 50, 255, 0))).all()


def test_transparent_pixels_show_the_background_and_opaque_ones_themselves(tmp_path: Path) -> None:
    alpha = np.array([[0, 255, 255], [0, 255, 128]], np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    for name, colour in (("rgba.png", RGB), ("la.png", grey3(GREY))):
        found = pixels(tmp_path / name)
        assert (found[alpha == 255] == colour[alpha == 255]).all()
        assert (found[alpha == 0] == BACKGROUND).all()
        half = np.rint((colour[1, 2] * 128.0 + np.array(BACKGROUND) * 127.0) / 255)
        assert np.abs(found[1, 2] - half).max() <= 1


def test_a_palette_is_looked_up_with_and_without_a_transparent_entry(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "t.png", transparency=1)
    assert pixels(tmp_path / "p.png")[1].tolist() == [[70, 80, 90], [40, 50, 60]]
    assert pixels(tmp_path / "t.png")[1].tolist() == [[70, 80, 90], list(BACKGROUND)]


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    Image.fromarray(GREY.astype(np.int32) * 257).save(tmp_path / "32.tif")
    for name in ("16.png", "16.tif", "32.tif"):
        assert (pixels(tmp_path / name) == grey3(GREY)).all()


def test_floats_are_of_one_or_of_255_and_nothing_else(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "one.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "255.tif")
    assert (pixels(tmp_path / "one.tif") == grey3(GREY)).all()
    assert (pixels(tmp_path / "255.tif") == grey3(GREY)).all()
    for value in (float("nan"), -1.0, 256.0):
        Image.fromarray(np.full((2, 2), value, np.float32)).save(tmp_path / "odd.tif")
        with pytest.raises(DataError, match="grey values"):
            read_image(tmp_path / "odd.tif")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(tmp_path: Path, mode: str) -> None:
    colour = np.full((16, 16, 3), (200, 80, 40), np.uint8)
    Image.fromarray(colour).convert(mode).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - colour).max() <= 6


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    # Where the top left quarter of the stored image is seen: row from the top, column from the left.
    seen = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    found = pixels(path)
    height, width = (64, 32) if orientation > 4 else (32, 64)
    assert found.shape == (height, width, 3)
    quarters = found.reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == seen


def test_annotations_may_give_the_stored_or_the_turned_size(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 40, 30, orientation=6)
    assert read_image(path).shape == read_image(path, (40, 30)).shape == (3, 40, 30)
    stored = read_image(path, (30, 40))
    assert stored.shape == (3, 30, 40)
    assert torch.equal(read_image(path), torch.rot90(stored, -1, (1, 2)))
    for check in (read_image, check_image):
        with pytest.raises(DataError, match=r"a\.png: is 30 x 40 pixels .* says 41 x 30"):
            check(path, (30, 41))


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert (pixels(tmp_path / "a.png") == RGB).all()


def png(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and has not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    for read in (read_image, image_size, check_image):
        with pytest.raises(DataError, match=r"bomb\.png: .*limit"):
            read(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp", ".gif"])
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.9])
def test_a_truncated_image_is_an_error_that_names_it(tmp_path: Path, suffix: str, part: float) -> None:
    path = write_image(tmp_path / f"cut{suffix}", 64, 64)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    for read in (read_image, check_image):
        with pytest.raises(DataError, match=r"cut\.[a-z]+: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "drawing.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )  # Ghostscript's
    for name in ("missing.jpg", "text.jpg", "folder.jpg", "drawing.jpg"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


def test_damage_anywhere_in_a_file_is_an_image_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".jp2"):
        path = write_image(tmp_path / f"a{suffix}", 24, 24)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            spoilt = data.copy()
            where = rng.integers(0, min(len(data), 200), 4)
            spoilt[where] = rng.integers(0, 256, 4)
            path.write_bytes(spoilt.tobytes())
            with contextlib.suppress(DataError):
                assert read_image(path).shape[0] == 3


def test_a_source_is_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    for name in ("b.jpg", "A.JPG", "deep/c.png"):
        write_image(tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    assert find_images(str(tmp_path / "b.jpg")) == [tmp_path / "b.jpg"]
    assert find_images(str(tmp_path)) == [tmp_path / "A.JPG", tmp_path / "b.jpg"]
    assert find_images(str(tmp_path / "**" / "*")) == [
        tmp_path / "A.JPG",
        tmp_path / "b.jpg",
        tmp_path / "deep" / "c.png",
    ]
    (tmp_path / "empty").mkdir()
    for source in ("nothing.jpg", "empty", "empty/*.jpg"):
        with pytest.raises(ConfigError, match="source="):
            find_images(str(tmp_path / source))


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a[1].png")
    assert find_images(str(path)) == [path]
