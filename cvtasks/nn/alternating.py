"""Faster R-CNN's 4-step alternating training (Ren et al., NIPS 2015, section 3.2).

1. The proposal network learns on a copy of the initial backbone.
2. The detection network learns from its proposals, with a backbone that begins as the initial one: nothing is shared yet.
3. The proposal network begins anew on the detection network's maps, which stay as they are.
4. The detection head learns from these proposals, on the same maps: now both share them.

Proposals are made as they are needed, by a proposal network that does not learn then; the paper wrote them to files.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import Maps, Proposals
from cvtasks.nn.rpn import RegionProposalNetwork
from cvtasks.types import Batch, Prediction


class AlternatingDetector(RegionDetector):
    """A `RegionDetector` with a proposal network that trains in stages (`types.StagedModel`)."""

    proposer: RegionProposalNetwork
    stage_number: Tensor
    stages = ("1 proposals", "2 detection", "3 proposals, shared maps", "4 detection, shared maps")

    def __init__(self, backbone: Backbone, neck: nn.Module, *parts: Any, **more: Any) -> None:
        super().__init__(backbone, neck, *parts, **more)
        # Of no use after the second step, but a checkpoint of any step has to fit.
        self.first = nn.ModuleDict({"backbone": copy.deepcopy(backbone), "neck": copy.deepcopy(neck)})
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.int64))

    @property
    def stage(self) -> int:
        return int(self.stage_number)

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> None:
        """Let the parts of step `index` + 1 train, and no others."""
        if index == 2:
            self.proposer.begin_anew()
        self.stage_number.fill_(index)
        self.requires_grad_(False)
        for part in self._learning:
            part.requires_grad_(True)
            if isinstance(part, Backbone) and part.frozen:
                part.freeze(part.frozen[-1])
        self.train(self.training)

    def train(self, mode: bool = True) -> AlternatingDetector:
        super().train(mode)
        learning = self._learning
        for part in (self.backbone, self.neck, self.proposer, self.heads, *self.first.values()):
            if part not in learning:
                part.eval()
        return self

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the part that learns; the other's are zero."""
        if self.stage in (0, 2):
            losses = self.proposer.learn(self._proposing_maps(batch), batch)[1]
            names = ("classification", "box_regression")
        else:
            with torch.no_grad():
                proposals = self.proposer.learn(self._proposing_maps(batch), batch)[0]
            losses = self.head_losses(self.maps(batch), proposals, batch)
            names = ("rpn_objectness", "rpn_box")
        return losses | {name: torch.zeros((), device=batch.images.device) for name in names}

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        return self.proposer.propose(maps if self.stage >= 2 else self._proposing_maps(batch), batch)

    def _proposing_maps(self, batch: Batch) -> Maps:
        """What the proposal network reads: maps of its own until step 3."""
        if self.stage >= 2:
            return self.maps(batch)
        pixels = self.backbone.normalize(batch.images, batch.sizes)
        maps: Maps = self.first["neck"](self.first["backbone"](pixels))
        return maps

    @property
    def _learning(self) -> list[nn.Module]:
        steps: list[list[nn.Module]] = [
            [*self.first.values(), self.proposer],
            [self.backbone, self.neck, self.heads],
            [self.proposer],
            [self.heads],
        ]
        return steps[self.stage]
