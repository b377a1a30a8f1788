"""Files of weights made to do harm, as every input that takes one: refused in one line, and nothing has happened."""

import contextlib
import io
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import cvtasks.app
from cvtasks.cli import main
from cvtasks.config.compose import compose

from .conftest import NETWORK, PROGRAMS, SHAPES, SMALL, forbidden
from .payloads import CANARY, PAYLOADS, signed

MEMORY = 4 << 30
"""Bytes of address space that one attempt may take beyond what torch itself has"""
TAKEN = 300 << 10
"""KB of memory that it may use; the largest payload that is read has 1 MB"""
SECONDS = 60
"""Of computing"""


@pytest.fixture(scope="module")
def config() -> str:
    return yaml.safe_dump(compose("train", [*SMALL, *SHAPES]))


def attempt(commands: dict[str, list[str]]) -> dict[str, Any]:
    """Run command lines in a process of their own that has little memory and time; what each came to."""
    assert cvtasks.app  # imported once, before the process divides
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        found = {name: _outcome(words) for name, words in commands.items()}
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        content = answer.read()
    status = os.waitpid(process, 0)[1]
    assert status == 0, f"ended by {status}"
    return json.loads(content)


def _outcome(words: list[str]) -> dict[str, Any]:
    before, errors = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, io.StringIO()
    with forbidden(*PROGRAMS, *NETWORK, "pickle.find_class") as seen, contextlib.redirect_stderr(errors):
        try:
            code = main(words)
        except BaseException:
            code, _ = -1, traceback.print_exc()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"code": code, "error": errors.getvalue(), "seen": seen, "kilobytes": after - before}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


CHECKPOINTS = {
    "eval": ["eval", "checkpoint=../signed.pt", "run_dir=new"],
    "predict": ["predict", "checkpoint=../signed.pt", "source=../photo.png", "output=new"],
    "resume": ["resume", "../run"],
}
WEIGHTS = {
    "train": ["train", *SMALL, *SHAPES, "run_dir=new", "weights=../weights.pth"],
    "train from a checkpoint": ["train", *SMALL, *SHAPES, "run_dir=new", "weights=../signed.pt"],
    "backbone": ["train", *SMALL, *SHAPES, "run_dir=new", "backbone.weights=../weights.pth"],
}
ALL = CHECKPOINTS | WEIGHTS
TURNS = list(ALL)
"""Each file is given to one input, in turn; every file to every input is the slow test."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        *((name, (TURNS[number % 6],)) for number, name in enumerate(PAYLOADS)),
        *(pytest.param(name, tuple(ALL), marks=pytest.mark.slow) for name in PAYLOADS),
    ],
)
def test_a_malicious_file_is_refused_in_one_line(
    name: str, inputs: tuple[str, ...], config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = PAYLOADS[name]()
    for folder in ("home", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(config)
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(signed(content))
    (tmp_path / "signed.pt").write_bytes(signed(content))
    (tmp_path / "weights.pth").write_bytes(content)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path / "home")
    for what, outcome in attempt({name: ALL[name] for name in inputs}).items():
        assert outcome["code"] == 2, (what, outcome)
        assert outcome["error"].count("\n") == 1, (what, outcome)
        assert outcome["error"].startswith("cvtasks: "), (what, outcome)
        assert outcome["seen"] == [], (what, outcome)
        assert outcome["kilobytes"] < TAKEN, (what, outcome)
    assert not any(path.name == CANARY for path in tmp_path.rglob("*"))


def test_the_payloads_are_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever believes one of them is had: otherwise the test above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("a call", "a call in a legacy file", "a call by STACK_GLOBAL"):
        (tmp_path / "a.pt").write_bytes(PAYLOADS[name]())
        with contextlib.suppress(Exception):
            torch.load(tmp_path / "a.pt", weights_only=False)
        (tmp_path / CANARY).rmdir()
