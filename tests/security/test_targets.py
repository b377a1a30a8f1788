"""A configuration names code. Whatever it names beyond our lists, wherever that stands and whoever wrote it: exit 2."""

import copy
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cvtasks.config.build import locate, use_plugins
from cvtasks.config.compose import compose
from cvtasks.engine import checkpoint

from .conftest import SHAPES, SMALL, Command

ATTACKS = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.nn.Linear",
    "torch.optim.os.system",
    "torch.optim.lr_scheduler.partial",
    "hydra.utils.instantiate",
    "importlib.import_module",
    "cvtasks.cli.main",
    "cvtasks.config.build.build",
    "cvtasks.engine.checkpoint.write_atomically",
    "cvtasks.engine.run.Run",
    "cvtasks.nn.zoo.load_weights",
    "cvtasks.data.voc.ElementTree.parse",
    "cvtasks.data.coco_file.json.loads",
    "cvtasks.data.paths.os.system",
    "cvtasks.models.detection.faster_rcnn.torch.load",
    "trap.run",
    "trap",
]
NODES = ("task", "backbone", "dataset", "pipeline", "evaluator", "optimizer", "scheduler")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module whose import leaves a trace."""
    (tmp_path / "trap.py").write_text("open('executed', 'w').close()\ndef run(*_, **__): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def refused(command: Command, *words: str) -> str:
    """The one line; nothing was run or imported."""
    code, line = command(*words)
    assert code == 2, line
    assert line.count("\n") == 1
    assert not Path("executed").exists()
    assert "trap" not in sys.modules
    return line


@pytest.mark.parametrize("target", ATTACKS)
def test_no_node_can_name_it_on_the_command_line(target: str, home: Path, command: Command) -> None:
    node = NODES[ATTACKS.index(target) % len(NODES)]
    assert target in refused(command, "train", *SMALL, f"{node}._target_={target}")


@pytest.mark.parametrize("node", NODES)
def test_no_node_of_any_group_can_name_it(node: str, home: Path, command: Command) -> None:
    assert "os.system is not allowed" in refused(command, "train", *SMALL, f"{node}._target_=os.system")


BELOW = [
    "backbone.norm={_target_: trap.run}",
    "backbone.blocks=[{_target_: trap.run}]",
    "dataset.train={_target_: trap.run}",
    "dataset.train.count={_target_: trap.run}",
    "dataset.classes=[{_target_: trap.run}]",
    "dataset.classes={_target_: trap.run}",
    "pipeline.size={_target_: trap.run}",
    "optimizer.lr={_target_: trap.run}",
    "task.levels=[{_target_: trap.run}]",
    "task.anchor_sizes=[[{_target_: trap.run}]]",
    "task.loss_weights.rpn_box={_target_: trap.run}",
    "+task.loss_weights._target_=trap.run",
    "task.requires=[{_target_: trap.run}]",
    "engine={_target_: trap.run}",
    "engine.ema={_target_: trap.run}",
    "loader.batch_size={_target_: trap.run}",
    "seed={_target_: trap.run}",
    "plugins={_target_: trap.run}",
    "+extra={_target_: trap.run}",
    "+optimizer._partial_=true",
    "+optimizer._args_=[1]",
    "+optimizer._recursive_=true",
    "+optimizer._convert_=all",
    "+hydra.callbacks.x={_target_: trap.run}",
    "+hydra.callbacks.x={_target_: hydra._internal.core_plugins.bash_completion.os.system}",
    "hydra.launcher._target_=trap.run",
    "hydra.sweeper._target_=trap.run",
]


@pytest.mark.parametrize("override", BELOW)
def test_no_value_anywhere_can_name_it(override: str, home: Path, command: Command) -> None:
    refused(command, "train", *SMALL, override)
    if "hydra" in override:
        refused(command, "train", "-m", *SMALL, override)


FILES = {
    "dataset/mine": "name: mine\n_target_: trap.run\n",
    "backbone/mine": "name: mine\n_target_: cvtasks.nn.backbones.tiny.tiny\nblocks: [{_target_: trap.run}]\n",
    "experiment/mine": "# @package _global_\noptimizer: {_target_: trap.run}\n",
    "experiment/hydra": "# @package _global_\nhydra: {callbacks: {x: {_target_: trap.run}}}\n",
    "experiment/log": "# @package _global_\nhydra: {job_logging: {root: {handlers: [x]}, version: 1, "
    "handlers: {x: {class: trap.run}}, formatters: {x: {(): trap.run}}}}\nseed: no\n",
    "experiment/tag": "# @package _global_\nseed: !!python/object/apply:os.system [touch executed]\n",
    "experiment/name": "# @package _global_\nseed: !!python/name:trap.run\n",
    "experiment/new": "# @package _global_\nseed: !!python/object/new:trap.run []\n",
}


@pytest.mark.parametrize("file", FILES)
def test_no_yaml_of_ones_own_can_name_it(file: str, home: Path, command: Command) -> None:
    path = home / "conf" / f"{file}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(FILES[file])
    group, name = file.split("/")
    refused(command, "train", *SMALL, "-cd", "conf", f"{group}={name}")


def laughs(depth: int = 30) -> str:
    """One value of 9 ** depth values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("bomb", [laughs(), "a: " + "[" * 5000, "a: " + "{a: " * 5000, "a: &a [*a]\n"])
