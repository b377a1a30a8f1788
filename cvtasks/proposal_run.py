"""The verb `proposals`: the proposals of a split, how many of its objects they find, and what they cost.

Leaves proposals.json, which `proposals=file` reads, metrics.json, config.yaml and plots/ in one folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch

from cvtasks.assembly import Config, as_yaml, open_reader
from cvtasks.data.loader import cores
from cvtasks.data.proposal_files import own_form
from cvtasks.data.proposals import ComputedProposals, GivenProposals, WithProposals, computed, within
from cvtasks.engine.checkpoint import write_atomically
from cvtasks.engine.progress import Progress
from cvtasks.engine.run import RUNS, new_folder, write_json
from cvtasks.errors import ConfigError
from cvtasks.metrics.proposals import THRESHOLDS, ProposalRecall, overlaps
from cvtasks.metrics.tables import as_lines
from cvtasks.proposals.cache import Proposed
from cvtasks.viz import report
from cvtasks.viz.overlays import contact_sheet, draw

REQUIRES = ["boxes", "labels", "ignore", "proposals"]


def propose(cfg: Config) -> None:
    """Compute, judge and write the proposals of one split."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("cvtasks proposals uses all cores by itself: start it without torchrun")
    name = cfg["proposals"]["name"]
    reader = open_reader(cfg | {"task": {"requires": REQUIRES}}, cfg["split"])
    assert isinstance(reader, WithProposals)
    folder = Path(cfg["run_dir"]) if cfg["run_dir"] else new_folder(RUNS / "proposals" / name)
    folder.mkdir(parents=True, exist_ok=True)
    images = min(len(reader), cfg["images"] or len(reader))

    recall, kept, seconds = ProposalRecall(), list[np.ndarray](), list[float]()
    bar = Progress(images, title=name, unit="image")
    with bar as progress, contextlib.closing(_each(reader, images)) as found:
        for index, proposed in enumerate(found):
            truth = reader.truth(index)
            kept.append(within(proposed.boxes, truth["orig_size"]))
            seconds.append(proposed.seconds)
            recall.update(kept[-1], truth)
            progress.advance()
    metrics = recall.compute()
    if isinstance(reader, ComputedProposals):
        metrics["proposals/seconds_median"] = float(np.median(seconds)) if seconds else float("nan")
        metrics["proposals/seconds_mean"] = float(np.mean(seconds)) if seconds else float("nan")

    for note in reader.notes:
        print(note)
    print(f"{name} on {cfg['dataset']['name']}, {images} images")
    write_atomically(folder / "config.yaml", as_yaml(cfg).encode())
    about = {"method": name, "dataset": cfg["dataset"]["name"], "split": cfg["split"]}
    write_atomically(folder / "proposals.json", *(part.encode() for part in own_form(reader, kept, about)))
    (folder / "plots").mkdir(exist_ok=True)
    report.draw_evaluation(recall.plot_data(), folder / "plots")
    _draw(reader, kept[: cfg["pictures"]], folder / "plots" / "proposals.png")
    write_json(folder / "metrics.json", metrics)  # the last: where it is, all is
    for line in as_lines(metrics):
        print(line)
    print(f"written: {folder / 'metrics.json'}")
    print(f"to use them elsewhere: proposals=file proposals.{cfg['split']}={folder / 'proposals.json'}")


def _each(reader: WithProposals, images: int) -> Generator[Proposed, None, None]:
    if isinstance(reader, ComputedProposals):
        yield from computed(reader, range(images), workers=cores())
    elif isinstance(reader, GivenProposals):
        yield from (Proposed(reader.of(index), float("nan")) for index in range(images))


def _draw(reader: WithProposals, kept: Sequence[np.ndarray], path: Path) -> None:
    """Truth beside the proposal that fits each object best, with its IoU in the place of a score; none below 0.5."""
    pictures, titles = [], []
    for index, boxes in enumerate(kept):
        sample = reader.reader[index]
        overlap = overlaps(boxes, sample["boxes"].double().numpy())
        shown = {"boxes": torch.zeros(0, 4), "labels": sample["labels"][:0], "scores": torch.zeros(0)}
        if overlap.size:
            best = torch.from_numpy(overlap.max(axis=0))
            hit = (best >= THRESHOLDS[0]) & ~sample["ignore"]
            chosen = torch.from_numpy(boxes[overlap.argmax(axis=0)])
            shown = {"boxes": chosen[hit], "labels": sample["labels"][hit], "scores": best[hit]}
        pictures += [draw(sample["image"], sample, reader.classes)]
        pictures += [draw(sample["image"], shown, reader.classes)]
        titles += [f"{sample['image_id']}: truth", f"found by {len(boxes)} proposals, with IoU"]
    if pictures:
        contact_sheet(pictures, titles, columns=4).save(path)
