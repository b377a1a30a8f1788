"""Oracle: PNG files whose values the test wrote itself, bit by bit where Pillow would not."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cvtasks.data.label_images import LabelDecoder, label_size, read_label, usable_palette, voc_colors
from cvtasks.errors import DataError

from .files import label_values, write_label

FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
GREY, PALETTE = 0, 3


def png(values: np.ndarray, bits: int, kind: int, palette: bytes = b"") -> bytes:
    """An image [H, W] of `bits` a value, after the specification."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = b""
    for row in values.tolist():
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"PLTE", palette) if palette else b"",
        chunk(b"IDAT", zlib.compress(rows)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def wrong(path: Path, decoder: LabelDecoder) -> str:
    with pytest.raises(DataError) as caught:
        decoder.read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_ids_are_those_of_the_file_at_any_number_of_bits(tmp_path: Path, bits: int, kind: int) -> None:
    # Pillow stretches grey of 2 and 4 bits to 0..255.
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    path = tmp_path / "a.png"
    colors = bytes(i % 256 for i in range(3 * 2**bits))
    path.write_bytes(png(values, bits, kind, colors if kind == PALETTE else b""))
    found, palette = read_label(path)
    assert found.dtype == np.uint8
    assert found.tolist() == values.tolist()
    assert (palette is not None) == (kind == PALETTE)
    assert label_size(path) == (5, 7)


def test_colours_are_packed_and_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    colors = np.array([[[1, 2, 3], [255, 0, 128]]], np.uint8)
    alpha = np.full((1, 2, 1), 255, np.uint8)
    expected = [[1 + 2 * 256 + 3 * 65536, 255 + 128 * 65536]]
    for name, pixels in (("rgb", colors), ("rgba", np.concatenate([colors, alpha], 2))):
        found, palette = read_label(write_label(tmp_path / f"{name}.png", pixels))
        assert found.tolist() == expected
        assert palette is None
    grey = write_label(tmp_path / "la.png", np.dstack([label_values(1, 2), label_values(255, 255)]))
    assert read_label(grey).values.tolist() == label_values(1, 2).tolist()


def test_what_is_no_label_image_is_named(tmp_path: Path) -> None:
    decoder = LabelDecoder(3)
    sound = write_label(tmp_path / "a.png", label_values(0, 1))
    Image.open(sound).save(tmp_path / "b.png", format="JPEG")
    assert "is a JPEG" in wrong(tmp_path / "b.png", decoder)
    Image.open(sound).save(tmp_path / "c.png", format="BMP")
    assert "is a BMP file; expected a PNG" in wrong(tmp_path / "c.png", decoder)
    (tmp_path / "d.png").write_bytes(png(np.zeros((2, 2), int), 16, GREY))
    assert "16 bits" in wrong(tmp_path / "d.png", decoder)
    for name in ("b", "c", "d"):
        with pytest.raises(DataError):
            label_size(tmp_path / f"{name}.png")
    (tmp_path / "e.png").write_bytes(sound.read_bytes()[:-30])
    assert "truncated or damaged" in wrong(tmp_path / "e.png", decoder)
    write_label(tmp_path / "f.png", np.dstack([label_values(0, 1)] * 3 + [label_values(255, 0)]))
    assert "transparent" in wrong(tmp_path / "f.png", decoder)
    assert "no such file" in wrong(tmp_path / "g.png", decoder)


@FEW
@given(data=st.data())
def test_damaged_bytes_are_refused_by_name_or_read_as_something(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["grey", "palette", "colours"]))
    ids = label_values(0, 1, 2)
    values = np.dstack([ids] * 3) if kind == "colours" else ids
    path = write_label(tmp_path / "a.png", values, np.arange(9).reshape(3, 3) if kind == "palette" else None)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    decoder = LabelDecoder(
        3, colors={(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2} if kind == "colours" else None
    )
    with contextlib.suppress(DataError):
        assert set(np.unique(decoder.read(path))) <= {0, 1, 2}
        return
    wrong(path, decoder)


@FEW
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=12),
    classes=st.integers(1, 254),
    void=st.none() | st.integers(0, 255),
    label_map=st.none() | st.dictionaries(st.integers(0, 255), st.integers(0, 9) | st.just(255), max_size=20),
)
def test_ids_become_classes_as_if_looked_up_one_by_one(tmp_path, values, classes, void, label_map) -> None:
    def meaning(value: int) -> int | None:
        if label_map is not None and value in label_map:
            return label_map[value]
        if value == void or label_map is not None:
            return 255
        return value if value < classes else None

    path = write_label(tmp_path / "a.png", [values])
    decoder = LabelDecoder(classes, ignore_index=void, label_map=label_map)
    expected = [meaning(value) for value in values]
    if None in expected:
        message = wrong(path, decoder)
        first = expected.index(None)
        assert f"pixel x={first}, y=0 has the id {values[first]}" in message
    else:
        assert decoder.read(path).tolist() == [expected]


