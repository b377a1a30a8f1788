"""Box regression against the paper's formulas, in NumPy and in other words."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cvtasks.nn.box_ridge import SMALLEST_VARIANCE, BoxRidge, ridge, whitening
from cvtasks.ops import coders


def make_images(
    images: int, regions: int, width: int, classes: int = 2, seed: int = 0
) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(images):
        corner = torch.rand(regions, 2, generator=generator) * 50
        boxes = torch.cat([corner, corner + 10 + torch.rand(regions, 2, generator=generator) * 40], 1)
        near = torch.arange(0, regions, 2)
        made.append(
            {
                "boxes": boxes,
                "near": near,
                "target": boxes[near] + torch.randn(len(near), 4, generator=generator) * 2,
                "label": torch.arange(len(near)) % classes,
                "pooled": torch.rand(len(near), width, generator=generator).half(),
            }
        )
    return made


def paper(images: list[dict[str, Tensor]], label: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [D + 1, 4] of features as they are, by appendix C and the authors' code, line by line."""
    x, t = [], []
    norms = np.concatenate([np.linalg.norm(i["pooled"].double().numpy(), axis=1) for i in images])
    for i in images:
        for n, region in enumerate(i["near"].tolist()):
            if i["label"][n] != label:
                continue
            px1, py1, px2, py2 = i["boxes"][region].tolist()
            gx1, gy1, gx2, gy2 = i["target"][n].tolist()
            pw, ph, gw, gh = px2 - px1, py2 - py1, gx2 - gx1, gy2 - gy1
            px, py, gx, gy = px1 + pw / 2, py1 + ph / 2, gx1 + gw / 2, gy1 + gh / 2
            t.append([(gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph)])
            x.append(np.append(i["pooled"][n].double().numpy() * 20 / norms.mean(), 1))
    rows, targets = np.array(x), np.array(t)
    mean = targets.mean(0)
    values, vectors = np.linalg.eigh((targets - mean).T @ (targets - mean) / len(targets))
    white = vectors @ np.diag(1 / np.sqrt(values + 0.001)) @ vectors.T
    back = vectors @ np.diag(np.sqrt(values + 0.001)) @ vectors.T
    beta = (
        np.linalg.inv(rows.T @ rows + strength * np.eye(rows.shape[1])) @ rows.T @ ((targets - mean) @ white)
    )
    beta = beta @ back
    beta[:-1] *= 20 / norms.mean()
    beta[-1] += mean
    return beta[:-1], beta[-1]


@pytest.mark.parametrize("width", [6, 80])  # fewer features than examples of a class (20), and more
def test_weights_are_those_of_the_papers_formulas(width: int) -> None:
    images = make_images(8, 10, width)
    boxes = BoxRidge(width, 2, regularization=1000.0)
    boxes.fit(images)
    for label in range(2):
        weight, bias = paper(images, label, 1000.0)
        np.testing.assert_allclose(boxes.weight[label].numpy(), weight, atol=1e-5)
        np.testing.assert_allclose(boxes.bias[label].numpy(), bias, atol=1e-5)


def test_with_little_regularization_it_finds_what_features_tell() -> None:
    # Offsets are a linear map of the features, exactly.
    generator = torch.Generator().manual_seed(1)
    images = make_images(10, 12, 5, classes=1)
    truth = torch.randn(5, 4, generator=generator) * 0.1
    for each in images:
        offsets = each["pooled"].float() @ truth
        each["target"] = coders.decode(offsets, each["boxes"][each["near"]])
    boxes = BoxRidge(5, 1, regularization=1e-6)
    boxes.fit(images)
    for each in images:
        found = coders.decode(boxes(each["pooled"].float())[:, 0], each["boxes"][each["near"]])
        torch.testing.assert_close(found, each["target"], atol=2e-2, rtol=1e-3)


def test_whitened_targets_are_uncorrelated_and_come_back() -> None:
    # Every direction varies far more than SMALLEST_VARIANCE.
    mixed = torch.eye(4, dtype=torch.float64) + torch.full((4, 4), 0.5).tril(-1)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(500, 4, dtype=torch.float64, generator=generator) @ mixed + 3
    mean, whiten, colour = whitening(targets)
    white = (targets - mean) @ whiten
    covariance = white.t() @ white / len(white)
    torch.testing.assert_close(covariance, torch.eye(4).double(), atol=20 * SMALLEST_VARIANCE, rtol=0)
    torch.testing.assert_close(white @ colour + mean, targets)


def test_ridge_is_the_same_by_either_system() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(30, 34, dtype=torch.float64, generator=generator).split([30, 4], dim=1)
    expected = torch.linalg.solve(rows.t() @ rows + 7 * torch.eye(30), rows.t() @ targets)
    torch.testing.assert_close(ridge(rows.split(7), targets, 7.0), expected)
    more, wanted = torch.cat([rows, rows]), torch.cat([targets, targets])
    expected = torch.linalg.solve(2 * rows.t() @ rows + 7 * torch.eye(30), 2 * rows.t() @ targets)
    torch.testing.assert_close(ridge(more.split(11), wanted, 7.0), expected)


def test_a_class_without_an_example_leaves_boxes_as_they_are() -> None:
    images = make_images(3, 8, 4, classes=1)
    boxes = BoxRidge(4, 2)
    boxes.fit(images)
    assert (boxes(torch.rand(5, 4))[:, 1] == 0).all()
    boxes.fit([])
    assert (boxes(torch.rand(5, 4)) == 0).all()
