"""The COCO file that several test modules read."""

from __future__ import annotations

import pytest

from .files import Document, coco_document


@pytest.fixture
def document() -> Document:
    return coco_document()
