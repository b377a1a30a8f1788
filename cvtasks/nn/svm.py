"""A linear SVM for each class, trained with hard negatives as by R-CNN (Girshick et al., CVPR 2014, section 2.3).

The settings are those of the paper's code: hinge loss with C = 0.001, errors of positives count twice, the bias is the
weight of a feature that is always 10, and features are scaled so that the mean of their norms is 20. Positives are the
true boxes of a class, negatives regions whose IoU with each of them is below 0.3. One pass over the images adds the
negatives that lie inside the margin; whenever 2,000 are new the SVM is solved again, and the easy ones are dropped.

Deviation: liblinear descends until a tolerance is met; here each problem is solved, so that a run gives the same SVMs
twice. Letters: K classes, D features, N examples, R regions of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

TARGET_NORM = 20.0
BIAS_FEATURE = 10.0
NEVER = -1e4
"""The margin of a class that has no example: below every threshold, and a number that a checkpoint may hold"""
HARD, EASY = -1.0, -1.2
"""Margins from which on a negative is added, and below which it is dropped"""
RETRAIN_AFTER = 2000
GAP = 1e-12
"""Where a problem counts as solved: the gap between primal and dual, as a part of the primal"""
LONGEST_STEP = 1e4
"""Of a proximal point, times an example's squared norm: with longer ones the systems lose digits"""


class LinearSvms(nn.Module):
    """Margins of K one-against-all SVMs; nothing until `fit`."""

    weight: Tensor
    bias: Tensor
    solved: Tensor

    def __init__(
        self, inputs: int, num_classes: int, *, cost: float = 1e-3, positive_weight: float = 2.0
    ) -> None:
        super().__init__()
        self.cost, self.positive_weight = cost, positive_weight
        self.register_buffer("weight", torch.zeros(num_classes, inputs))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("solved", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] -> margins [..., K], float32."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ self.weight.t() + self.bias

    @torch.no_grad()
    def fit(self, images: Iterable[Mapping[str, Tensor]], *, negative_iou: float = 0.3) -> list[int]:
        """Train on the regions of images, which are read twice; returns the classes without a positive.

        An image has `features` [R, D], `objects` int64 [R] (the class of a region that is a true box, else -1),
        `overlaps` [R, K] (the largest IoU with an object of each class) and `ignored` bool [R] (regions of crowds and of
        difficult objects, which are no negatives).
        """
        norms, regions, positives = 0.0, 0, [list[Tensor]() for _ in self.bias]
        for image in images:
            # Each is read from the disk when it is asked for, so once.
            features, objects = image["features"], image["objects"]
            norms += float(features.float().norm(dim=1).sum())
            regions += len(features)
            for label in objects[objects >= 0].unique().tolist():
                positives[label].append(features[objects == label])
        scale = TARGET_NORM * regions / norms if norms else 1.0
        device = self.weight.device
        every = {
            label: _OneClass(scale * torch.cat(found).to(device).float(), self.cost, self.positive_weight)
            for label, found in enumerate(positives)
            if found
        }
        for image in images:
            features = scale * image["features"].to(device).float()
            background = (image["overlaps"] < negative_iou) & ~image["ignored"][:, None]
            for label, one in every.items():
                one.mine(features[background[:, label].to(device)])
        self.weight.zero_()
        self.bias.fill_(NEVER)
        for label, one in every.items():
            one.solve()
            self.weight[label], self.bias[label] = scale * one.weight, one.bias
        self.solved.fill_(True)
        return [label for label in range(len(self.bias)) if label not in every]


@dataclass
class _OneClass:
    """The SVM of one class and the examples that it works with."""

    positives: Tensor
    """float32 [N, D], scaled"""
    cost: float
    positive_weight: float
    negatives: Tensor = field(init=False)
    weight: Tensor = field(init=False)
    bias: Tensor = field(init=False)
    new: int = 0
    """Negatives since it was solved"""
    solved: bool = False

    def __post_init__(self) -> None:
        self.negatives = self.positives[:0]
        self.weight, self.bias = torch.zeros_like(self.positives[0]), self.positives.new_zeros(())

    def mine(self, candidates: Tensor) -> None:
        """Add the hard ones of an image's negatives [N, D]; the first image's are all hard, as nothing is known yet."""
        hard = candidates[candidates @ self.weight + self.bias > HARD]
        self.negatives = torch.cat([self.negatives, hard])
        self.new += len(hard)
        if self.new > RETRAIN_AFTER or (self.new and not self.solved):
            self.solve()

    def solve(self) -> None:
        """Fit weight and bias to the examples, and forget those that are easy."""
        examples = torch.cat([self.positives, self.negatives])
        positive = torch.arange(len(examples), device=examples.device) < len(self.positives)
        self.weight, self.bias = solve(
            examples, positive, cost=self.cost, positive_weight=self.positive_weight
        )
        self.negatives = self.negatives[self.negatives @ self.weight + self.bias >= EASY]
        self.new, self.solved = 0, True


