"""Which backbone serves which task: every pair is built, learns from two small images, and predicts.

    python scripts/backbone_table.py                                    all pairs, into docs/backbones.md; half an hour
    python scripts/backbone_table.py --backbones lenet vgg16 --tasks ssd    these anew, the others as they stand there
    python scripts/backbone_table.py --backbones lenet --print          what these say, without writing

A pair is what a user types, `cvtasks train task=T backbone=B`, with the recipe for generated scenes where the task has
one. It serves if the losses are finite, have gradients, and images are predicted; not, if that ends in a ConfigError.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch

from cvtasks import assembly
from cvtasks.config.build import build
from cvtasks.config.compose import compose
from cvtasks.config.locate import conf_dirs, options
from cvtasks.data.collate import collate
from cvtasks.engine.seeding import seed_all
from cvtasks.engine.terms import Terms
from cvtasks.errors import ConfigError
from cvtasks.types import Batch

FILE = Path(__file__).parent.parent / "docs" / "backbones.md"
SMALL = ("dataset.train.count=2", "dataset.val.count=1", "device=cpu", "loader.batch_size=2")
LIGHT = {
    "head_channels": 64,
    "fc_channels": 64,
    "fc_kernel": 1,
    "roi_samples": 16,
    "rpn_proposals_train": 50,
    "rpn_proposals_test": 20,
    "crop_size": 96,
    "hidden": 16,
    "samples": 16,
}
"""Settings of a task, if it has them, that do not decide whether a backbone fits"""
SERVES, REFUSES = "yes", "-"
HEAD = """\
# Backbones and tasks

Which `backbone=` serves which `task=`, as `cvtasks train task=T backbone=B` and the recipe for generated scenes say it.
Made by `python scripts/backbone_table.py`, held by `tests/test_backbone_table.py`. `torchvision` and `timm` stand for
any network of theirs, and were tried with the one that is their default. A pair without a "yes" says why, below;
often another setting of the task (`task.levels`, `task.level`) makes it fit.
"""

Reasons: TypeAlias = dict[tuple[str, str], str]
"""(task, backbone) -> why it does not serve; "" if it does"""


def tasks() -> list[str]:
    return list(options("task", conf_dirs(None)))


def backbones() -> list[str]:
    return list(options("backbone", conf_dirs(None)))


def reason(task: str, backbone: str) -> str:
    """What a ConfigError says of the pair; "" if there is none."""
    try:
        _try(task, backbone)
    except ConfigError as error:
        return str(error)
    return ""


def _try(name: str, backbone: str) -> None:
    typed = [f"task={name}", f"backbone={backbone}", *SMALL]
    node = compose("train", typed)["task"]
    light = {key: value for key, value in LIGHT.items() if isinstance(node.get(key), int)}
    cfg = compose("train", [*typed, *_scene(node["requires"]), *(f"task.{k}={v}" for k, v in light.items())])
    seed_all(0)
    fields = frozenset(node["requires"]) - {"proposals"}
    reader = build(cfg["dataset"], split="train", fields=fields)
    task = assembly.build_task(cfg, reader.classes, reader.classes)
    transform = assembly.build_transform(cfg, reader, train=False)
    batch = collate([transform(reader[i]) for i in range(2)], truth=[reader.truth(i) for i in range(2)])
    if "proposals" in node["requires"]:
        batch.proposals = _anywhere(batch)
    terms = Terms(task.loss_weights, torch.device("cpu"))
    total = terms.total(terms.stack(task.model.losses(batch)))
    assert total.isfinite(), f"task={name} backbone={backbone}: the loss is {total}"
    total.backward()
    grads = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert grads, f"task={name} backbone={backbone}: no gradients"
    assert all(grad.isfinite().all() for grad in grads), f"task={name} backbone={backbone}: gradients"
    predictions = task.model.eval().predict(batch)
    assert len(predictions) == 2


def _scene(requires: Iterable[str]) -> list[str]:
    """The scene of generated images that has these labels."""
    if "keypoints" in requires:
        return ["dataset.scene=pose"]
    return ["dataset.scene=localization"] if "label" in requires else []


def _anywhere(batch: Batch) -> torch.Tensor:
    """The objects as proposals, and boxes beside them: [B, P, 4]."""
    assert batch.boxes is not None
    width = batch.images.shape[-1]
    corners = torch.rand(len(batch), 20, 2) * width / 2
    return torch.cat([batch.boxes, torch.cat([corners, corners + width / 3], -1)], 1)


def read(file: Path = FILE) -> Reasons:
    """What the file says; {} if there is none."""
    if not file.exists():
        return {}
    found: Reasons = {}
    text = file.read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", text, re.M)
    ]
    head, _, *rest = rows
    for name, *cells in rest:
        found |= {
            (task, name): "" if cell == SERVES else "?" for task, cell in zip(head[1:], cells, strict=True)
        }
    for task, names, why in re.findall(r"^- `task=(\S+)` with (.*?): (.*)$", text, re.M):
        found |= {(task, name): why for name in names.replace("`", "").split(", ")}
    return found


def table(found: Reasons) -> str:
    """The file's text."""
    columns, rows = sorted({task for task, _ in found}), sorted({name for _, name in found})
    lines = [f"| | {' | '.join(f'`{task}`' for task in columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name in rows:
        cells = [REFUSES if found[task, name] else SERVES for task in columns]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([HEAD, *lines, "", "## Why not", "", *_reasons(found, columns, rows), ""])


def _reasons(found: Mapping[tuple[str, str], str], columns: list[str], rows: list[str]) -> Iterator[str]:
    for task in columns:
        why: dict[str, list[str]] = {}
        for name in rows:
            if found[task, name]:
                why.setdefault(found[task, name], []).append(f"`{name}`")
        yield from (f"- `task={task}` with {', '.join(names)}: {text}" for text, names in why.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=backbones(), choices=backbones(), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=tasks(), choices=tasks(), metavar="NAME")
    parser.add_argument("--print", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    found = read()
    before = {name for _, name in found}
    for name in arguments.backbones:
        for task in arguments.tasks:
            found[task, name] = reason(task, name)
            print(f"task={task} backbone={name}: {found[task, name] or SERVES}", flush=True)
        whole = [b for b in backbones() if all((t, b) in found for t in tasks())]
        if not arguments.print and before & set(backbones()) <= set(whole):
            FILE.parent.mkdir(exist_ok=True)
            FILE.write_text(table({(t, b): found[t, b] for t in tasks() for b in whole}), encoding="utf-8")


if __name__ == "__main__":
    main()
