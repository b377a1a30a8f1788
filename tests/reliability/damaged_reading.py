"""Reading what is damaged or odd: it is refused in one line, or let through and then sound."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from data.files import CocoFiles

from cvtasks.cli import explain
from cvtasks.errors import DataError
from cvtasks.types import Reader

from .damage import BYTES
from .formats import Format


def damaged(format: Format, seed: int) -> tuple[str, bytes]:
    """Which kind of damage it is, and the file's bytes. Every kind has its turn; now and then there are several."""
    rng = random.Random(seed)
    kinds = [*format.kinds, *BYTES]
    main = kinds[seed % len(kinds)]
    more = rng.choices(format.kinds, k=rng.choice([0, 0, 1, 4]))
    if main in BYTES:
        return main, BYTES[main](rng, format.spoilt(rng, more[:1]), format.deep)
    return main, format.spoilt(rng, [main, *more])


def read_every_way(format: Format) -> None:
    """In a child: reads all that the file holds, in every way, and prints how each ended."""
    for reading in format.readings():
        print(json.dumps(_outcome(reading)), flush=True)


def _outcome(reading: Callable[[], Reader]) -> tuple[int, list[str]]:
    """The exit code, and the line of the error or the notes."""
    try:
        reader = reading()
        for index in range(len(reader)):
            _check(reader, index)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        return explained.exit_code, [str(explained)]
    return 0, reader.notes


def _check(reader: Reader, index: int) -> None:
    """What was let through must do no harm later."""
    truth = reader.truth(index)
    height, width = truth["orig_size"]
    if "segmentation" in truth:
        labels = truth["segmentation"]
        assert labels.shape == (height, width)
        assert labels[labels != 255].max(initial=0) < len(reader.classes)
        assert np.array_equal(reader[index]["segmentation"], labels)
        return
    if "boxes" not in truth:
        assert 0 <= truth["label"] < len(reader.classes)
        assert reader[index]["image"].shape == (3, height, width)
        return
    boxes = truth["boxes"]
    assert np.isfinite(boxes).all()
    if "source_id" in truth:  # one person
        assert np.isfinite(truth["keypoints"]).all()
        assert truth["visible"].any()
        assert np.isin(truth["visible"], (0, 1, 2)).all()
        assert boxes.shape == (1, 4)
    else:
        assert np.isfinite(truth["area"]).all()
        labels = truth["labels"] if "labels" in truth else np.array(truth["label"])
        assert (labels < len(reader.classes)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= (width, height, width, height)).all()
    assert len(reader[index]["boxes"]) == len(boxes)


def read_odd_image(files: CocoFiles, name: str) -> None:
    """In a child: reads the data set whose first image has this name. Prints the image's size, or the error's line."""
    try:
        found: Any = files.read()[0]["image"].shape[1:]
    except DataError as error:
        found = str(error)
    reader = files.read(on_error="skip")
    refused = isinstance(found, str)
    # What cannot be read is found when the data set is, and training does not stop at it later.
    assert len(reader) == (2 if refused else 3), (found, reader.notes)
    assert [len(note) < 400 for note in reader.notes if name in note] == [True] * refused, reader.notes
    print(json.dumps(found))
