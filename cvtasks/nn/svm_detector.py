"""R-CNN's three stages (Girshick et al., CVPR 2014; He et al., ECCV 2014): a network, SVMs, boxes, each by itself.

1. "fine-tuning": the network learns classes and background by softmax.
2. "SVMs": solved on features of all regions (`nn.svm`), with the true boxes alone as positives.
3. "boxes": ridge regressions from what the fully connected layers read (`nn.box_ridge`).

Features are computed once, and lie on disk (`nn.region_store`). Detection uses what there is so far: the softmax until
there are SVMs, and proposals as they are until boxes are regressed. The score of an SVM is the logistic function of its
margin: between 0 and 1 as others', in the same order.
Letters: B images, R regions, K classes, D features, P numbers that a region's features begin with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.box_ridge import BoxRidge
from cvtasks.nn.heads import classification, flat, mean_over_samples
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.region_store import RegionStore, checksum
from cvtasks.nn.regions import Maps, Proposals, Sampler, Samples, split_objects
from cvtasks.nn.suppression import Suppression
from cvtasks.nn.svm import LinearSvms
from cvtasks.ops import coders
from cvtasks.ops.boxes import area, clip, intersection, iou
from cvtasks.ops.matching import IGNORED_OVERLAP
from cvtasks.types import Batch, ClassInfo, ImageId, Prediction

FINE_TUNING, SVMS, BOXES = "fine-tuning", "SVMs", "boxes"
LARGEST_HALF = 65504.0
"""Features are kept as float16, which has nothing above"""


class SvmHead(nn.Module):
    """A `MinedHead`: softmax over K + 1 to learn from, and SVMs and ridge regressions when these are solved.

    features: maps and boxes [B, R, 4] -> [B * R, C, S, S]; trunk: that -> [B * R, outputs]; pooled: C * S * S.
    """

    class_layers = ("scores", "svms", "boxes")

    def __init__(
        self,
        features: nn.Module,
        trunk: nn.Module,
        num_classes: int,
        *,
        pooled: int,
        svm_cost: float = 1e-3,
        svm_positive_weight: float = 2.0,
        box_regularization: float = 1000.0,
        suppression: Suppression | None = None,
    ) -> None:
        super().__init__()
        self.features, self.trunk, self.num_classes = features, trunk, num_classes
        outputs: int = trunk.outputs  # type: ignore[assignment]
        self.scores = nn.Linear(outputs, num_classes + 1)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.zeros_(self.scores.bias)
        self.svms = LinearSvms(outputs, num_classes, cost=svm_cost, positive_weight=svm_positive_weight)
        self.boxes = BoxRidge(pooled, num_classes, regularization=box_regularization)
        self.suppression = suppression or Suppression()

    def forward(self, maps: Maps, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [B, R, 4] -> what is pooled [B, R, P], and the vectors [B, R, D]."""
        regions = self.features(maps, boxes)
        count = (boxes.shape[0], boxes.shape[1])
        return flat(regions).unflatten(0, count), self.trunk(regions).unflatten(0, count)

    def region_losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        """`classification` [B, R]: cross-entropy of the softmax, also when there are SVMs."""
        logits = self.scores(self(maps, samples.boxes)[1]).float()
        return {"classification": classification(logits, samples, batch)}

    def losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        return mean_over_samples(self.region_losses(maps, samples, batch), samples)

    def detect(self, maps: Maps, proposals: Proposals, batch: Batch) -> list[Prediction]:
        """Scores above the threshold, suppressed within each class, the best of each image."""
        pooled, vectors = self(maps, proposals.boxes)
        if self.svms.solved:
            scores = self.svms(vectors).sigmoid()
        else:
            scores = self.scores(vectors).float().softmax(-1)[..., :-1]
        boxes = proposals.boxes[:, :, None]
        if self.boxes.solved:
            boxes = coders.decode(self.boxes(pooled), boxes)
            boxes = clip(boxes.flatten(1, 2), batch.sizes).view_as(boxes)
        found: list[Prediction] = self.suppression(boxes, scores, proposals.valid)
        return found


