"""DeepPose (Toshev and Szegedy, CVPR 2014): joints by a cascade of regressors, each of which looks closer.

The first sees the whole person. Each later one sees a crop around every joint found so far, and says how far the joint
is from the crop's middle; it has weights of its own, and all joints share them. Stages are trained one after the
other, the later ones on crops around the truth, displaced as the stage before errs: by a normal distribution with the
mean and the standard deviation of its errors on the training images, for each joint.

    cvtasks train task=deeppose
    cvtasks train task=deeppose dataset=lsp dataset.root=/data/lsp
    cvtasks train task=deeppose task.cascade=1                     the first stage alone

Deviations: a later network starts from the weights of the one before unless `start=backbone`; in a step it learns from
`learn_joints` joints of each person; the diameter of a pose has a floor, as joints can be found in one place.
Letters: B images, J joints, P of them in use, S stages, N crops.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cvtasks.config.schema import Range
from cvtasks.models.pose.regression import JointLoss, JointRegressor, Joints
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.poses import as_predictions, extents, from_original, joints_of, person_boxes, places
from cvtasks.ops.losses import count, masked_sum, total
from cvtasks.ops.roi import with_image
from cvtasks.types import Batch, ClassInfo, Prediction

Count = Annotated[int, Range(min=1)]
Positive = Annotated[float, Range(above=0)]

TORSO = ("left shoulder", "right hip")
"""Their distance is a pose's diameter."""
SMALLEST_DIAMETER = 0.1
"""As a part of the diagonal of the person's box"""
SAMPLES = 2
"""Points a side of which a crop's pixel is the mean, so that a large crop made small is not grainy"""


