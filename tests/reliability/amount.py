"""How much the tests of this room do: a tenth by default, the whole by `make reliability`."""

from __future__ import annotations

import math
import os

FULL = os.environ.get("CVTASKS_RELIABILITY") == "full"


def amount(whole: int) -> int:
    return whole if FULL else math.ceil(whole / 10)
