"""The rooms of the house: who may import whom. A new arrow is a decision, so it is made here, in the open."""

import ast
import builtins
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cvtasks"

# Every room may import `errors` and itself.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "redaction": set(),
    "torch_file": set(),
    "ops": set(),
    "config": {"engine.checkpoint", "redaction"},  # a stored configuration is read from a checkpoint
    "nn": {"ops", "types", "config.schema", "torch_file"},
    "models": {"nn", "ops", "types", "config.schema"},
    "data": {"types", "ops.boxes", "config.schema", "proposals"},
    "proposals": {"config.schema"},  # no torch
    "metrics": {"types", "ops", "config.schema", "data.label_images", "viz.colors"},  # label maps as PNGs
    "engine": {"types", "config.schema", "redaction", "torch_file"},
    "viz": {"types"},
    "proposing": {"config", "engine", "data", "proposals", "types"},
    "assembly": {"config", "engine", "data", "models", "nn", "metrics", "proposing", "redaction", "types"},
    "batch_size": {"assembly", "config", "engine", "data", "types"},
    "judge": {"assembly", "proposing", "config", "engine", "data", "nn", "metrics", "viz", "types"},
    "proposal_run": {"assembly", "config", "engine", "data", "metrics", "proposals", "viz", "types"},
    "app": {"assembly", "judge", "proposing", "config", "engine", "nn", "viz", "types"},
    "studies": {
        "app",
        "assembly",
        "judge",
        "batch_size",
        "config",
        "engine",
        "data",
        "models",
        "metrics",
        "nn",
        "ops",
        "proposals",
        "redaction",
        "types",
        "viz",
    },
    "sweeps": {"config", "engine", "redaction", "studies.findings", "studies.pictures"},
    "usage": set(),
    "cli": {"app", "judge", "proposal_run", "batch_size", "studies", "sweeps", "config", "engine", "usage"},
}
HYDRA = {"config", "cli", "app"}


def imports(path: Path) -> list[str]:
    """The dotted names of all modules that a file imports, also inside its functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    allowed = ALLOWED[room] | {"errors", "__version__", room}
    for name in imports(path):
        if name.startswith("cvtasks."):
            below = name.removeprefix("cvtasks.")
            fits = any(below == a or below.startswith(a + ".") for a in allowed)
            assert fits, (
                f"{path.relative_to(PACKAGE.parent)} imports {name}; {room} may import {sorted(allowed)}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_hydra_stops_at_the_door(path: Path) -> None:
    if room_of(path) not in HYDRA:
        assert not [n for n in imports(path) if n.split(".")[0] in ("hydra", "omegaconf")]


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name in ("errors.py", "schema.py")], ids=lambda p: p.name
)
def test_errors_and_schema_need_only_the_standard_library(path: Path) -> None:
    assert {n.split(".")[0] for n in imports(path)} <= {"__future__", "dataclasses", "typing", "collections"}


def test_no_file_is_a_drawer_of_leftovers() -> None:
    assert not [p for p in FILES if p.stem in ("utils", "util", "helpers", "common", "misc")]


# What runs code that a file holds, reaches for the network, or turns text into a command. Every mention counts, as a
# module, a name out of it, or a call, under whatever alias.
BANNED = """
pickle _pickle cPickle pickle5 dill cloudpickle jsonpickle marshal shelve joblib runpy pty imp builtins __builtins__
builtin.eval builtin.exec builtin.compile builtin.__import__ importlib.import_module importlib.__import__
importlib.reload importlib.machinery
os.system os.popen os.execl os.execle os.execlp os.execv os.execve os.execvp os.execvpe os.startfile posix
os.spawnl os.spawnle os.spawnlp os.spawnv os.spawnve os.spawnvp os.posix_spawn os.posix_spawnp
subprocess.getoutput subprocess.getstatusoutput
yaml.load yaml.load_all yaml.full_load yaml.full_load_all yaml.unsafe_load yaml.unsafe_load_all
yaml.Loader yaml.FullLoader yaml.UnsafeLoader yaml.CLoader yaml.CFullLoader yaml.CUnsafeLoader yaml.loader
hydra.utils hydra.instantiate pandas.read_pickle torchvision.io torch.hub torch.utils.model_zoo torch.package
torch.jit.load torch.serialization torch._weights_only_unpickler
urllib requests http httpx aiohttp socket ssl ftplib smtplib xmlrpc
"""
MAY = {
    "cvtasks/nn/zoo.py": {"torch.hub"},  # asked for by the zoo's name
    "cvtasks/config/build.py": {"importlib.import_module"},  # the one place, with its lists
}
MUST_SAY = {"torch.load": ("weights_only", True)}
"""A call has to give this value, as it stands."""
MUST_NOT_SAY = {"allow_pickle": False, "shell": False, "weights_only": True}
"""A keyword, of whatever call, that may have this value only, as it stands"""
UNPACKERS = ("extractall", "unpack_archive")


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """`a.b.c` of an expression with imported names put in, and `getattr(a, "b")` read as `a.b`; "" for any other."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return known.get(node.id, f"builtin.{node.id}" if node.id in dir(builtins) else node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, known)}.{node.attr}"
    if isinstance(node, ast.Call):
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        name = dotted(node.func, known)
        if name == "builtin.getattr" and words:
            return f"{dotted(node.args[0], known)}.{words[0]}"
        if name in ("importlib.import_module", "builtin.__import__") and words:
            return words[0]
    return ""