class SvmDetector(RegionDetector):
    """A `RegionDetector` with an `SvmHead` that trains in stages (`types.StagedModel`).

    classifier: "softmax" leaves the SVMs out.
    svm_negative_iou: a region that overlaps each object of a class by less is a negative of its SVM.
    box_iou: boxes are regressed from the proposals that overlap an object by so much.
    settings: all else that features depend on, for the checksum of what is kept.
    """

    stage_number: Tensor
    loss_names = ("classification",)

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        proposer: nn.Module,
        head: SvmHead,
        *,
        sampler: Sampler,
        classes: ClassInfo,
        classifier: Literal["svm", "softmax"] = "svm",
        svm_negative_iou: float = 0.3,
        box_iou: float = 0.6,
        settings: tuple[object, ...] = (),
    ) -> None:
        super().__init__(backbone, neck, proposer, {"box": head}, sampler=sampler)
        self.classes = classes
        self.svm_negative_iou, self.box_iou, self.settings = svm_negative_iou, box_iou, settings
        self.solved = (SVMS, BOXES) if classifier == "svm" else (BOXES,)
        self.stages = (FINE_TUNING, *self.solved)
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.int64))
        self._store: RegionStore | None = None

    @property
    def head(self) -> SvmHead:
        return self.heads["box"]  # type: ignore[return-value]

    @property
    def stage(self) -> int:
        return int(self.stage_number)

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> list[str]:
        """Forget what was solved, or solve for the SVMs or the boxes; returns what the user should know.

        predictions: of the training images, what `collect` says. folder: keeps it for the next stage, and after a kill.
        """
        self.stage_number.fill_(index)
        solvers: dict[str, LinearSvms | BoxRidge] = {SVMS: self.head.svms, BOXES: self.head.boxes}
        for name in self.stages[max(1, index) :]:
            solvers[name].solved.fill_(False)
        if index == 0:
            return []
        self.requires_grad_(False)
        with RegionStore(folder, self._checksum) as store:
            self._store = store
            for batch, images in predictions:
                for image, tensors in zip(batch.image_ids, images, strict=True):
                    store.add(image, tensors)
            self._store = None
            if self.stages[index] == BOXES:
                self.head.boxes.fit(store)
                return []
            missing = self.head.svms.fit(store, negative_iou=self.svm_negative_iou)
        named = ", ".join(self.classes.names[label] for label in missing)
        return [f"no training image has an object of {named}: its SVM never says yes"] if missing else []

    @torch.no_grad()
    def collect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """All regions of each image with their features (`LinearSvms.fit` and `BoxRidge.fit` say what it holds)."""
        described = self._describe(batch)
        known = [
            self._known(image, regions) for image, regions in zip(batch.image_ids, described, strict=True)
        ]
        if all(found is not None for found in known):
            return [found for found in known if found is not None]
        maps = self.maps(batch)
        for number, regions in enumerate(described):
            own = {level: each[number : number + 1] for level, each in maps.items()}
            pooled, vectors = self.head(own, regions["boxes"][None])
            regions["features"] = _half(vectors[0])
            regions["pooled"] = _half(pooled[0, regions["near"]])
        return described

    def _known(self, image: ImageId, regions: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return self._store.find(image, regions["boxes"]) if self._store is not None else None

    def _describe(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Of each image its true boxes, then its proposals, and what they show."""
        assert batch.boxes is not None
        assert batch.labels is not None
        assert batch.valid is not None
        proposals = self.proposer.propose({}, batch)  # type: ignore[operator]
        objects, ignored = split_objects(batch)
        found = []
        for image in range(len(batch)):
            true, labels = batch.boxes[image, objects[image]], batch.labels[image, objects[image]]
            boxes = torch.cat([true, proposals.boxes[image, proposals.valid[image]]])
            overlaps = iou(true, boxes)
            of_class = F.one_hot(labels, len(self.classes)).bool()[:, :, None]
            covered = boxes.new_zeros(len(boxes), dtype=torch.bool)
            if ignored is not None and ignored[image].any():
                shared = intersection(batch.boxes[image, ignored[image]], boxes).amax(0)
                covered = shared >= IGNORED_OVERLAP * area(boxes).clamp(min=1e-9)
            # A row of zeros stands for no object at all, as there may be none.
            overlaps, of_class = F.pad(overlaps, (0, 0, 0, 1)), F.pad(of_class, (0, 0, 0, 0, 0, 1))
            best, index = overlaps.max(0)
            near = (best >= self.box_iou).nonzero().flatten()
            near = near[near >= len(true)]
            found.append(
                {
                    "boxes": boxes,
                    "objects": F.pad(labels, (0, len(boxes) - len(true)), value=-1),
                    "overlaps": (overlaps[:, None] * of_class).amax(0).t(),
                    "ignored": covered,
                    "near": near,
                    "target": true[index[near]],
                    "label": labels[index[near]],
                }
            )
        return found

    def _checksum(self) -> str:
        """Of the network that makes the features; what is solved is no part of it."""
        others = ("stage_number", *self.class_layers)
        weights = {name: w for name, w in self.state_dict().items() if not name.startswith(others)}
        return checksum(weights, self.box_iou, *self.settings)


def _half(values: Tensor) -> Tensor:
    return values.float().clamp(-LARGEST_HALF, LARGEST_HALF).half()