class DeepPose(nn.Module):
    """A `VisionModel` for images of one person that trains in stages (`types.StagedModel`).

    cascade: stages S.
    crop_scale: a crop's side in diameters of the pose, the distance of left shoulder and right hip; of a skeleton
        without these, in diagonals of the person's box. The paper: 2 on LSP, 1 on FLIC.
    crop_size: pixels of a crop's side as the network sees it; null: the images' longer side.
    learn_joints: joints of each person to learn from in a step of a later stage, drawn anew each time; null: all.
    start: what a later stage begins with: the weights of the stage before, or the backbone's as it was built.
    loss, beta, bins: see `models.pose.regression`; a coordinate's unit is a person's image, and then a crop.
    Raises ConfigError for a data set without joints.
    """

    error_mean: Tensor
    error_std: Tensor
    torso_share: Tensor
    stage_number: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        cascade: Count = 3,
        crop_scale: Positive = 2.0,
        crop_size: Count | None = None,
        learn_joints: Count | None = 4,
        start: Literal["previous", "backbone"] = "previous",
        loss: JointLoss = "l2",
        beta: Positive = 0.05,
        bins: Count = 1,
    ) -> None:
        super().__init__()
        joints = joints_of(classes)
        self.stages = tuple(f"stage {n + 1}" for n in range(cascade))
        self.crop_scale, self.crop_size, self.learn_joints = crop_scale, crop_size, learn_joints
        self.start = start
        known = {name: n for n, name in enumerate(classes.joints)}
        self.torso = (known[TORSO[0]], known[TORSO[1]]) if known.keys() >= set(TORSO) else None
        self.regressors = nn.ModuleList(
            JointRegressor(own, joints, loss=loss, beta=beta, bins=bins)
            for own in (backbone, *(copy.deepcopy(backbone) for _ in self.stages[1:]))
        )
        self.class_layers = [f"regressors.{n}.joints." for n in range(cascade)]
        # Of the errors of the stage before each, in places; and the mean diameter, in diagonals of the person's box.
        self.register_buffer("error_mean", torch.zeros(cascade, joints, 2))
        self.register_buffer("error_std", torch.zeros(cascade, joints, 2))
        self.register_buffer("torso_share", torch.ones(()))
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_as_its_buffer_says)
        self.stage = 0

    @property
    def stage(self) -> int:
        """The stage that is being trained, and the last one that predicts."""
        return self._stage

    @stage.setter
    def stage(self, index: int) -> None:
        self._stage = index
        self.stage_number.fill_(index)
        for n, network in enumerate(self._networks):
            network.requires_grad_(n == index)
            for level in network.backbone.frozen[-1:]:
                network.backbone.freeze(level)
        self.train(self.training)

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> None:
        """Freeze what is trained; measure how it errs; make the next network ready.

        predictions: of the training images, as the model makes them now; none for the first stage.
        """
        if index > 0:
            self._measure(index, predictions)
            if self.start == "previous":
                self._networks[index].load_state_dict(self._networks[index - 1].state_dict())
        self.stage = index

    def train(self, mode: bool = True) -> DeepPose:
        super().train(mode)
        for n, network in enumerate(self._networks):
            if n != self.stage:
                network.eval()
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`keypoints`, of the present stage: the mean over labelled joints, or over those of them that were drawn."""
        truth, labelled = places(batch)
        images = self._normalized(batch)
        network = self._networks[self.stage]
        if self.stage == 0:
            losses = network.losses(network(images), truth)
            return {"keypoints": masked_sum(losses, labelled) / count(labelled)}
        # Joints with the largest keys are drawn, and those that are not labelled have none.
        keys = torch.rand(labelled.shape, device=labelled.device).masked_fill(~labelled, -1)
        keys, index = keys.topk(min(self.learn_joints or len(keys.T), len(keys.T)), dim=1)
        drawn, picked = keys >= 0, index[..., None].expand(-1, -1, 2)
        noise = torch.randn(picked.shape, device=picked.device)
        mean, std = self.error_mean[self.stage], self.error_std[self.stage]
        truth_pixels = (truth + 0.5) * extents(batch.sizes)
        own = truth_pixels.gather(1, picked)
        middle = own + (mean[index] + std[index] * noise) * extents(batch.sizes)
        side = self._crop_sides(truth_pixels, batch, labelled)
        joints = _own(network(self._crops(images, middle, side)), index)
        displacement = ((own - middle) / side).flatten(0, 1)[:, None]
        losses = network.losses(joints, displacement).view(drawn.shape)
        return {"keypoints": masked_sum(losses, drawn) / count(drawn)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One person for each image, by all stages up to the present one; `nn.poses` says what a prediction holds."""
        images, extent = self._normalized(batch), extents(batch.sizes)
        first, *others = self._networks[: self.stage + 1]
        joints = first(images)
        found, scores = [joints.places], joints.scores
        every = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
        for network in others:
            middles = (found[-1] + 0.5) * extent
            side = self._crop_sides(middles, batch)
            moved, sure = list[Tensor](), list[Tensor]()
            at_once = self.learn_joints or len(every.T)  # as in training, so that it takes no more memory
            for index, middle in zip(every.split(at_once, 1), middles.split(at_once, 1), strict=True):
                joints = _own(network(self._crops(images, middle, side)), index)
                moved.append(middle + joints.places.view(middle.shape) * side)
                sure.append(joints.scores.view(index.shape))
            found.append(torch.cat(moved, 1) / extent - 0.5)
            scores = torch.cat(sure, 1)
        return as_predictions(found[-1], scores, batch, stages=torch.stack(found, 1))

    def _crop_sides(self, joints: Tensor, batch: Batch, labelled: Tensor | None = None) -> Tensor:
        """Pixels of the crops' sides for poses [B, J, 2] in pixels: [B, 1, 1]. labelled: of true ones, bool [B, J]"""
        low, high = (person_boxes(batch) * extents(batch.sizes)).unbind(1)
        diagonal = (high - low).norm(dim=-1)
        diameter = diagonal
        if self.torso is not None:
            one, other = self.torso
            diameter = (joints[:, one] - joints[:, other]).norm(dim=-1)
            if labelled is not None:
                known = labelled[:, one] & labelled[:, other]
                diameter = torch.where(known, diameter, self.torso_share * diagonal)
            diameter = diameter.maximum(SMALLEST_DIAMETER * diagonal)
        return self.crop_scale * diameter[:, None, None]

    def _crops(self, images: Tensor, middle: Tensor, side: Tensor) -> Tensor:
        """Squares of `side` [B, 1, 1] pixels around `middle` [B, P, 2]: [B * P, 3, size, size]; grey outside the images."""
        size = self.crop_size or max(images.shape[2:])
        corners = torch.cat([middle - side / 2, middle + side / 2], -1)
        regions = with_image(corners)
        crops = roi_align(images, regions, size, sampling_ratio=SAMPLES, aligned=True)
        return crops.contiguous(memory_format=torch.channels_last)

    def _measure(self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]]) -> None:
        """Keep the mean and the standard deviation of each joint's errors, and the mean diameter."""
        errors = torch.zeros(self.error_mean.shape[1], 5, device=self.error_mean.device)
        diameters = errors.new_zeros(2)
        for batch, predicted in predictions:
            batch = batch.to(errors.device)
            truth, labelled = places(batch)
            found = torch.cat([each["keypoints"] for each in predicted]).to(errors.device)
            found = from_original(found, batch)
            error = found - truth
            powers = torch.cat([torch.ones_like(error[..., :1]), error, error.square()], -1)
            errors += powers.masked_fill(~labelled[..., None], 0).sum(0)
            if self.torso is not None:
                one, other = self.torso
                extent = extents(batch.sizes)
                low, high = (person_boxes(batch) * extent).unbind(1)
                torso = ((found[:, one] - found[:, other]) * extent[:, 0]).norm(dim=-1)
                diameters += torch.stack(
                    [(torso / (high - low).norm(dim=-1)).sum(), torso.new_tensor(len(torso))]
                )
        with torch.enable_grad():  # of all processes, each of which may have seen a part of the images
            sums = total(torch.cat([errors.flatten(), diameters])).detach()
        errors, diameters = sums[:-2].view(errors.shape), sums[-2:]
        number = errors[:, :1].clamp(min=1)
        mean = errors[:, 1:3] / number
        self.error_mean[index] = mean
        self.error_std[index] = (errors[:, 3:] / number - mean.square()).clamp(min=0).sqrt()
        if diameters[1] > 0:
            self.torso_share.copy_(diameters[0] / diameters[1])

    def _normalized(self, batch: Batch) -> Tensor:
        return self._networks[0].backbone.normalize(batch.images, batch.sizes)

    @property
    def _networks(self) -> list[JointRegressor]:
        return list(self.regressors)  # type: ignore[arg-type]


def _own(joints: Joints, index: Tensor) -> Joints:
    """Of each crop the joint that it was made for: those of `index` [B, P] of joints [N, J, 2] -> [N, 1, 2]."""
    index = index.flatten()[:, None, None].expand(-1, 1, 2)
    sigma = None if joints.sigma is None else joints.sigma.gather(1, index)
    return Joints(joints.places.gather(1, index), sigma)


def _as_its_buffer_says(model: nn.Module, keys: Any) -> None:
    """After the weights of a checkpoint have been loaded: train and predict with the stage that it was in."""
    assert isinstance(model, DeepPose)
    model.stage = int(model.stage_number)
