"""Frames Labeled In Cinema (Sapp and Taskar, CVPR 2013): 11 joints of the upper body of one person in each frame.

    cvtasks train task=deeppose dataset=flic dataset.root=/data/FLIC

examples.mat has the places of 29 joints, of which 11 are labelled; the others are not numbers. Left and right are as the
file has them; published results are observer-centric, see `skeletons`. Pixels are counted from 1, as MATLAB does. The
file's test frames are for validation. The person's box is made from the joints; `torsobox`, a detector's, is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cvtasks.data.annotations import Findings, OnError
from cvtasks.data.labelled import LabelledImages
from cvtasks.data.matlab import array_of, read_mat, structures
from cvtasks.data.paths import Folder, quoted
from cvtasks.data.people import Pictures, person_class, read_people
from cvtasks.data.skeletons import FLIC
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Split

COLUMNS = (0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16)
"""Where the joints of `skeletons.FLIC` stand among the file's 29"""


class FlicReader(LabelledImages):
    """One split of FLIC (protocol `Reader`): one person in each image.

    root: holds examples.mat and images/.
    on_error: raise stops at the first record that is wrong; skip leaves out the frame and says so in `notes`.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"keypoints", "visible", "boxes"})

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = provides,
        root: str | None = None,
        classes: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        findings = Findings("flic", on_error)
        base = Path(root or "").expanduser()
        file, folder = base / "examples.mat", base / "images"
        if root is None or not file.is_file() or not folder.is_dir():
            where = "is not given" if root is None else f"{root} has no examples.mat, or no images"
            raise ConfigError(
                f"dataset flic: dataset.root={where}; type dataset.root=DIR for a folder with both"
            )
        examples = structures(read_mat(file, ["examples"], findings, simple=True)["examples"])
        if not examples:
            raise findings.fatal(f"{file.name}: examples is not an array of structures, one for each frame")
        images = Folder(folder)
        located = Pictures(images, findings)
        kept = []
        for n, example in enumerate(examples):
            where = f"{file.name}: example {n + 1}"
            try:
                if _split(example) == split:
                    kept.append((where, *located.find(_name(example)), _joints(example)))
            except DataError as error:
                findings.error(where, str(error))
        joints = np.array([each[3] for each in kept]).reshape(-1, len(COLUMNS), 2)
        labelled = ~np.isnan(joints).any(2)
        self._folder = images.path
        self._labels = read_people(
            source_ids=[Path(each[1]).stem for each in kept],
            files=[each[1] for each in kept],
            sizes=[each[2] for each in kept],
            keypoints=np.where(labelled[..., None], joints, 0),
            visible=2 * labelled.astype(np.int64),
            findings=findings,
            source=file.name,
            record=lambda n: kept[n][0],
        )
        self.classes = person_class(FLIC, classes, split, findings)
        self.notes = findings.notes()


def _split(example: Any) -> Split | None:
    if not isinstance(example, dict):
        raise DataError("is no structure")
    train, test = (array_of(example.get(key), ()) for key in ("istrain", "istest"))
    if train not in (0, 1) or test not in (0, 1):
        raise DataError("istrain or istest is not 0 or 1")
    return "train" if train else "val" if test else None


def _name(example: dict[str, Any]) -> str:
    name = example.get("filepath")
    if not isinstance(name, str):
        raise DataError(f"filepath is {quoted(name)}, not the name of a file")
    return name


def _joints(example: dict[str, Any]) -> np.ndarray:
    """Continuous places, float64 [11, 2]"""
    places = array_of(example.get("coords"), (2, 29))
    if places is None:
        raise DataError("coords are not 2 x 29 numbers")
    return places.T[list(COLUMNS)] - 0.5
