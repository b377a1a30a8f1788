"""The last step of a detector that scores regions: thresholds, non-maximum suppression within each class, the best few.

Letters: B images, R regions, K classes, D detections.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import batched_nms

from cvtasks.types import Prediction

SMALLEST_SIDE = 1e-2
"""A detection thinner than this many pixels is none."""


class Suppression(nn.Module):
    """Regions with a score for each class -> detections. A module, so that its time can be told from the head's."""

    def __init__(
        self, *, score_threshold: float = 0.05, nms_threshold: float = 0.5, detections: int = 100
    ) -> None:
        super().__init__()
        self.score_threshold, self.nms_threshold, self.detections = score_threshold, nms_threshold, detections

    def forward(self, boxes: Tensor, scores: Tensor, valid: Tensor) -> list[Prediction]:
        """Boxes [B, R, K, 4], or [B, R, 1, 4] for all classes, scores [B, R, K], `valid` [B, R] -> for each image `boxes`
        [D, 4], `scores` and `labels` [D], best first. Scores need not be probabilities: an SVM's are margins.
        """
        boxes = boxes.expand(-1, -1, scores.shape[2], -1)
        candidates = self._possible(boxes, scores) & valid[..., None]
        predictions = []
        for image in range(len(scores)):
            region, label = candidates[image].nonzero().unbind(1)
            predictions.append(self._best(boxes[image, region, label], scores[image, region, label], label))
        return predictions

    def labelled(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Prediction]:
        """The same of candidates that have a class each: boxes [B, R, 4], scores and labels [B, R]."""
        rows = zip(boxes, scores, labels, self._possible(boxes, scores), strict=True)
        return [self._best(*(part[possible] for part in parts)) for *parts, possible in rows]

    def _possible(self, boxes: Tensor, scores: Tensor) -> Tensor:
        wide = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(-1)
        return (scores > self.score_threshold) & wide

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Prediction:
        """Of one image's candidates [M, 4], [M] and [M]."""
        kept = batched_nms(boxes, scores, labels, self.nms_threshold)[: self.detections]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
