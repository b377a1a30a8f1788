"""The pictures of a run's folder: what it has written, and what its model says of a few images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cvtasks.types import Batch, ClassInfo, Prediction, Sample
from cvtasks.viz import plots
from cvtasks.viz.overlays import contact_sheet, draw_detections, draw_truth

SHOWN_SCORE = 0.5


def draw_batch(batch: Batch, classes: ClassInfo, path: Path) -> None:
    """What training sees: the images of a batch after all transforms, with their labels on them."""
    assert batch.boxes is not None
    assert batch.labels is not None
    assert batch.valid is not None
    pictures = []
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        valid = batch.valid[i]
        boxes, labels = batch.boxes[i][valid], batch.labels[i][valid]
        ignore = None if batch.ignore is None else batch.ignore[i][valid]
        pictures.append(
            draw_truth(batch.images[i, :, :height, :width], boxes, labels, classes, ignore=ignore)
        )
    contact_sheet(pictures, [str(i) for i in batch.image_ids], columns=4).save(path)


def draw_predictions(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: ClassInfo, path: Path
) -> Image.Image:
    """Truth beside what was found (scores from 0.5 on), two images a row; returns the picture."""
    pictures, titles = [], []
    for sample, prediction in zip(samples, predictions, strict=True):
        image, found = sample["image"], above(prediction, SHOWN_SCORE)
        pictures += [
            draw_truth(image, sample["boxes"], sample["labels"], classes, ignore=sample.get("ignore")),
            draw_detections(image, found["boxes"], found["labels"], found["scores"], classes),
        ]
        titles += [f"{sample['image_id']}: truth", "found"]
    sheet = contact_sheet(pictures, titles, columns=4)
    sheet.save(path)
    return sheet


def above(prediction: Prediction, score: float) -> Prediction:
    """Only the objects whose score is at least `score`, on the host."""
    keep = prediction["scores"] >= score
    return {name: value[keep].cpu() for name, value in prediction.items()}


def draw_history(folder: Path) -> None:
    """Losses and metrics over the steps, from the run's metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, draw in plots.RECORD_PLOTS.items():
        draw(records, folder / "plots" / f"{name}.png")


def draw_evaluation(data: dict[str, Any], folder: Path) -> None:
    """What an evaluator offers to draw (`Evaluator.plot_data`), one file each."""
    for name, values in data.items():
        plots.PLOTS[name](values, folder / f"{name}.png")


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """uint8 [3, H, W], for TensorBoard."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
