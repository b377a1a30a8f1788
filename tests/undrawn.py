"""Empty pictures in place of plots, for tests that look at none: drawing takes two thirds of a small run's time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def undraw(patch: pytest.MonkeyPatch) -> None:
    from cvtasks.viz import plots, report

    empty = Image.new("RGB", (32, 32))

    def save_empty(data: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        empty.save(path)

    for table in (plots.RECORD_PLOTS, plots.PLOTS):
        for name in table:
            patch.setitem(table, name, save_empty)
    patch.setattr(report, "contact_sheet", lambda *pictures, **layout: empty)
