"""500 damaged annotation files of each format: one line that names the file, or accepted with counted notes.

Each is read in a process with a memory limit: a crash in a C library, a hang and a traceback all count as failures. What
is accepted is read to the end, with images and masks, since a value that is let through may do its harm there.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from .amount import amount
from .children import MIB, run
from .damaged_reading import damaged, read_every_way
from .formats import FORMATS, Format

MEMORY = 256 * MIB
FILES = amount(500)


@pytest.fixture(scope="module", params=FORMATS)
def format(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Format:
    return FORMATS[request.param](tmp_path_factory.mktemp(request.param))


def outcomes(format: Format, content: bytes) -> list[tuple[int, list[str]]]:
    format.file.write_bytes(content)
    ended = run(read_every_way, format, memory=MEMORY)
    assert (ended.code, ended.err) == (0, ""), ended
    found = [tuple(json.loads(line)) for line in ended.out.splitlines()]
    for code, lines in found:
        assert code in (0, 2), lines
        for line in lines:
            line.encode()
            assert len(line.splitlines()) == 1, line
            assert len(line) < 800, line
            assert line.isprintable(), line
        if code == 2:  # or it names an image that is not as the file says
            assert format.file.name in lines[0] or str(format.file.parent.parent) in lines[0], lines[0]
    return found


@pytest.mark.parametrize("seed", range(FILES))
def test_a_damaged_file_is_one_line_or_accepted(format: Format, seed: int) -> None:
    kind, content = damaged(format, seed)
    print(kind)
    assert len(outcomes(format, content)) == len(format.readings())


def test_a_wrong_field_is_named_with_its_record(format: Format) -> None:
    for content, record, words in format.wrong_fields():
        first = next((lines for code, lines in outcomes(format, content) if code == 2 or lines), None)
        assert first is not None, f"a wrong {words[0]} is accepted without a word"
        assert record in first[0], first
        assert any(word in first[0] for word in words), first


def test_the_damage_is_of_every_sort(format: Format, tmp_path: Path) -> None:
    """Guards the test itself: were all files refused, or none, it would show nothing."""
    ends: Counter[str] = Counter()
    for seed in range(100):
        for code, lines in outcomes(format, damaged(format, seed)[1]):
            ends["refused" if code else "skipped" if lines else "accepted"] += 1
        if len(ends) == 3:
            break
    assert set(ends) == {"refused", "skipped", "accepted"}
