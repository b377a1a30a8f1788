"""Where a task's proposals come from: what `proposals=` names is built, fitted if it learns, put into readers, and run.

Takes nodes of the resolved configuration as plain dicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from cvtasks.config.build import build
from cvtasks.config.schema import ProposalsNode
from cvtasks.data.loader import cores
from cvtasks.data.proposal_files import ProposalFiles
from cvtasks.data.proposals import ComputedProposals, GivenProposals, WithProposals, computed, pixels
from cvtasks.engine.distributed import Processes
from cvtasks.engine.progress import Progress
from cvtasks.errors import ConfigError, WeightsError
from cvtasks.proposals.cache import FittedMethods, ProposalCache, cache_folder, fits
from cvtasks.proposals.method import Method, Trained, learned
from cvtasks.types import Reader, Split

OWN_KEYS = {f.name for f in dataclasses.fields(ProposalsNode)} - {"name", "_target_"}
"""What the node says beside its constructor's arguments"""
Learned = Mapping[str, Any]
"""What a checkpoint holds of a fitted method: its class as `method`, and `arrays` of tensors by the names of its fields"""


def with_proposals(
    node: Mapping[str, Any],
    reader: Reader,
    split: Split,
    *,
    training: Callable[[], Reader],
    stored: Learned | None,
) -> WithProposals:
    """The reader with proposals from `node`.

    stored: the checkpoint's `learned_by`. training: opens the training split; a method that learns, and that the
    checkpoint does not know, is fitted to it.
    """
    method = _built(node)
    if isinstance(method, ProposalFiles):
        return GivenProposals(reader, *method.match(split, reader))
    folder, notes = cache_folder(node["cache"]), []
    if isinstance(method, Trained):
        fitted = _restored(node, method, stored)
        if fitted is None:
            fitted, count = _fitted(method, training(), node)
            notes = [f"proposals: {node['name']} is fitted to {count} training images"]
        method = fitted
    return ComputedProposals(reader, ProposalCache(method, folder), notes)


def of_photos(node: Mapping[str, Any], stored: Learned | None) -> ProposalCache:
    """For images without a data set. Raises ConfigError where their proposals cannot be computed."""
    method, choose = _built(node), "choose a method (cvtasks list proposals)"
    if isinstance(method, ProposalFiles):
        raise ConfigError(
            f"proposals=file holds none of these images; {choose}, such as proposals=selective_search"
        )
    if isinstance(method, Trained):
        fitted = _restored(node, method, stored)
        if fitted is None:
            raise ConfigError(
                f"proposals={node['name']} learns from training images, and this model was trained with others; leave "
                f"it out, or {choose}"
            )
        method = fitted
    return ProposalCache(method, cache_folder(node["cache"]))


def learned_by(node: Mapping[str, Any], reader: Reader) -> Learned | None:
    """What a checkpoint needs, so that the reader's proposals can be computed on any machine; None: nothing."""
    if not isinstance(reader, ComputedProposals) or not (arrays := learned(reader.cache.method)):
        return None
    return {
        "method": node["_target_"],
        "arrays": {name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
    }


def compute_missing(*splits: tuple[Reader, int], processes: Processes, say: Callable[[str], None]) -> None:
    """Compute the proposals of the first images of each split that are not cached, with all cores; then all go on.

    Each process takes its share. A machine that has not got another one's cache computes the rest as it reads.
    """
    # The same reader may come twice, where a run learns by heart what it is judged on.
    most = {id(reader): max(n for r, n in splits if r is reader) for reader, _ in splits}
    readers = {id(r): r for r, _ in splits if isinstance(r, ComputedProposals)}
    jobs = [(r, range(processes.rank, most[key], processes.world)) for key, r in readers.items()]
    if not jobs:
        return
    total = sum(len(indices) for _, indices in jobs)
    with Progress(total, title="proposals", unit="image", say=say, shown=processes.first) as progress:
        for reader, indices in jobs:
            for _ in computed(reader, indices, workers=cores() // processes.local_world):
                progress.advance()
    processes.gather(None)


def _built(node: Mapping[str, Any]) -> Any:
    built = build({key: value for key, value in node.items() if key not in OWN_KEYS})
    if isinstance(built, ProposalFiles) or (dataclasses.is_dataclass(built) and isinstance(built, Method)):
        return built
    raise ConfigError(
        f"proposals._target_: {node['_target_']} makes no proposal method (cvtasks/proposals/method.py)"
    )


def _restored(node: Mapping[str, Any], method: Any, stored: Learned | None) -> Any | None:
    """The method with what a checkpoint holds of it; None where it was another one's."""
    if not isinstance(stored, Mapping) or stored.get("method") != node["_target_"]:
        return None
    try:
        arrays = {str(name): tensor.numpy() for name, tensor in stored["arrays"].items()}
    except (AttributeError, KeyError, TypeError):
        arrays = {}
    if not fits(method, arrays):
        raise WeightsError(
            f"what the checkpoint holds of proposals={node['name']} is damaged; use another checkpoint"
        )
    return dataclasses.replace(method, **arrays)


def _fitted(method: Any, reader: Reader, node: Mapping[str, Any]) -> tuple[Any, int]:
    """The method fitted to images of the training split, or what it learned from the same ones before; and how many."""
    count = min(len(reader), node["fit_images"])
    chosen = np.linspace(0, len(reader) - 1, count).round().astype(int).tolist()

    def labelled() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in chosen:
            truth = reader.truth(index)
            boxes = np.asarray(truth["boxes"], np.float64).reshape(-1, 4)
            counted = ~np.asarray(truth.get("ignore", np.zeros(len(boxes))), bool)
            yield pixels(reader[index]["image"]), boxes[counted]

    fitted_methods = FittedMethods(method, labelled(), cache_folder(node["cache"]))
    found = fitted_methods.stored()
    if found is None:
        with Progress(count, title=f"fit {node['name']}", unit="image") as progress:
            found = fitted_methods.fit(_counted(labelled(), progress))
    return found, count


def _counted(items: Iterator[Any], progress: Progress) -> Iterator[Any]:
    for item in items:
        yield item
        progress.advance()