@FEW
@given(indices=st.lists(st.integers(0, 3), min_size=1, max_size=9), as_palette=st.booleans())
def test_colours_mean_the_same_in_rgb_and_in_a_palette_of_any_order(tmp_path, indices, as_palette) -> None:
    table = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [9, 9, 9]])
    colors = {(128, 0, 0): 0, (0, 0, 0): 1, (9, 9, 9): 255}  # green means nothing
    values = np.array([indices])
    path = write_label(
        tmp_path / "a.png", values if as_palette else table[values], table if as_palette else None
    )
    decoder = LabelDecoder(2, colors=colors)
    expected = [colors.get(tuple(table[i].tolist())) for i in indices]
    if None in expected:
        assert f"pixel x={expected.index(None)}, y=0 has the colour [0,128,0]" in wrong(path, decoder)
    else:
        assert decoder.read(path).tolist() == [expected]


def test_an_unknown_id_is_named_with_its_pixel_and_what_was_expected(tmp_path: Path) -> None:
    values = label_values(0, 10, 11)
    values[3, 7:9] = 13, 12
    path = write_label(tmp_path / "a.png", values)
    message = wrong(path, LabelDecoder(11, ignore_index=11))
    assert "pixel x=7, y=3 has the id 13; expected 0 to 10, or 11 for void (unknown here: 12, 13)" in message


def test_grey_values_are_ids_also_where_there_are_colours_and_colours_need_a_table(tmp_path: Path) -> None:
    grey = write_label(tmp_path / "a.png", [[0, 1, 255]])
    assert LabelDecoder(2, ignore_index=255, colors={(9, 9, 9): 0}).read(grey).tolist() == [[0, 1, 255]]
    rgb = write_label(tmp_path / "b.png", np.zeros((2, 2, 3)))
    assert "type dataset.colors=FILE" in wrong(rgb, LabelDecoder(2))


def test_a_palette_that_lies_is_found_out(tmp_path: Path) -> None:
    one, two = [[0, 0, 0], [128, 0, 0], [0, 128, 0]], [[0, 0, 0], [0, 128, 0], [128, 0, 0]]
    path = write_label(tmp_path / "a.png", [[0, 1, 2]], one)
    assert LabelDecoder(3, palette=np.array(one)).read(path).tolist() == [[0, 1, 2]]
    message = wrong(path, LabelDecoder(3, palette=np.array(two)))
    assert "[128,0,0] for the id 1, and other label images have [0,128,0]" in message
    # what does not occur may have any colour, and so may void
    assert LabelDecoder(3, palette=np.array(two)).read(
        write_label(tmp_path / "b.png", [[0, 0]], one)
    ).tolist() == [[0, 0]]
    assert LabelDecoder(3, ignore_index=2, palette=np.array([*one[:2], [7, 7, 7]])).read(path)[0, 2] == 255

    twice = write_label(tmp_path / "c.png", [[0, 1, 2]], [[0, 0, 0], [5, 5, 5], [5, 5, 5]])
    assert "one colour, [5,5,5], for the ids 1 and 2" in wrong(twice, LabelDecoder(3))
    assert LabelDecoder(2, label_map={0: 0, 1: 1, 2: 1}).read(twice).tolist() == [[0, 1, 1]]
    blank = write_label(tmp_path / "d.png", [[0, 1, 2]], [[0, 0, 0]] * 3)
    assert LabelDecoder(3).read(blank).tolist() == [[0, 1, 2]]


def test_an_index_beyond_the_palette_has_no_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(np.array([[0, 2]]), 2, PALETTE, bytes([0, 0, 0, 9, 9, 9])))
    assert "index 2, but the palette has 2 colours" in wrong(path, LabelDecoder(1, colors={(0, 0, 0): 0}))
    assert LabelDecoder(3).read(path).tolist() == [[0, 2]]


def test_vocs_palette_is_vocs() -> None:
    # As printed in VOC's development kit: background, aeroplane, bicycle, ..., tvmonitor
    colors = voc_colors(21)
    assert colors[:9] == (
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0),
    )  # fmt: skip
    assert colors[20] == (0, 64, 128)


def test_a_palette_is_shown_only_where_it_tells_the_classes_apart() -> None:
    palette = np.array([[0, 0, 0], [1, 2, 3], [1, 2, 3]])
    assert usable_palette(palette, (1, 0)) == ((1, 2, 3), (0, 0, 0))
    assert (
        usable_palette(palette, (1, 2)) == usable_palette(palette, (0, 3)) == usable_palette(None, (0,)) == ()
    )
