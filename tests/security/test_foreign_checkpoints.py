"""A checkpoint with a right checksum, of plain values, that no run has written: one line, not a bug's traceback."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cvtasks.engine import checkpoint
from cvtasks.engine.checkpoint import FOR_RESUME, NEEDED

from .conftest import Command

WRONG: dict[str, dict[str, Any]] = {
    **{f"{key} is a tuple": {key: ()} for key in (*NEEDED, *FOR_RESUME)},
    "no classes": {"classes": {"names": [], "skeleton": []}},
    "a class that is a number": {"classes": {"names": [1], "skeleton": []}},
    "classes with other keys": {"classes": {"names": ["a"], "skeleton": [], "__class__": "x"}},
    "too few ids": {"classes": {"names": ["a", "b"], "category_ids": [1], "skeleton": []}},
    "a weight that is text": {"model": {"weight": "x"}},
    "no weights": {"model": {}},
    "an average that is text": {"ema": "x"},
    "a configuration that is a list": {"config": "- 1"},
    "a configuration of another program": {"config": "model: yolo"},
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused(name: str, finished: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    content = checkpoint.load(run / "checkpoints" / "last.pt") | WRONG[name]
    for file in ("best.pt", "last.pt"):
        checkpoint.save(run / "checkpoints" / file, content)
    # What only a training needs does not hinder a judgement, as long as it is not damaged.
    for words in (
        ["eval", f"run={run}", f"run_dir={tmp_path / 'out'}"],
        ["resume", str(run), "engine.max_steps=3"],
    ):
        code, line = command(*words)
        if "configuration" in name and words[0] == "eval":
            assert code == 0  # that of the run's folder is used
            continue
        assert code == 2, (words, line)
        assert line.count("\n") == 1


@pytest.mark.parametrize("key", NEEDED)
def test_what_is_missing_is_named(key: str, finished: Path, tmp_path: Path, command: Command) -> None:
    content = checkpoint.load(finished / "checkpoints" / "last.pt")
    del content[key]
    checkpoint.save(tmp_path / "a.pt", content)
    code, line = command("eval", f"checkpoint={tmp_path / 'a.pt'}", f"run_dir={tmp_path / 'out'}")
    assert code == 2
    assert line.count("\n") == 1
    assert "no configuration" in line if key == "config" else key in line
