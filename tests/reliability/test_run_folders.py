"""One process for each run's folder, one folder for each run: two never write into the same one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from . import runs
from .amount import amount
from .children import Child, run, wait_until
from .conftest import Unbroken


def test_a_second_process_in_a_runs_folder_is_refused_and_does_not_disturb_the_first(
    unbroken: Unbroken,
) -> None:
    place = unbroken.place()
    first = Child(runs.train_saving_slowly, 5, *runs.words(place))
    try:
        for saving in (False, True):
            wait_until(lambda: "saving step 5" in first.out if saving else (place / "config.yaml").exists())  # noqa: B023
            for typed in (["resume", str(place)], runs.words(place)):
                second = run(runs.train, *typed)
                assert second.code == 2
                assert f"{place} is in use by another process" in second.line
        first.signal(signal.SIGUSR2)
        assert first.wait().code == 0
    finally:
        first.end()
    assert runs.differences(place, unbroken.result) == []


@pytest.mark.parametrize("count", [max(2, amount(8))])
def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path, count: int) -> None:
    words = [word for word in runs.words(tmp_path, "engine.max_steps=1") if not word.startswith("run_dir")]
    children = [Child(runs.train_in, tmp_path, *words) for _ in range(count)]
    try:
        assert [c.wait().code for c in children] == [0] * count
    finally:
        for c in children:
            c.end()
    folders = list((tmp_path / "runs" / "faster_rcnn" / "shapes").iterdir())
    assert len(folders) == count
    for folder in folders:
        assert (folder / "metrics.jsonl").read_text().count('"lr"') == 1
        assert (folder / "metrics.json").exists()