def test_yaml_that_grows_or_goes_deep_ends_in_one_line(bomb: str, home: Path, command: Command) -> None:
    for folder in ("conf/experiment", "run/checkpoints"):
        (home / folder).mkdir(parents=True)
    (home / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\n" + bomb)
    refused(command, "train", *SMALL, "-cd", "conf", "experiment=mine")
    (home / "run" / "config.yaml").write_text(bomb)
    (home / "run" / "checkpoints" / "best.pt").touch()
    refused(command, "eval", "run=run")


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(config: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return apply


TRAP = {"_target_": "trap.run"}
STORED: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"{node}._target_": change(f"{node}/_target_", "trap.run") for node in NODES},
    **{f"{node}.name": change(f"{node}/name", TRAP) for node in NODES},
    "a class": change("dataset/classes", [TRAP]),
    "a loss weight": change("task/loss_weights", TRAP),
    "one loss weight": change("task/loss_weights/rpn_box", TRAP),
    "a number in a list": change("task/anchor_sizes", [[TRAP]]),
    "weights": change("weights", TRAP),
    "backbone weights": change("backbone/weights", TRAP),
    "run_dir": change("run_dir", TRAP),
    "seed": change("seed", TRAP),
    "engine": change("engine", TRAP),
    "loader": change("loader/workers", TRAP),
    "partial": change("optimizer/_partial_", True),
    "args": change("optimizer/_args_", ["trap"]),
    "hydra": change("hydra", {"callbacks": {"x": TRAP}}),
    "defaults": change("defaults", [{"/task@_global_.hydra.callbacks": "checkpoint"}]),
    # The hole that was: Hydra took this list from the node, and built what it put below hydra.callbacks.
    "defaults of a node": change(
        "scheduler/defaults", [{"/optimizer@_global_.hydra.callbacks.x": "checkpoint"}, "_self_"]
    ),
    "another package": change("scheduler@_global_.hydra.callbacks.x", TRAP),
    "plugins": lambda config: config.update(plugins=["trap"], task=config["task"] | TRAP),
    "+plugins": change("+plugins", ["trap"]),
    "the user's environment": change("device", "${oc.env:HOME}"),
    "the user's environment in a name": change("dataset/name", "${oc.env:HOME}"),
    "the user's environment as a class": change("dataset/classes", ["${oc.env:HOME}"]),
    "a name in a name": change("dataset/root", "${oc.env:${seed}}"),
    "another resolver": change("dataset/root", "${oc.decode:${oc.env:HOME}}"),
    "Hydra's resolver": change("dataset/root", "${hydra:runtime.cwd}"),
    "an interpolated key": change("dataset/train", {"${oc.env:HOME}": 1}),
}


@cache
def sound() -> dict[str, Any]:
    return compose("train", [*SMALL, *SHAPES])


SOURCES = ("checkpoint", "run")


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        *((name, SOURCES[number % 2]) for number, name in enumerate(STORED)),
        *(pytest.param(name, SOURCES, marks=pytest.mark.slow) for name in STORED),
    ],
)
def test_no_run_and_no_checkpoint_can_name_it(
    name: str, sources: str | tuple[str, ...], home: Path, command: Command
) -> None:
    config = copy.deepcopy(sound())
    STORED[name](config)
    text = yaml.safe_dump(config, sort_keys=False)
    content = {"config": text, "task": "x", "classes": {"names": ["a"], "skeleton": []}, "step": 1}
    for file in ("best.pt", "last.pt"):
        checkpoint.save(home / "run" / "checkpoints" / file, content | {"model": {"a": torch.ones(1)}})
    (home / "run" / "config.yaml").write_text(text)
    Path("photo.png").touch()
    if "checkpoint" in sources:
        refused(command, "eval", "checkpoint=run/checkpoints/best.pt", "run_dir=out")
    if "run" in sources:
        refused(command, "resume", "run")
    if "defaults" in name:
        refused(command, "eval", "run=run")
        refused(command, "eval", "-m", "run=run", "loader.batch_size=1,2")
        refused(command, "predict", "run=run", "source=photo.png", "output=out")
    assert not (home / "out").exists()


def test_what_a_run_was_allowed_to_import_its_checkpoint_is_not(home: Path, command: Command) -> None:
    """A module that is imported already, as a plug-in of another command, opens no door either."""
    (home / "mine.py").write_text("def sgd(*, params, lr: float = 0.1): ...\n")
    use_plugins(["mine"])
    locate("mine.sgd")
    config = sound() | {"plugins": ["mine"]}
    config["optimizer"] = {"name": "x", "_target_": "mine.sgd", "lr": 0.1}
    (home / "run" / "checkpoints").mkdir(parents=True)
    (home / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (home / "run" / "checkpoints" / "best.pt").touch()
    assert "mine.sgd is not allowed" in refused(command, "eval", "run=run")
    assert os.listdir(home / "run" / "checkpoints") == ["best.pt"]
