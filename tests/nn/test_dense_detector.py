"""Oracle: numbers worked out by hand. That the parts make up torchvision's detectors: tests/models/test_retinanet.py."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou_loss

from cvtasks.nn.dense_detector import (
    AnchorGrid,
    Assignment,
    BestOfEachLevel,
    DenseDetector,
    IouMatching,
    box_losses,
    flatten_maps,
)
from cvtasks.nn.suppression import Suppression
from cvtasks.ops.coders import decode
from cvtasks.types import Batch


class Passing(nn.Module):
    """Backbone and neck of a network that has none: the image is its map."""

    def normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        return images.float()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"fine": images[..., ::8, ::8], "coarse": images[..., ::16, ::16]}


class Remembering(nn.Module):
    """A head that says what it is told to."""

    class_layers = ("scores", "more")

    def __init__(self, scores: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.answer = scores, offsets

    def forward(self, maps: Any) -> tuple[Tensor, Tensor]:
        return self.answer


class CountedGrid(AnchorGrid):
    laid = 0

    def forward(self, image: Any, grids: Any) -> list[Tensor]:
        self.laid += 1
        return super().forward(image, grids)


def detector(scores: Tensor, offsets: Tensor, **settings: Any) -> DenseDetector:
    parts = {
        "matching": IouMatching(),
        "criterion": lambda scores, offsets, assigned: {"assigned": assigned},
        "choice": BestOfEachLevel(),
        "suppression": Suppression(),
    } | settings
    passing: Any = Passing()
    return DenseDetector(
        passing, nn.Identity(), Remembering(scores, offsets), CountedGrid([[8], [16]], [1.0]), **parts
    )


def batch(side: int = 32, **fields: Any) -> Batch:
    sizes = torch.tensor([[side, side], [side, side // 2]])
    return Batch(
        images=torch.zeros(2, 3, side, side, dtype=torch.uint8),
        sizes=sizes,
        orig_sizes=sizes * torch.tensor([3, 2]),
        image_ids=[0, 1],
        **fields,
    )


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_flattened_maps_lie_level_by_level_row_by_row_and_the_kinds_of_a_position_side_by_side(
    kinds: int, columns: int, channels_last: bool
) -> None:
    sides = ((3, 5), (2, 1))
    maps = [torch.randn(2, kinds * columns, h, w) for h, w in sides]
    given_maps = [x.contiguous(memory_format=torch.channels_last) if channels_last else x for x in maps]
    rows = [
        x[:, k * columns : (k + 1) * columns, y, z]
        for x, (h, w) in zip(maps, sides, strict=True)
        for y in range(h)
        for z in range(w)
        for k in range(kinds)
    ]
    assert torch.equal(flatten_maps(given_maps, columns), torch.stack(rows, 1))


def test_the_choice_is_the_best_pairs_of_each_level_not_of_the_image() -> None:
    scores = torch.tensor([[[5.0, 4], [3, 2], [0, -1], [-2, 1]]])
    found = BestOfEachLevel(3)(scores, [2, 2])
    assert_close(found.scores, torch.tensor([[5.0, 4, 3, 1, 0, -1]]).sigmoid())
    assert found.index.tolist() == [[0, 0, 1, 3, 2, 2]]
    assert found.labels.tolist() == [[0, 1, 0, 1, 0, 1]]
    # A level that has fewer gives all it has.
    assert BestOfEachLevel(3)(scores, [1, 3]).index.tolist()[0][:2] == [0, 0]


def test_an_anchor_is_positive_negative_in_between_or_ignored_with_its_own_objects_class_and_box() -> None:
    """Of 20 anchors: two objects on anchors 5 and 17 (the coarse level's second), and a crowd at the bottom."""
    boxes = torch.tensor([[[4.0, 4, 12, 12], [8, -8, 24, 8], [-4, 20, 32, 32]]]).repeat(2, 1, 1)
    fields = {
        "boxes": boxes,
        "labels": torch.tensor([[3, 1, 2], [3, 1, 2]]),
        "valid": torch.tensor([[True] * 3, [False] * 3]),
        "ignore": torch.tensor([[False, False, True]] * 2),
    }
    model = detector(torch.zeros(2, 20, 4), torch.zeros(2, 20, 4))
    assigned: Any = model.losses(batch(**fields))["assigned"]
    assert assigned.anchors.shape == (20, 4)
    assert assigned.positive[0].nonzero().flatten().tolist() == [5, 17]
    assert assigned.labels[0, [5, 17]].tolist() == [3, 1]
    assert torch.equal(assigned.boxes[0, [5, 17]], boxes[0, :2])
    left_out = ~assigned.positive[0] & ~assigned.negative[0]
    # The crowd holds the fine level's last row, and a third of the coarse level's.
    assert left_out.nonzero().flatten().tolist() == [12, 13, 14, 15]
    assert not assigned.positive[1].any()
    assert assigned.negative[1].all()


def test_anchors_are_laid_once_for_each_shape_of_images() -> None:
    model = detector(torch.zeros(2, 20, 4), torch.zeros(2, 20, 4))
    first = model.lay_anchors(model.maps(batch()), batch())
    assert model.lay_anchors(model.maps(batch()), batch()) is first
    assert model.anchors.laid == 1  # type: ignore[attr-defined]
    larger = model.lay_anchors(model.maps(batch(64)), batch(64))
    assert [len(each) for each in larger] == [64, 16]
    assert model.state_dict() == {}


def test_detections_are_decoded_cut_off_suppressed_within_a_class_and_stretched_to_the_files_pixels() -> None:
    scores, offsets = torch.full((2, 20, 2), -9.0), torch.zeros(2, 20, 4)
    # Anchors 5 (4, 4, 12, 12) and 6 (12, 4, 20, 12), moved onto each other; of one class, then of two.
    offsets[:, 6, 0] = -0.9 * 2
    scores[0, 5, 0], scores[0, 6, 0], scores[1, 5, 0], scores[1, 6, 1] = 2, 1, 2, 3
    # The last of the coarse level reaches over the border: (8, 8, 24, 24).
    scores[1, 19, 1] = 0
    one, other = detector(scores, offsets, coder_weights=(2.0, 2, 1, 1)).predict(batch())
    assert one["boxes"].tolist() == [[8, 12, 24, 36]]
    assert_close(one["scores"], torch.tensor([2.0]).sigmoid())
    assert other["labels"].tolist() == [1, 0, 1]
    assert_close(other["boxes"][1:], torch.tensor([[8.0, 12, 24, 36], [16, 24, 32, 72]]))


def test_the_layers_of_classes_are_the_heads() -> None:
    assert detector(torch.zeros(1), torch.zeros(1)).class_layers == ["head.scores.", "head.more."]


def test_box_losses_are_of_offsets_or_of_decoded_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 15]])
    boxes = torch.tensor([[[1.0, 0, 11, 10], [5, 5, 45, 15]]])
    offsets = torch.randn(1, 2, 4, generator=generator) / 5
    flags = torch.ones(1, 2, dtype=torch.bool)
    assigned = Assignment(anchors, flags, ~flags, flags.long(), boxes)
    weights = torch.tensor([10.0, 10, 5, 5])
    targets = torch.tensor([[[1.0, 0, 0, 0], [5.0, 0, 5 * torch.tensor(2.0).log(), 0]]])
    l1 = box_losses(offsets, assigned, kind="l1", coder_weights=weights)
    assert_close(l1, (offsets - targets).abs().sum(2))
    giou = box_losses(offsets, assigned, kind="giou", coder_weights=weights)
    assert_close(giou, generalized_box_iou_loss(decode(offsets, anchors, weights), boxes))
