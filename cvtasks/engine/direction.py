"""Which way a metric is better."""

from __future__ import annotations

import re

_LOWER = re.compile(r"(^|[/_])(loss|error)(/|$)")


def lower_is_better(metric: str) -> bool:
    """Losses and errors (`val/loss`, `pose/mean_error`); every other metric is better the higher it is."""
    return _LOWER.search(metric) is not None
