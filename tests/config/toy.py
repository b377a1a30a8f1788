"""A user's own folder: a module with a model, and YAML for it. What `plugins` and `-cd` are for."""

from __future__ import annotations

from pathlib import Path

MODULE = '''
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict

from cvtasks.config.schema import Range


class Options(TypedDict, total=False):
    depth: int


class Toy:
    """A model that is never trained."""

    def __init__(
        self,
        *,
        backbone: Any,
        classes: Any,
        channels: Annotated[int, Range(min=1)] = 8,
        kind: Literal["plain", "fancy"] = "plain",
        ratios: Sequence[float] = (0.5, 1.0),
        slope: Annotated[float, Range(above=0, below=1)] | None = None,
        options: Options | None = None,
        extra: dict[str, float] | None = None,
    ) -> None:
        self.arguments = dict(locals())
'''
TASK = """\
# @package _global_
# A toy for tests
task:
  name: toy
  _target_: toy_model.Toy
  requires: [boxes, labels]
  monitor: box/AP
  loss_weights: {first: 1.0, second: 2.0}
  channels: 8
  kind: plain
  ratios: [0.5, 1.0]
  slope: null
  options: {depth: 2}
  extra: {}
plugins: [toy_model]
"""
RECIPES = {
    "toy_shapes": """\
# @package _global_
# Toy on shapes
defaults:
  - override /backbone: tiny
  - override /optimizer: sgd
optimizer: {lr: 0.03, momentum: 0.8}
loader: {batch_size: 4}
engine: {max_steps: 100}
""",
    "toy_voc": """\
# @package _global_
defaults:
  - override /backbone: resnet50
  - override /scheduler: multi_step
optimizer:
  lr: ${scale:0.02,${loader.batch_size},16}
scheduler:
  milestones: [0.25]
engine:
  max_steps: ${scale_steps:90000,16,${loader.batch_size}}
loader:
  batch_size: 6
""",
}


def write_user_folder(folder: Path) -> None:
    """`folder/toy_model.py` and `folder/conf/{task,recipe}/*.yaml`."""
    (folder / "toy_model.py").write_text(MODULE)
    for group, files in {"task": {"toy": TASK}, "recipe": RECIPES}.items():
        for name, text in files.items():
            write_yaml(folder, f"{group}/{name}", text)


def write_yaml(folder: Path, name: str, text: str) -> None:
    file = folder / "conf" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_run(folder: Path, config: str) -> Path:
    """A run's folder as `eval` finds it; the checkpoint's own content is not looked at."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.pt").touch()
    (folder / "config.yaml").write_text(config)
    return folder
