"""Small data sets of poses on disk, and how a figure of theirs stands: joint j of person n < 9 at (4 + 2j + n, 3 + j)."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from cvtasks.data.flic import COLUMNS, FlicReader
from cvtasks.data.lsp import LspReader
from cvtasks.data.mpii import MAT, MpiiReader

from .files import write_image


def places(people: int, joints: int) -> np.ndarray:
    """Continuous, float64 [N, J, 2], inside an image of 60 x 40"""
    n, j = np.mgrid[:people, :joints].astype(np.float64)
    return np.stack((4 + 2 * j + n % 9, 3 + j), 2)


def lsp_array(people: int, *, extended: bool = True) -> np.ndarray:
    """As in joints.mat, which counts pixels from 1. Joint 3 is marked in the third row's way: unlabelled, or hidden."""
    flag = np.ones((people, 14, 1)) if extended else np.zeros((people, 14, 1))
    flag[:, 3] = 1 - flag[:, 3]
    table = np.concatenate((places(people, 14) + 0.5, flag), 2)
    return table.transpose((1, 2, 0) if extended else (2, 1, 0))


def write_lsp(root: Path, array: Any = None, images: int | None = None, **lists: list[int]) -> Path:
    """joints.mat, images/im0001.jpg ... of 60 x 40, and lists as train=[1, 2]."""
    array = lsp_array(6) if array is None else array
    root.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(root / "joints.mat", {"joints": array})
    for number in range(1, 1 + (array.shape[2] if images is None else images)):
        write_image(root / "images" / f"im{number:04d}.jpg", 60, 40)
    for name, numbers in lists.items():
        (root / f"{name}.txt").write_text("".join(f"im{number:04d}.jpg\n" for number in numbers))
    return root


def read_lsp(folder: Path, **options: Any) -> LspReader:
    return LspReader(**{"split": "train", "root": str(folder)} | options)


def mpii_document(people: int = 3) -> list[dict[str, Any]]:
    """HRNet's train.json: the first two people are in a.jpg, the others in b.jpg; joint 3 is not labelled."""
    vis = [int(j != 3) for j in range(16)]
    return [
        {
            "image": "a.jpg" if n < 2 else "b.jpg",
            "joints": (xy + 0.5).tolist(),
            "joints_vis": vis,
            "center": [30.5, 17.5],
            "scale": 0.1,
        }
        for n, xy in enumerate(places(people, 16))
    ]


def write_mpii(root: Path, document: Any = None) -> Path:
    (root / "annot").mkdir(parents=True)
    for split in ("train", "valid"):
        (root / "annot" / f"{split}.json").write_text(
            json.dumps(mpii_document() if document is None else document)
        )
    for name in ("a.jpg", "b.jpg"):
        write_image(root / "images" / name, 60, 40)
    return root


def read_mpii(folder: Path, **options: Any) -> MpiiReader:
    return MpiiReader(**{"split": "train", "root": str(folder)} | options)


def mpii_release() -> dict[str, Any]:
    """The data set's own structure: two images for training, with two people and one, and one for testing."""
    points = [
        {"x": x + 0.5, "y": y + 0.5, "id": j, **({} if j in (8, 9) else {"is_visible": "0" if j == 2 else 1})}
        for j, (x, y) in enumerate(places(1, 16)[0])
        if j != 3
    ]
    head = {"x1": 1, "y1": 1, "x2": 4, "y2": 5}
    person = {**head, "annopoints": {"point": points}, "scale": 0.1, "objpos": {"x": 30.5, "y": 17.5}}
    neighbour = {**head, "annopoints": np.zeros((0, 0))}
    return {  # each of the people is an object of its own, to be spoilt alone
        "annolist": [
            {"image": {"name": "a.jpg"}, "annorect": [deepcopy(person), neighbour, deepcopy(person)]},
            {"image": {"name": "b.jpg"}, "annorect": person},
            {"image": {"name": "c.jpg"}, "annorect": np.zeros((0, 0))},
        ],
        "img_train": [1, 1, 0],
    }


def write_mpii_mat(root: Path, content: Any = None) -> Path:
    """savemat writes a list of dictionaries as cells; MATLAB's arrays of structures are cells of the same, when read."""
    scipy.io.savemat(root / MAT, {"RELEASE": mpii_release() if content is None else content})
    return root


def flic_examples() -> list[dict[str, Any]]:
    """Frames for training, for testing, for neither, and for training; the nose of the first is not labelled."""
    examples = []
    for n, (train, test) in enumerate([(1, 0), (0, 1), (0, 0), (1, 0)]):
        coords = np.full((2, 29), np.nan)
        coords[:, COLUMNS] = np.arange(11) + np.array([[5.5], [3.5]])
        coords[:, 16] = np.nan if n == 0 else coords[:, 16]
        examples.append({"coords": coords, "filepath": f"{n}.jpg", "istrain": train, "istest": test})
    return examples


def write_flic(root: Path, examples: Any = None) -> Path:
    """examples.mat and images of 60 x 40; each example is a structure of the same fields."""
    examples = flic_examples() if examples is None else examples
    for n in range(4):
        write_image(root / "images" / f"{n}.jpg", 60, 40)
    kinds = [(key, object) for key in examples[0]]
    table = np.array([tuple(each[key] for key, _ in kinds) for each in examples], kinds)
    scipy.io.savemat(root / "examples.mat", {"examples": table})
    return root


def read_flic(folder: Path, **options: Any) -> FlicReader:
    return FlicReader(**{"split": "train", "root": str(folder)} | options)
