"""What the benchmarks beside this file share: a command line from a module's docstring, and parts timed in turn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, as it is written."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def time_in_turn(parts: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each part took, `rounds` times A B A B: whatever else the machine does meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    with tqdm(total=rounds * len(parts), unit="part", disable=None, leave=False) as progress:
        for _ in range(rounds):
            for name, part in parts.items():
                progress.set_description(name)
                start = time.perf_counter()
                part()
                seconds[name].append(time.perf_counter() - start)
                progress.update()
    return seconds