def solve(
    features: Tensor,
    positive: Tensor,
    *,
    cost: float = 1e-3,
    positive_weight: float = 2.0,
    bias_feature: float = BIAS_FEATURE,
) -> tuple[Tensor, Tensor]:
    """Weight [D] and bias [] of the linear SVM of features [N, D], of which `positive` bool [N] are its class's.

    Minimises |w|^2 / 2 + sum of C_n max(0, 1 - y_n w . x_n), where x ends with `bias_feature`, y is 1 or -1, and C_n is
    `cost`, times `positive_weight` for positives: liblinear's solver 3, and scikit-learn's LinearSVC(loss="hinge").

    The dual is solved by proximal points, and each of these by Newton's method: the loss is then smooth, only examples
    on the margin have a curvature, and a few dozen small linear systems reach the last digits of float64.
    """
    sign = positive.double() * 2 - 1
    rows = torch.cat([features.double(), features.new_full((len(features), 1), bias_feature).double()], 1)
    rows *= sign[:, None]
    most = torch.where(positive, cost * positive_weight, cost).double()
    dual, step, longest = torch.zeros_like(most), cost, LONGEST_STEP / float(rows.square().sum(1).mean())
    weight, best = rows.new_zeros(rows.shape[1]), torch.inf
    for _ in range(100):
        dual = _proximal_point(rows, most, dual, step)
        found = rows.t() @ dual
        primal = found.square().sum() / 2 + (most * (1 - rows @ found).clamp(min=0)).sum()
        gap = float((primal - dual.sum() + found.square().sum() / 2) / primal.clamp(min=1e-30))
        if gap >= best and step >= longest:
            break
        if gap < best:
            weight, best = found, gap
        if best <= GAP:
            break
        step = max(cost, min(4 * step, longest))
    weight = weight.to(features.dtype)
    return weight[:-1], weight[-1] * bias_feature


def _proximal_point(rows: Tensor, most: Tensor, start: Tensor, step: float) -> Tensor:
    """The maximum of the dual within 0..most, less |dual - start|^2 / (2 step)."""
    weight = rows.t() @ start

    def at(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Dual variables that belong to a weight, and the value to be minimised."""
        slack = 1 - rows @ weight
        dual = torch.minimum((start + step * slack).clamp(min=0), most)
        return dual, weight.square().sum() / 2 + (dual * slack - (dual - start).square() / (2 * step)).sum()

    dual, value = at(weight)
    gradient = weight - rows.t() @ dual
    for _ in range(50):
        if gradient.norm() <= 1e-14 * (1 + weight.norm()):
            break
        direction = _newton(rows[(dual > 0) & (dual < most)], gradient, step)
        slope = -(gradient @ direction)
        for length in (0.5**n for n in range(40)):
            new_dual, new_value = at(weight - length * direction)
            new_gradient = weight - length * direction - rows.t() @ new_dual
            # In the last digits values are all the same, and a Newton step still makes the gradient smaller.
            smaller = length == 1 and new_gradient.norm() < 0.5 * gradient.norm()
            if smaller or new_value < value + 1e-4 * length * slope:
                break
        else:
            break
        weight, dual, value, gradient = weight - length * direction, new_dual, new_value, new_gradient
    return dual


def _newton(curved: Tensor, gradient: Tensor, step: float) -> Tensor:
    """(1 + step A'A)^-1 g for A [M, D], in the smaller of the two dimensions."""
    if len(curved) > curved.shape[1]:
        system = step * curved.t() @ curved
        system.diagonal().add_(1)
        return torch.linalg.solve(system, gradient)
    system = curved @ curved.t()
    system.diagonal().add_(1 / step)
    return gradient - curved.t() @ torch.linalg.solve(system, curved @ gradient)
