"""`proposals=file`: proposals that somebody else computed, matched to a data set's images by id or by file name.

    cvtasks train task=fast_rcnn dataset=voc dataset.root=DIR proposals=file proposals.train=FILE proposals.val=FILE

- .mat of R-CNN's authors (Girshick et al., CVPR 2014; selective_search_data/voc_2007_train.mat): `boxes`, for each image
  [y1 x1 y2 x2] with pixels counted from 1 and the last one inside, and `images`, their names.
- JSON of `cvtasks proposals`: its own form, which says which images it was computed for.
- JSON {image name or id: [[x1, y1, x2, y2], ...]}, best first, in continuous pixels.
- COCO's results: [{"image_id", "bbox": [x, y, width, height], "score"}], sorted by score here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np

from cvtasks.config.schema import Positive
from cvtasks.data.annotations import LARGEST, Findings
from cvtasks.data.matlab import read_mat
from cvtasks.data.paths import quoted
from cvtasks.data.proposals import within
from cvtasks.errors import ConfigError, DataError
from cvtasks.types import Reader, Split

FORMAT = "cvtasks proposals"
FEWEST_MATCHED = 0.5
"""Of a data set's images; a file that knows fewer belongs to another one."""
FAR_OUTSIDE = 0.1
"""Of the image's longer side: no method's boxes reach so far over an edge."""
MOST_FAR = 0.05
"""Of all boxes: with more of them far outside, they were computed in other images, or in images of another size."""

Boxes = Mapping[str, np.ndarray]
"""float32 [P, 4] for each image, by its name or its id as text"""


@dataclass(frozen=True, kw_only=True)
class ProposalFiles:
    """A file for each split; null where it is not used.

    limit: the best so many of each image are used.
    """

    train: str | None = None
    val: str | None = None
    limit: Annotated[int, Positive] = 2000

    def match(self, split: Split, reader: Reader) -> tuple[list[np.ndarray], list[str]]:
        """The proposals of every image of the split, and notes. Raises DataError where the file is damaged, or belongs
        to another data set, ConfigError where there is none."""
        given = self.train if split == "train" else self.val
        if given is None:
            raise ConfigError(f"proposals.{split} is not given; type proposals.{split}=FILE")
        path = Path(given).expanduser()
        if not path.is_file():
            raise ConfigError(f"proposals.{split}={given}: there is no such file")
        stored, made_for = _read(path)
        truth = [reader.truth(index) for index in range(len(reader))]
        here = data_fingerprint((t["image_id"], t["orig_size"]) for t in truth)
        if made_for is not None and made_for != here:
            raise _other_data(
                path,
                "its images have other ids or sizes, or are another split's; compute it again: cvtasks proposals",
            )
        names = _names_in(stored, [(t["image_id"], t["file"]) for t in truth])
        matched = sum(name in stored for name in names)
        if made_for is None and matched < FEWEST_MATCHED * len(names):
            raise _other_data(path, f"it has {matched} of the {len(names)} images, by id or by file name")

        nothing = np.zeros((0, 4), np.float32)
        found = [stored.get(name, nothing) for name in names]
        sizes = [t["orig_size"] for t in truth]
        _refuse_far_outside(path, names, found, sizes)
        clipped = [within(boxes[: self.limit], size) for boxes, size in zip(found, sizes, strict=True)]
        changed = sum(
            len(boxes[: self.limit]) - _kept_as_they_are(boxes[: self.limit], size)
            for boxes, size in zip(found, sizes, strict=True)
        )
        counts = [len(boxes) for boxes in clipped]
        notes = [f"{path}: {sum(counts) / max(len(counts), 1):.0f} proposals an image"]
        if changed:
            notes.append(f"{path}: {changed} proposals reach over an edge of their image and are clipped")
        if counts.count(0):
            notes.append(f"{path}: {counts.count(0)} of {len(counts)} images have no proposals")
        return clipped, notes


def data_fingerprint(images: Any) -> str:
    """16 hexadecimal digits that change with the images' ids, (height, width) or order."""
    digest = hashlib.sha256()
    for image_id, (height, width) in images:
        digest.update(f"{image_id!r} {int(height)} {int(width)}\n".encode())
    return digest.hexdigest()[:16]


def own_form(reader: Reader, proposals: Sequence[np.ndarray], about: Mapping[str, Any]) -> Iterator[str]:
    """The text of our own file, piece by piece: proposals, float32 [P, 4], of the reader's first images.

    about: what else it should say, as plain values.
    """
    truth = [reader.truth(index) for index in range(len(reader))]
    head = {
        "format": FORMAT,
        **about,
        "data": data_fingerprint((t["image_id"], t["orig_size"]) for t in truth),
    }
    yield json.dumps(head, indent=1).removesuffix("\n}") + ',\n "images": ['
    for number, boxes in enumerate(proposals):
        numbers = [[round(side, 2) for side in box] for box in boxes.astype(np.float64).tolist()]
        image = {"image_id": truth[number]["image_id"], "file": truth[number]["file"], "boxes": numbers}
        yield ("," if number else "") + "\n  " + json.dumps(image, separators=(",", ":"))
    yield "\n]}\n"


def _read(path: Path) -> tuple[Boxes, str | None]:
    """What a file holds, and if it is our own the fingerprint of the data that it was made for."""
    if path.suffix.lower() == ".mat":
        return _read_matlab(path), None
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise DataError(f"{path}: is nested too deeply to hold proposals") from None
    except ValueError as error:
        raise DataError(f"{path}: is neither MATLAB's file (.mat) nor JSON ({error})") from None
    if isinstance(content, list):
        return _read_results(path, content), None
    if isinstance(content, dict) and content.get("format") == FORMAT:
        images, made_for = content.get("images"), content.get("data")
        if isinstance(images, list) and isinstance(made_for, str):
            return dict(_own_image(path, n, image) for n, image in enumerate(images)), made_for
    elif isinstance(content, dict) and all(isinstance(boxes, list) for boxes in content.values()):
        return {name: _boxes(path, f"image {quoted(name)}", b) for name, b in content.items()}, None
    raise DataError(
        f"{path}: holds no proposals; expected what cvtasks proposals writes, {{image: [[x1, y1, x2, y2], ...]}}, or "
        "COCO's results"
    )


