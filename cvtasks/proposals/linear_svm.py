"""A linear support vector machine with the squared hinge loss, small enough to be solved at once."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def linear_svm(features: np.ndarray, labels: np.ndarray, *, cost: float) -> tuple[np.ndarray, float]:
    """Weights [D] and bias that minimise |w|^2 / 2 + cost * sum(max(0, 1 - y (w x + b))^2).

    features: [N, D], of about unit size; labels: bool [N]. The bias is not in the penalty.
    """
    x = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    y = np.where(labels, 1.0, -1.0)
    penalty = np.append(np.ones(x.shape[1] - 1), 0.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        short = np.maximum(0, 1 - y * (x @ w))
        value = (penalty * w) @ w / 2 + cost * short @ short
        return value, penalty * w - 2 * cost * (y * short) @ x

    start = np.zeros(x.shape[1])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-12}).x
    return best[:-1], float(best[-1])
