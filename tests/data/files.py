"""Small data sets on disk, to be spoilt by the tests that need something wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvtasks.data.coco import CocoReader
from cvtasks.data.masks import MasksReader
from cvtasks.data.voc import VocReader

ORIENTATION = 0x0112

Document = dict[str, list[dict[str, Any]]]
"""A COCO file's content"""


def write_image(path: Path, width: int = 40, height: int = 30, orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def coco_document() -> Document:
    """Three images of 40 x 30: two objects and a crowd, one object, none. Categories 3, 7 and 90."""
    square = [5, 5, 15, 5, 15, 15, 5, 15]
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (10, 11, 12)],
        "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0,
             "segmentation": [square]},
            {"id": 2, "image_id": 11, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 700.5, "iscrowd": 0,
             "segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]]},
            {"id": 3, "image_id": 10, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1,
             "segmentation": {"size": [30, 40], "counts": [32, 4, 26, 4, 1134]}},
        ],
    }  # fmt: skip


def write_coco(folder: Path, document: Any = None) -> CocoFiles:
    """`document`, or `coco_document`, with its images."""
    images = folder / "images"
    for i in (10, 11, 12):
        write_image(images / f"{i}.jpg")
    path = folder / "labels.json"
    path.write_text(json.dumps(coco_document() if document is None else document))
    return CocoFiles(images, path)


class CocoFiles:
    def __init__(self, images: Path, labels: Path) -> None:
        self.images, self.labels = images, labels

    def read(self, *fields: str, images: bool = True, **options: Any) -> CocoReader:
        files = {"images": str(self.images) if images else None, "annotations": str(self.labels)}
        return CocoReader(**{"split": "val", "val": files, "fields": frozenset(fields)} | options)


def voc_object(box: Any, name: str = "cat", more: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_xml(filename: str, *objects: str, width: Any = 40, height: Any = 30) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


def write_voc(root: Path, **splits: list[str]) -> Path:
    """VOC's own layout: each image of 40 x 30 has one object, cat or dog in turn, at (6, 6) to (15, 25)."""
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (root / "Annotations").mkdir()
    for n, stem in enumerate(sorted({stem for stems in splits.values() for stem in stems})):
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        xml = voc_xml(f"{stem}.jpg", voc_object((6, 6, 15, 25), ("cat", "dog")[n % 2]))
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
    for split, stems in splits.items():
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


def read_voc(folder: Path, **options: Any) -> VocReader:
    return VocReader(**{"split": "train", "root": str(folder)} | options)


def write_label(path: Path, values: Any, palette: Any = None) -> Path:
    """Ids [H, W] in grey, or as indices of `palette` [P, 3]; or colours [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette is not None:
        image = Image.fromarray(np.asarray(values, np.uint8), "L").copy()
        image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    image.save(path)
    return path


def label_values(*ids: int, width: int = 40, height: int = 30) -> np.ndarray:
    """Upright stripes, one for each of the ids"""
    return np.asarray(ids, np.uint8)[np.arange(width) * len(ids) // width][None].repeat(height, 0)


def write_masks(root: Path, **splits: dict[str, tuple[int, ...]]) -> Path:
    """images/SPLIT/STEM.jpg and labels/SPLIT/STEM.png of 40 x 30, the latter with stripes of these ids."""
    for split, stems in splits.items():
        for stem, ids in stems.items():
            write_image(root / "images" / split / f"{stem}.jpg")
            write_label(root / "labels" / split / f"{stem}.png", label_values(*ids))
    return root


def read_masks(root: Path, **options: Any) -> MasksReader:
    return MasksReader(**{"split": "train", "root": str(root)} | options)
