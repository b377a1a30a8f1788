"""Random truth and results in COCO's formats, with crowds, ties, and images without objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cvtasks.types import ClassInfo, Prediction, Truth

CLASSES = ClassInfo(names=("cat", "dog", "owl"), category_ids=(3, 17, 90))


def random_scene(seed: int, *, images: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO truth object and a list of results with two decimals; many scores are equal, some boxes too."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, images, replace=False).tolist()
    annotations, results = [], []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 6)):
            box = np.r_[rng.uniform(0, 300, 2), np.exp(rng.uniform(1.5, 5.3, 2))].round(2)
            category = int(rng.choice(CLASSES.category_ids[:2] if seed % 2 else CLASSES.category_ids))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                    "area": float(box[2:].prod() * rng.uniform(0.4, 1)), "bbox": box.tolist(),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )  # fmt: skip
            for _ in range(rng.integers(0, 5)):
                near = np.r_[
                    box[:2] + rng.normal(0, 0.1, 2) * box[2:], box[2:] * np.exp(rng.normal(0, 0.1, 2))
                ]
                near = box if rng.random() < 0.2 else near.round(2)
                other = int(rng.choice(CLASSES.category_ids))
                results.append(
                    {
                        "image_id": image_id, "category_id": category if rng.random() < 0.8 else other,
                        "bbox": near.tolist(), "score": round(rng.random(), 1),
                    }
                )  # fmt: skip
        for _ in range(rng.integers(0, 3)):
            box = np.r_[rng.uniform(0, 300, 2), np.exp(rng.uniform(1.5, 5.3, 2))].round(2)
            category = int(rng.choice(CLASSES.category_ids))
            results.append(
                {"image_id": image_id, "category_id": category, "bbox": box.tolist(), "score": 0.5}
            )
    return {
        "info": {},
        "images": [{"id": i, "width": 640, "height": 640} for i in image_ids],
        "categories": [
            {"id": c, "name": n} for c, n in zip(CLASSES.category_ids, CLASSES.names, strict=True)
        ],
        "annotations": annotations,
    }, results


def truth_of(coco: dict[str, Any], classes: ClassInfo) -> list[Truth]:
    """What a reader gives for a COCO truth object."""
    labels = {c: k for k, c in enumerate(classes.category_ids)}
    truth = []
    for image in coco["images"]:
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth.append(
            {
                "image_id": image["id"],
                "boxes": boxes,
                "labels": np.array([labels[a["category_id"]] for a in own], np.int64),
                "ignore": np.array([a["iscrowd"] for a in own], np.bool_),
                "area": np.array([a["area"] for a in own], np.float64),
            }
        )
    return truth


def prediction(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Prediction:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
