"""The rooms of the house: who may import whom. A new arrow is a decision, so it is made here, in the open."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cvtasks"

# Every room may import `errors` and itself.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "ops": set(),
    "config": {"engine.checkpoint"},  # a stored configuration is read from a checkpoint
    "nn": {"ops", "types", "config.schema"},
    "models": {"nn", "ops", "types", "config.schema"},
    "data": {"types", "ops.boxes", "config.schema", "proposals"},
    "metrics": {"types", "ops", "config.schema"},
    "engine": {"types", "config.schema"},
    "viz": {"types"},
    "assembly": {"config", "engine", "data", "models", "nn", "metrics", "types"},
    "app": {"assembly", "config", "engine", "data", "nn", "metrics", "viz", "types"},
    "cli": {"app", "config", "engine"},
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


BANNED = ("pickle", "eval(", "exec(", "weights_only=False", "hydra.utils.instantiate", "yaml.load(")
BANNED += ("shell=True", "torchvision.io", "extractall(")


def calls(path: Path) -> set[str]:
    """Every dotted name that is imported or called in a file, and its keyword arguments as `name=value`."""
    found = set(imports(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func) + "(")
            found |= {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_here_can_run_what_a_file_says(path: Path) -> None:
    found = calls(path)
    assert not [f for f in found for b in BANNED if f == b or f.split(".")[0] == b or f.startswith(b + ".")]
