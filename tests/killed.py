"""A run that dies as soon as its first checkpoint is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cvtasks.engine import checkpoint as checkpoints


@contextmanager
def killed_behind_a_checkpoint() -> Iterator[None]:
    save_last = checkpoints.save_last

    def save_and_die(folder: Path, content: dict[str, Any]) -> None:
        save_last(folder, content)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save_last", save_and_die)
        yield