def _own_image(path: Path, number: int, image: Any) -> tuple[str, np.ndarray]:
    where = f"image number {number + 1}"
    if not isinstance(image, dict) or not isinstance(image.get("image_id"), int | str):
        raise DataError(f"{path}: {where} has no image_id")
    return str(image["image_id"]), _boxes(path, where, image.get("boxes"))


def _read_results(path: Path, records: list[Any]) -> Boxes:
    scored: dict[str, list[list[float]]] = {}
    for number, record in enumerate(records):
        fields = record if isinstance(record, dict) else {}
        image_id, box, score = (fields.get(key) for key in ("image_id", "bbox", "score"))
        numbers = [*box, score] if isinstance(box, list) else []
        sound = len(numbers) == 5 and all(type(value) in (int, float) for value in numbers)
        if not sound or not isinstance(image_id, int | str):
            raise DataError(
                f"{path}: record {number} is no result of COCO's; expected image_id, bbox [x, y, width, height], score"
            )
        scored.setdefault(str(image_id), []).append(numbers)
    found = {}
    for name, rows in scored.items():
        table = np.array(rows, np.float64)
        table = table[np.argsort(-table[:, 4], kind="stable")]
        table[:, 2:4] += table[:, :2]
        found[name] = _boxes(path, f"image {quoted(name)}", table[:, :4])
    return found


def _read_matlab(path: Path) -> Boxes:
    found = read_mat(path, ["boxes", "images"], _Findings("proposals", "raise"))
    boxes, names = found["boxes"].ravel(), found["images"].ravel()
    if boxes.dtype != object or len(boxes) != len(names):
        raise DataError(
            f"{path}: expected cells `boxes` and `images` of one length, not {len(boxes)} and {len(names)}"
        )
    images = {}
    for number, (cell, name) in enumerate(zip(boxes, names, strict=True)):
        text = "".join(map(str, np.ravel(name)))
        rows = np.asarray(cell)
        if rows.dtype.kind not in "fiu" or not (rows.size == 0 or (rows.ndim == 2 and rows.shape[1] == 4)):
            raise DataError(f"{path}: image {number + 1} ({quoted(text)}): expected boxes [y1 x1 y2 x2]")
        # Pixels y1..y2 counted from 1 are y1 - 1 to y2 in continuous coordinates that begin at 0.
        corners = rows.reshape(-1, 4).astype(np.float64)[:, [1, 0, 3, 2]] - [1, 1, 0, 0]
        images[text] = _boxes(path, f"image {quoted(text)}", corners)
    return images


class _Findings(Findings):
    """Errors of a file of proposals, which is no data set."""

    def fatal(self, what: str) -> DataError:
        return DataError(f"proposals: {what}")


def _boxes(path: Path, where: str, values: Any) -> np.ndarray:
    """Checked, float32 [P, 4]."""
    if isinstance(values, list | np.ndarray) and len(values) == 0:
        return np.zeros((0, 4), np.float32)
    try:
        boxes = np.array(values)
    except ValueError:  # rows of several lengths
        boxes = np.zeros(0)
    if boxes.dtype.kind not in "fiu" or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{path}: {where}: expected boxes [[x1, y1, x2, y2], ...]")
    bad = ~(np.isfinite(boxes) & (np.abs(boxes) <= LARGEST)).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{path}: {where}: box {row + 1} is {boxes[row].tolist()}, which are no pixels")
    return boxes.astype(np.float32)


def _names_in(stored: Boxes, images: Sequence[tuple[Any, str]]) -> list[str]:
    """For every image what the file calls it: the same kind of name for all, the one that finds most of them.

    A name that two images share (1.jpg in two folders) finds neither.
    """
    kinds = [
        [str(image_id) for image_id, _ in images],
        [str(file) for _, file in images],
        [PurePosixPath(str(file)).name for _, file in images],
        [PurePosixPath(str(file)).stem for _, file in images],
    ]
    for names in kinds:
        shared = {name for name, count in Counter(names).items() if count > 1}
        names[:] = ["" if name in shared else name for name in names]
    return max(kinds, key=lambda names: sum(name in stored for name in names))


def _refuse_far_outside(
    path: Path, names: Sequence[str], found: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
) -> None:
    total, far, first = 0, 0, ""
    for name, boxes, (height, width) in zip(names, found, sizes, strict=True):
        over = np.maximum(-boxes[:, :2], boxes[:, 2:] - np.array([width, height])).max(axis=1, initial=0)
        outside = over > FAR_OUTSIDE * max(height, width)
        if outside.any() and not first:
            first = f"[{', '.join(f'{side:g}' for side in boxes[outside.argmax()])}] in image {name}, {width} x {height}"
        total, far = total + len(boxes), far + int(outside.sum())
    if far > MOST_FAR * total:
        raise _other_data(
            path, f"{far} of its {total} boxes lie far outside of the images (the first: {first})"
        )


def _kept_as_they_are(boxes: np.ndarray, size: tuple[int, int]) -> int:
    height, width = size
    return int(((boxes >= 0) & (boxes <= np.array([width, height, width, height]))).all(axis=1).sum())


def _other_data(path: Path, why: str) -> DataError:
    return DataError(f"{path}: belongs to another data set: {why}")