def offences(source: str) -> set[str]:
    """What of the lists above a file's text mentions."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            known |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    roots = {"builtin", *(name.split(".")[0] for name in known.values())}
    for node in ast.walk(tree):  # `p = pickle` and `load = torch.load`
        if (
            isinstance(node, ast.Assign)
            and (name := dotted(node.value, known))
            and name.split(".")[0] in roots
        ):
            known |= {t.id: name for t in node.targets if isinstance(t, ast.Name)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found |= {dotted(node, known) for node in ast.walk(tree)}
    parts = {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)}
    wrong = {name for name in parts if name in BANNED.split()}
    rightly_called = set()
    for call in calls:
        given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ... for k in call.keywords}
        name = dotted(call.func, known)
        wrong |= {
            f"{k}={given[k]}" for k, only in MUST_NOT_SAY.items() if k in given and given[k] is not only
        }
        if name in MUST_SAY and given.get(MUST_SAY[name][0]) is MUST_SAY[name][1]:
            rightly_called.add(call.func)
        if name.split(".")[-1] in UNPACKERS and given.get("filter") != "data":
            wrong.add(name.split(".")[-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and dotted(node, known) in MUST_SAY and node not in rightly_called:
            wrong.add(dotted(node, known))
    return wrong


ROOT = PACKAGE.parent
PROGRAMS = [*FILES, *sorted((ROOT / "scripts").rglob("*.py")), ROOT / "setup.py"]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_here_can_run_what_a_file_says(path: Path) -> None:
    assert offences(path.read_text()) - MAY.get(path.relative_to(ROOT).as_posix(), set()) == set()


def test_one_place_reads_what_torch_saved() -> None:
    calls = {
        p.name
        for p in PROGRAMS
        for node in ast.walk(ast.parse(p.read_text()))
        if dotted(node, {}) == "torch.load"
    }
    assert calls == {"torch_file.py"}


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from pickle import *",
        "def f():\n    import pickle",
        "import torch, dill",
        "from cloudpickle import load",
        "import marshal, json",
        "import shelve as s",
        "from joblib import load",
        "import importlib\nimportlib.import_module('pickle')",
        "from importlib import import_module as i\ni(name)",
        "import builtins",
        "__builtins__['eval']('1')",
        "eval('1')",
        "run = exec",
        "[*map(eval, lines)]",
        "__import__('os').system('ls')",
        "import os\nos.system('ls')",
        "from os import system as s",
        "import os\ngetattr(os, 'system')('ls')",
        "import os as o\nx = o\nx.popen('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "from subprocess import getoutput",
        "import yaml\nyaml.load(text)",
        "import yaml as y\ny.load(text, Loader=y.SafeLoader)",
        "from yaml import unsafe_load",
        "import yaml\nyaml.full_load(text)",
        "import yaml\nread = yaml.load_all",
        "import yaml\nyaml.compose(text, Loader=yaml.UnsafeLoader)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "import torch\ntorch.load(path, **options)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "import torch\nread = torch.load\nread(path)",
        "import torch\nread(torch.load, path)",
        "import functools, torch\nfunctools.partial(torch.load, weights_only=False)",
        "import torch\ntorch.jit.load(path)",
        "import torch\ntorch.hub.load('a/b', 'c')",
        "from torch import hub",
        "from torch.serialization import add_safe_globals",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "numbers.load(path, allow_pickle=flag)",
        "import hydra\nhydra.utils.instantiate(cfg)",
        "from hydra.utils import instantiate as build",
        "from hydra import utils",
        "import torchvision\ntorchvision.io.read_image(path)",
        "from torchvision import io",
        "from torchvision.io import read_image",
        "archive.extractall(folder)",
        "archive.extractall(folder, filter='fully_trusted')",
        "import shutil\nshutil.unpack_archive(path)",
        "import urllib.request",
        "from urllib.request import urlopen",
        "import requests",
        "import http.client",
        "import socket",
    ],
)
def test_the_ban_knows_every_disguise(snippet: str) -> None:
    assert offences(snippet)


@pytest.mark.parametrize(
    "snippet",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "from torch import load as read\nread(path, map_location='cpu', weights_only=True)",
        "model.eval()",
        "import torch\ntorch.compile(model)",
        "import re\nre.compile('a')",
        "import numpy as np\nnp.load(path)",
        "import yaml\nyaml.safe_load(text)",
        "import pickletools",
        "import subprocess\nsubprocess.run(['ls'], check=True)",
        "import tarfile\ntarfile.open(path).extractall(folder, filter='data')",
        "self.load(path)",
        "text = 'eval(1) pickle torch.load(x)'",
        "from torchvision import ops",
    ],
)
def test_the_ban_lets_the_rest_pass(snippet: str) -> None:
    assert offences(snippet) == set()
