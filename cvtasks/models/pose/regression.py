"""Joints by regression: a network's vector, and one head of two coordinates for each joint (the lecture's picture).

The loss is L2 over labelled joints, or L1, smooth L1, or residual log-likelihood estimation (RLE; Li et al., ICCV 2021):
the head says how sure it is as well, and what is learnt is the likelihood of the error under a density that is a Laplace
distribution times a normalizing flow. The flow serves training alone.

    cvtasks train task=pose_regression
    cvtasks train task=pose_regression task.loss=rle dataset=lsp dataset.root=/data/lsp backbone=resnet50

Deviation: the density is the paper's equation, whose terms appear once; the authors' code counts log sigma and the flow
once for each coordinate.
Letters: N images, J joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.poses import as_predictions, joints_of, mirrored, places
from cvtasks.nn.real_nvp import RealNVP
from cvtasks.nn.vector import ImageVector, exact
from cvtasks.ops.losses import RegressionKind, count, masked_sum, regression
from cvtasks.types import Batch, ClassInfo, Prediction

JointLoss: TypeAlias = RegressionKind | Literal["rle"]


class Joints(NamedTuple):
    """What a regressor says of an image's joints."""

    places: Tensor
    """[N, J, 2], see `nn.poses`"""
    sigma: Tensor | None
    """[N, J, 2]: how far off they may be, of 0 to 1; None where the loss does not ask for it"""

    @property
    def scores(self) -> Tensor:
        """[N, J]: 1 - sigma, the mean of x and y; 1 where there is no sigma."""
        return self.places.new_ones(self.places.shape[:2]) if self.sigma is None else 1 - self.sigma.mean(-1)


class JointRegressor(nn.Module):
    """Normalised images -> joints: backbone, vector (`nn.vector`) and head; a stage of DeepPose is one.

    beta: of smooth_l1, as a part of the image.
    """

    def __init__(
        self, backbone: Backbone, num_joints: int, *, loss: JointLoss, beta: float, bins: int
    ) -> None:
        super().__init__()
        self.backbone, self.vector = backbone, ImageVector(backbone, bins=bins)
        self.kind, self.beta, self.num_joints = loss, beta, num_joints
        self.joints = nn.Linear(self.vector.outputs, (4 if loss == "rle" else 2) * num_joints)
        self.flow = RealNVP() if loss == "rle" else None
        nn.init.normal_(self.joints.weight, std=0.01)
        nn.init.zeros_(self.joints.bias)  # all in the middle, sigma one half

    def forward(self, images: Tensor) -> Joints:
        """Normalised images [N, 3, H, W]"""
        numbers = exact(self.joints, self.vector(self.backbone(images)))
        numbers = numbers.unflatten(1, (-1, self.num_joints, 2))
        return Joints(numbers[:, 0], None if self.flow is None else numbers[:, 1].sigmoid())

    def losses(self, joints: Joints, truth: Tensor) -> Tensor:
        """Of each joint, whether it is labelled or not: [N, J]. truth: places [N, J, 2]"""
        if joints.sigma is None:
            assert self.kind != "rle"
            return regression(self.kind, joints.places, truth, beta=self.beta)
        assert self.flow is not None
        return residual_log_likelihood(joints.places, joints.sigma, truth, self.flow)


def residual_log_likelihood(places: Tensor, sigma: Tensor, truth: Tensor, flow: RealNVP) -> Tensor:
    """RLE's loss of each joint: [N, J, 2] -> [N, J].

    -ln Q(e) - ln G(e) + ln sigma of the error e = (truth - place) / sigma, with Q the Laplace distribution of scale 1 and
    G the flow. (The paper's s, which makes the product integrate to one, depends on the flow alone and is left out, as
    in the authors' code.)
    """
    error = (truth - places) / sigma
    laplace = -error.abs() - math.log(2)
    return (sigma.log() - laplace).sum(-1) - flow.log_density(error)


class PoseRegression(nn.Module):
    """A `VisionModel` for images of one person.

    loss: l2, l1, smooth_l1 (with `beta`), or rle. bins: parts a side whose means are the vector (`nn.vector`).
    eval_flip: the mean of the image's joints and of its mirror image's.
    Raises ConfigError for a data set without joints.
    """

    class_layers = ("regressor.joints.",)

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        loss: JointLoss = "l2",
        beta: Annotated[float, Range(above=0)] = 0.05,
        bins: Annotated[int, Range(min=1)] = 1,
        eval_flip: bool = False,
    ) -> None:
        super().__init__()
        self.regressor = JointRegressor(backbone, joints_of(classes), loss=loss, beta=beta, bins=bins)
        self.flip_index: Sequence[int] | None = classes.flip_index if eval_flip else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`keypoints`: the mean over labelled joints."""
        truth, labelled = places(batch)
        losses = self.regressor.losses(self.regressor(self._normalized(batch)), truth)
        return {"keypoints": masked_sum(losses, labelled) / count(labelled)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One person for each image; `nn.poses` says what a prediction holds."""
        joints = self.regressor(self._normalized(batch))
        found, scores = joints.places, joints.scores
        if self.flip_index is not None:
            other = self.regressor(self._normalized(mirrored(batch)))
            order = list(self.flip_index)
            found = (found + other.places[:, order] * found.new_tensor([-1, 1])) / 2
            scores = (scores + other.scores[:, order]) / 2
        return as_predictions(found, scores, batch)

    def _normalized(self, batch: Batch) -> Tensor:
        return self.regressor.backbone.normalize(batch.images, batch.sizes)
