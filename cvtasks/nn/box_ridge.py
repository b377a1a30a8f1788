"""R-CNN's bounding-box regression: for each class a ridge regression (Girshick et al., CVPR 2014, appendix C).

From the features of proposals that overlap an object by 0.6 and more to the object's offsets (`ops.coders`), with lambda =
1000. As in the paper's code, features are scaled to a mean norm of 20, a feature that is always 1 stands for the bias, and
the targets of a class are centred and whitened.
Letters: K classes, D features, N examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from cvtasks.nn.svm import TARGET_NORM
from cvtasks.ops import coders

SMALLEST_VARIANCE = 1e-3
"""Added to the variances of the targets, so that a direction in which they do not vary is not blown up"""


class BoxRidge(nn.Module):
    """Offsets by K linear maps; none until `fit`."""

    weight: Tensor
    bias: Tensor
    solved: Tensor

    def __init__(self, inputs: int, num_classes: int, *, regularization: float = 1000.0) -> None:
        super().__init__()
        self.regularization = regularization
        self.register_buffer("weight", torch.zeros(num_classes, inputs, 4))
        self.register_buffer("bias", torch.zeros(num_classes, 4))
        self.register_buffer("solved", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] -> offsets [..., K, 4], float32."""
        with torch.autocast(features.device.type, enabled=False):
            return torch.einsum("...d,kdo->...ko", features.float(), self.weight) + self.bias

    @torch.no_grad()
    def fit(self, images: Iterable[Mapping[str, Tensor]]) -> None:
        """Solve for every class; one without an example leaves boxes as they are.

        An image has `boxes` [R, 4], `near` int64 [N] (those that are near an object), and of each of these `target` [N, 4]
        (the object's box), `label` int64 [N] and `pooled` [N, D]. They are read once, and once more for each class.
        """
        labels, offsets, norms = list[Tensor](), list[Tensor](), list[Tensor]()
        for image in images:
            labels.append(image["label"])
            offsets.append(coders.encode(image["target"], image["boxes"][image["near"]]).double())
            norms.append(image["pooled"].double().norm(dim=1))
        self.weight.zero_()
        self.bias.zero_()
        self.solved.fill_(True)
        every = torch.cat(labels) if labels else torch.zeros(0)
        scale = TARGET_NORM / float(torch.cat(norms).mean().clamp(min=1e-6)) if labels else 1.0
        for label in every.unique().tolist():
            targets = torch.cat(offsets)[every == label].to(self.weight.device)
            mean, whiten, colour = whitening(targets)
            solution = ridge(self._rows(images, label, scale), (targets - mean) @ whiten, self.regularization)
            solution = solution @ colour
            self.weight[label] = (scale * solution[:-1]).float()
            self.bias[label] = (solution[-1] + mean).float()

    def _rows(self, images: Iterable[Mapping[str, Tensor]], label: int, scale: float) -> Iterator[Tensor]:
        """The features of a class's examples, image by image, float64 [N, D + 1]."""
        for image in images:
            if (own := image["label"] == label).any():
                rows = scale * image["pooled"][own].to(self.weight.device).double()
                yield torch.cat([rows, torch.ones_like(rows[:, :1])], 1)


def whitening(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of targets [N, 4]: their mean [4], what makes them uncorrelated with variance 1 [4, 4], and its inverse."""
    mean = targets.mean(0)
    centred = targets - mean
    variances, directions = torch.linalg.eigh(centred.t() @ centred / len(targets))
    deviations = (variances + SMALLEST_VARIANCE).sqrt()
    return mean, directions / deviations @ directions.t(), directions * deviations @ directions.t()


def ridge(rows: Iterable[Tensor], targets: Tensor, regularization: float) -> Tensor:
    """X [D, O] that minimises |A X - Y|^2 + regularization |X|^2, for A [N, D] in parts and Y [N, O].

    By the smaller of the systems of D and of N equations, so that of many examples no more than one part is in memory.
    """
    parts, number = iter(rows), 0
    kept, gram, moment = list[Tensor](), None, None
    for part in parts:
        wanted = targets[number : number + len(part)]
        number += len(part)
        if len(targets) <= part.shape[1]:
            kept.append(part)
            continue
        gram = part.t() @ part if gram is None else gram.addmm_(part.t(), part)
        moment = part.t() @ wanted if moment is None else moment.addmm_(part.t(), wanted)
    if gram is not None:
        gram.diagonal().add_(regularization)
        return torch.linalg.solve(gram, moment)
    every = torch.cat(kept)
    gram = every @ every.t()
    gram.diagonal().add_(regularization)
    return every.t() @ torch.linalg.solve(gram, targets)
