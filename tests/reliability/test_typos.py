"""100 typos of keys, groups and options: each is refused, and 95 of them with the right name among three.

Of every task that there is; typed on the command line, or every fifth in a YAML file of the user's own.
"""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cvtasks.cli import main
from cvtasks.config.compose import compose
from cvtasks.config.locate import conf_dirs, options
from cvtasks.config.origins import flatten

from .amount import amount

TYPOS = amount(100)
GROUPS = ["backbone", "dataset", "pipeline", "optimizer", "scheduler", "engine", "loader", "task"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the user's, and an application that would be called if a typo were accepted."""
    monkeypatch.chdir(tmp_path)
    app = types.ModuleType("cvtasks.app")
    app.train = lambda config, **_: pytest.fail("it is accepted")
    monkeypatch.setitem(sys.modules, "cvtasks.app", app)
    return tmp_path


def test_95_of_100_typos_get_the_right_name_among_three(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated, missed = typos(), []
    for number in range(TYPOS):
        words, right = next(generated)
        if number % 5 == 4:
            words, right = in_a_file(home, random.Random(number))
        code, printed = main(["train", *words]), capsys.readouterr()
        assert (code, printed.out) == (2, ""), words
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.startswith("cvtasks: ")
        suggested = printed.err.strip().partition("; did you mean ")[2].rstrip("?").replace(" or ", ", ")
        assert len(suggested.split(", ")) <= 3
        if right not in suggested.split(", "):
            missed.append(f"{words}: {printed.err}")
    assert len(missed) <= max(1, TYPOS // 20), missed


def typos(seed: int = 0) -> Iterator[tuple[list[str], str]]:
    """Endless (what was typed, the right name); never a name that exists."""
    rng = random.Random(seed)
    while True:
        values = keys(task := rng.choice(tasks()))
        key = rng.choice(values)
        kind = rng.randrange(5)
        if kind == 0:  # a key under another node, or under none
            parent, _, last = key.rpartition(".")
            wrong = rng.choice([f"{g}.{last}" for g in GROUPS if g != parent] + [last])
            value = "1"
        elif kind == 1:  # an option
            group = rng.choice(GROUPS)
            right = rng.choice(sorted(options(group, conf_dirs(None))))
            if (value := misspelt(right, rng)) not in options(group, conf_dirs(None)):
                yield [f"task={value}"] if group == "task" else [f"task={task}", f"{group}={value}"], right
            continue
        elif kind == 2:  # a group
            key = rng.choice(GROUPS)
            wrong, value = misspelt(key, rng), next(iter(options(key, conf_dirs(None))))
        else:
            wrong, value = misspelt(key, rng), "1"
        names = values + GROUPS
        twins = [n for n in names if n.rpartition(".")[2] == key.rpartition(".")[2]]
        if wrong not in names and (kind != 0 or len(twins) == 1):
            yield [f"task={task}", f"{wrong}={value}"], key


def in_a_file(home: Path, rng: random.Random) -> tuple[list[str], str]:
    """A misspelt key in conf/experiment/mine.yaml."""
    task = rng.choice(tasks())
    values = [key for key in keys(task) if key.count(".") == 1]
    parent, _, last = (right := rng.choice(values)).partition(".")
    while f"{parent}.{(wrong := misspelt(last, rng))}" in values:
        pass
    file = home / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{parent}:\n  {wrong}: 1\n")
    return [f"task={task}", "-cd", "conf", "experiment=mine"], right


def tasks() -> list[str]:
    return sorted(options("task", conf_dirs(None)))


@cache
def keys(task: str) -> list[str]:
    config = compose("train", [f"task={task}"])
    return sorted(k for k, _ in flatten(config) if "_target_" not in k and not k.endswith(".name"))


def misspelt(name: str, rng: random.Random) -> str:
    """The name with one letter dropped, doubled, changed, or swapped with the next one."""
    i = rng.choice([i for i, letter in enumerate(name) if letter.isalnum()])
    letter = name[i]
    after = name[i + 1 : i + 2]
    changes = [
        name[:i] + name[i + 1 :],
        name[:i] + letter + name[i:],
        name[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz".replace(letter, "")) + name[i + 1 :],
        name[:i] + after + letter + name[i + 2 :] if after.isalnum() and after != letter else name + "s",
    ]
    sound = [c for c in changes if c and not c[0].isdigit() and "." not in (c[0], c[-1])]
    return rng.choice(sound or [name + "s"])
