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
from cvtasks.viz.overlays import contact_sheet, draw

SHOWN_SCORE = 0.5
OBJECT_FIELDS = (
    "boxes", "labels", "scores", "ignore", "masks", "keypoints", "keypoint_scores", "visible",
)  # fmt: skip
"""Those of samples, batches and predictions with a row for each object"""
IMAGE_FIELDS = ("label",)
"""Those that say one thing of the whole image"""
MAP_FIELDS = ("masks", "segmentation")
"""Those that end in the image's height and width"""


def draw_batch(batch: Batch, classes: ClassInfo, path: Path) -> None:
    """What training sees: the images of a batch after all transforms, with their labels on them."""
    pictures = []
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        pictures.append(draw(batch.images[i, :, :height, :width], _labels(batch, i), classes))
    contact_sheet(pictures, [str(i) for i in batch.image_ids], columns=4).save(path)


def draw_predictions(
    samples: Sequence[Sample], predictions: Sequence[Prediction], classes: ClassInfo, path: Path
) -> Image.Image:
    """Truth beside what was found (objects with scores from 0.5 on, or the best guess at the only one), two images a row;
    returns the picture."""
    pictures, titles = [], []
    for sample, prediction in zip(samples, predictions, strict=True):
        image = sample["image"]
        found = best(prediction) if "label" in sample else above(prediction, SHOWN_SCORE)
        pictures += [draw(image, sample, classes), draw(image, found, classes)]
        titles += [f"{sample['image_id']}: truth", "found"]
    sheet = contact_sheet(pictures, titles, columns=4)
    sheet.save(path)
    return sheet


def together(predictions: Sequence[Prediction]) -> Prediction:
    """What is said of one image on the host; of its people each prediction says one."""
    if len(predictions) == 1:
        return _kept(predictions[0], slice(None))
    fields = [name for name in OBJECT_FIELDS if predictions and name in predictions[0]]
    return {name: torch.cat([one[name] for one in predictions]).cpu() for name in fields}


def above(prediction: Prediction, score: float) -> Prediction:
    """The same on the host, with only those objects whose score is at least `score`.

    Objects have labels. A person whose box was given is there, whatever the score of the pose.
    """
    keep = prediction["scores"] >= score if "labels" in prediction else slice(None)
    return _kept(prediction, keep)


def best(prediction: Prediction) -> Prediction:
    """The same on the host, with the first object alone."""
    return _kept(prediction, slice(1))


def _kept(prediction: Prediction, keep: Any) -> Prediction:
    return {k: (v[keep] if k in OBJECT_FIELDS else v).cpu() for k, v in prediction.items()}


def _labels(batch: Batch, i: int) -> dict[str, torch.Tensor]:
    """The labels of image `i` without their padding."""
    height, width = batch.sizes[i].tolist()
    labels = {
        name: getattr(batch, name)
        for name in (*OBJECT_FIELDS, *IMAGE_FIELDS, *MAP_FIELDS)
        if hasattr(batch, name)
    }
    labels = {name: values[i] for name, values in labels.items() if values is not None}
    if batch.valid is not None:
        labels = {k: v[batch.valid[i]] if k in OBJECT_FIELDS else v for k, v in labels.items()}
    return {k: v[..., :height, :width] if k in MAP_FIELDS else v for k, v in labels.items()}


def draw_history(folder: Path) -> None:
    """Losses and metrics over the steps, from the run's metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, plot in plots.RECORD_PLOTS.items():
        plot(records, folder / "plots" / f"{name}.png")


def draw_evaluation(data: dict[str, Any], folder: Path) -> None:
    """What an evaluator offers to draw (`Evaluator.plot_data`), one file each."""
    for name, values in data.items():
        plots.PLOTS[name](values, folder / f"{name}.png")


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """uint8 [3, H, W], for TensorBoard."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
