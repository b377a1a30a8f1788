"""Guesses at the class of images as a table, CSV with the columns `image_id,class,score`: a row for each guess.

What this package writes, and what `cvtasks eval predictions=FILE.csv` judges. Classes stand under their names.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch

from cvtasks.errors import DataError
from cvtasks.metrics.collected import Collected
from cvtasks.metrics.results import Results
from cvtasks.types import ClassInfo, ImageId

COLUMNS = ("image_id", "class", "score")
_EXAMPLES = 3


def write_table(path: Path, collected: Collected, classes: ClassInfo) -> None:
    """The table `predictions` of each image, with `labels` and `scores`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for image_id, guesses in zip(collected.ids(), collected.by_image("predictions"), strict=True):
            for label, score in zip(guesses["labels"].tolist(), guesses["scores"].tolist(), strict=True):
                rows.writerow((image_id, classes.names[label], repr(score)))


def read_table(path: Path, classes: ClassInfo, image_ids: Sequence[ImageId]) -> Results:
    """Guesses of the file `path` for the images `image_ids`, those with a higher score first.

    Further columns are left alone. Without the column `score` an image's guesses count in the order of their rows. Rows of
    unknown images are left out and counted in `notes`, and so are images without a row.

    Raises DataError, with file and line, if the file cannot be read, a class is unknown or named twice for an image, a
    score is not a finite number, or no row at all is of a known image.
    """
    images = {str(i): i for i in image_ids}
    labels = {name: k for k, name in enumerate(classes.names)}
    found: defaultdict[ImageId, dict[int, float]] = defaultdict(dict)
    unknown: list[str] = []
    for line, (image, name, score) in _rows(path):
        where = f"predictions {path}: line {line}"
        if name not in labels:
            raise DataError(
                f"{where}: there is no class {_short(name)}; the data set has {_examples(labels)}"
            )
        if image not in images:
            unknown.append(image)
            continue
        own = found[images[image]]
        if labels[name] in own:
            raise DataError(f"{where}: image {_short(image)} has the class {_short(name)} twice")
        own[labels[name]] = -len(own) if score is None else _number(score, where)
    if not found:
        raise DataError(
            f"predictions {path}: no row is of an image of the data set, which has {_examples(images)}"
            + (f"; there is {_examples(unknown)}" if unknown else "")
        )
    notes = []
    if unknown:
        notes.append(
            f"predictions {path}: {len(unknown)} rows are of no image of the data set ({_examples(unknown)})"
        )
    if lacking := [image for image, i in images.items() if i not in found]:
        notes.append(
            f"predictions {path}: {len(lacking)} of {len(images)} images have no row, and count as wrong "
            f"({_examples(lacking)})"
        )
    return Results({i: _guesses(found[i]) for i in image_ids}, notes)


def _guesses(scores: dict[int, float]) -> dict[str, torch.Tensor]:
    order = sorted(scores, key=lambda label: -scores[label])  # stable: equal scores keep the file's order
    return {
        "labels": torch.tensor(order, dtype=torch.int64),
        "scores": torch.tensor([scores[label] for label in order], dtype=torch.float64),
    }


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str | None]]]:
    """Image, class and score of each row, with its line's number."""
    try:
        text = path.read_text("utf-8-sig", errors="surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        head = [name.strip() for name in next(rows, [])]
        lacking = [name for name in COLUMNS[:2] if name not in head]
        if lacking:
            raise DataError(
                f"predictions {path}: line 1: there is no column {lacking[0]}; expected a table with the head "
                f"{','.join(COLUMNS)}"
            )
        image, name = (head.index(column) for column in COLUMNS[:2])
        score = head.index(COLUMNS[2]) if COLUMNS[2] in head else None
        for row in rows:
            if not row:
                continue
            if len(row) != len(head):
                raise DataError(
                    f"predictions {path}: line {rows.line_num}: has {len(row)} values for {len(head)} columns"
                )
            yield rows.line_num, (row[image], row[name], None if score is None else row[score])
    except OSError as error:
        raise DataError(f"predictions {path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise DataError(
            f"predictions {path}: line {rows.line_num}: is no row of a table ({error})"
        ) from error


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: score is {_short(text)}; expected a finite number")
    return value


def _examples(names: Collection[str]) -> str:
    first = [_short(name) for name in list(dict.fromkeys(names))[:_EXAMPLES]]
    return ", ".join(first) + (", ..." if len(names) > _EXAMPLES else "")


def _short(text: str) -> str:
    shown = ascii(text) if not text.isprintable() else repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."
