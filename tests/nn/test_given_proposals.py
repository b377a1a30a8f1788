"""Given proposals are taken as they are: clipped, and told from padding."""

import torch

from cvtasks.nn.given_proposals import GivenProposals
from cvtasks.types import Batch


def batch_of(proposals: torch.Tensor) -> Batch:
    sizes = torch.tensor([[50, 60]]).expand(len(proposals), -1)
    return Batch(
        torch.zeros(len(proposals), 3, 64, 64), sizes, sizes, [*range(len(proposals))], proposals=proposals
    )


def test_they_are_clipped_to_their_image_and_what_is_empty_then_is_padding() -> None:
    rows = [[10.0, 5, 20, 9], [-5, -5, 90, 90], [60, 10, 64, 20], [30, 30, 30, 40], [0, 0, 0, 0]]
    found = GivenProposals().propose({}, batch_of(torch.tensor([rows])))
    assert found.boxes[0, :2].tolist() == [[10, 5, 20, 9], [0, 0, 60, 50]]
    assert found.valid.tolist() == [[True, True, False, False, False]]


def test_for_learning_they_are_the_same_and_there_is_no_loss() -> None:
    batch = batch_of(torch.rand(2, 7, 4) * 50)
    proposals, losses = GivenProposals().learn({}, batch)
    again = GivenProposals().propose({}, batch)
    assert losses == {}
    assert torch.equal(proposals.boxes, again.boxes)
    assert torch.equal(proposals.valid, again.valid)
