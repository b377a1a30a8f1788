"""What holds for every test."""

import tempfile
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from undrawn import undraw

# A test fails for what it found, never for how long a busy machine took.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Tensors of a few numbers gain nothing from a second thread, and on a busy machine wait for it ten times as long.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def a_cache_of_our_own() -> Iterator[None]:
    """Proposals go into a folder of this session, and not into the user's."""
    with (
        tempfile.TemporaryDirectory(prefix="cvtasks-cache-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CVTASKS_CACHE", folder)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are empty pictures."""
    undraw(monkeypatch)
