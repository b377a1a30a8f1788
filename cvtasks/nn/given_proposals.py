"""Proposals that come with the batch, from a method that does not learn here (selective search, EdgeBoxes, a file).

The proposer of R-CNN, SPP-net and Fast R-CNN.
"""

from __future__ import annotations

from torch import Tensor, nn

from cvtasks.nn.regions import Maps, Proposals
from cvtasks.ops.boxes import clip
from cvtasks.types import Batch


class GivenProposals(nn.Module):
    """A `Proposer` of what `Batch.proposals` [B, P, 4] holds, best first; an empty box is padding.

    An image without proposals has no detections; in training its true boxes teach all the same.
    """

    def learn(self, maps: Maps, batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        return self.propose(maps, batch), {}

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        assert batch.proposals is not None, "the task's YAML has to say requires: [..., proposals]"
        boxes = clip(batch.proposals.float(), batch.sizes)
        return Proposals(boxes, (boxes[..., 2:] > boxes[..., :2]).all(-1))
