"""Oracle: overlaps and losses that are worked out by hand. Random drawing itself: tests/ops/test_sampling.py."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cvtasks.nn.region_sampling import HardExampleMining, RandomSampling, label_regions
from cvtasks.nn.regions import Maps, Proposals, Samples
from cvtasks.types import Batch

OBJECT = torch.tensor([0.0, 0, 10, 10])
# Boxes of the object's height and y, from x = 0 on: of width w <= 10 they overlap it by w / 10.
IOU_1, IOU_0_6, IOU_0_5, IOU_0_4, IOU_0_1, IOU_0_05 = (
    torch.tensor([0.0, 0, w, 10]) for w in (10, 6, 5, 4, 1, 0.5)
)
FAR = torch.tensor([50.0, 50, 60, 60])


def batch_of(
    objects: Tensor, *, valid: list[list[bool]] | None = None, ignore: list[list[bool]] | None = None
) -> Batch:
    images, count = objects.shape[:2]
    sizes = torch.tensor([[64, 64]]).expand(images, -1)
    return Batch(
        torch.zeros(images, 3, 64, 64),
        sizes,
        sizes,
        [*range(images)],
        valid=torch.tensor(valid) if valid else torch.ones(images, count, dtype=torch.bool),
        boxes=objects,
        labels=torch.zeros(images, count, dtype=torch.int64),
        ignore=torch.tensor(ignore) if ignore else None,
    )


def proposals_of(*boxes: Tensor) -> Proposals:
    return Proposals(torch.stack(boxes)[None], torch.ones(1, len(boxes), dtype=torch.bool))


class Told:
    """A head whose losses are given, region by region in the order of proposals and true boxes."""

    def __init__(self, *losses: list[float]) -> None:
        self.losses = torch.tensor(losses)

    def region_losses(self, maps: Maps, samples: Samples, batch: Batch) -> dict[str, Tensor]:
        assert samples.boxes.shape[:2] == self.losses.shape
        return {"classification": 0.75 * self.losses, "box_regression": 0.25 * self.losses}


def test_fast_rcnns_rules_tell_positives_from_background_and_from_what_is_neither() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    boxes = proposals_of(IOU_1, IOU_0_6, IOU_0_5, IOU_0_4, IOU_0_1, IOU_0_05, FAR)
    regions = label_regions(boxes, batch, positive_iou=0.5, negative_iou=0.5, background_iou=0.1)
    # The last one is the true box.
    assert regions.positive.tolist() == [[True, True, True, False, False, False, False, True]]
    assert regions.drawn.tolist() == [[True, True, True, True, True, False, False, True]]
    everything = label_regions(boxes, batch, positive_iou=0.5, negative_iou=0.5)
    assert everything.drawn.all()


def test_between_the_thresholds_a_region_is_neither() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    regions = label_regions(
        proposals_of(IOU_0_6, IOU_0_4, IOU_0_1), batch, positive_iou=0.5, negative_iou=0.3
    )
    assert regions.drawn.tolist() == [[True, False, True, True]]


def test_an_image_without_objects_has_background_alone_and_with_a_least_overlap_nothing() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4), valid=[[False]])
    regions = label_regions(proposals_of(IOU_1, FAR), batch, positive_iou=0.5, negative_iou=0.5)
    assert not regions.positive.any()
    assert regions.drawn.tolist() == [[True, True, False]]
    regions = label_regions(
        proposals_of(IOU_1, FAR), batch, positive_iou=0.5, negative_iou=0.5, background_iou=0.1
    )
    assert not regions.drawn.any()


def test_an_image_without_proposals_learns_from_its_true_boxes() -> None:
    batch = batch_of(torch.stack([OBJECT, FAR])[None])
    none = Proposals(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool))
    samples = RandomSampling(count=8, positive_fraction=0.5)({}, none, batch, None)
    chosen = samples.boxes[samples.drawn]
    assert sorted(chosen.tolist()) == [OBJECT.tolist(), FAR.tolist()]
    assert samples.positive[samples.drawn].all()
    assert_close(batch.boxes[0, samples.index[samples.drawn]], chosen)  # type: ignore[index]


def test_a_quarter_of_the_samples_is_positive_at_most_and_negatives_are_near_an_object() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    boxes = proposals_of(*[IOU_0_6] * 50, *[IOU_0_4] * 50, *[FAR] * 100)
    samples = RandomSampling(count=64, background_iou=0.1)({}, boxes, batch, None)
    assert samples.positive.sum() == 16
    assert samples.drawn.sum() == 64
    negatives = samples.boxes[samples.drawn & ~samples.positive]
    assert torch.equal(negatives, IOU_0_4.expand(48, 4))


def test_the_hardest_regions_are_taken_whatever_they_are() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    boxes = proposals_of(IOU_0_6, IOU_0_4, FAR, FAR + 3)
    mining = HardExampleMining(count=3, nms_threshold=1)
    samples = mining({}, boxes, batch, Told([0.1, 5.0, 0.3, 0.2, 4.0]))
    assert_close(samples.boxes[0], torch.stack([IOU_0_4, OBJECT, FAR]))
    assert samples.drawn.tolist() == [[True] * 3]
    assert samples.positive.tolist() == [[False, True, False]]


def test_of_regions_that_overlap_the_hardest_alone_is_taken() -> None:
    # The first two overlap by 9 / 11, the third overlaps both by 0.6 or so.
    a, b, c = (torch.tensor([x, 20.0, x + 10, 30.0]) for x in (20.0, 21.0, 23.0))
    batch = batch_of(OBJECT.view(1, 1, 4))
    losses = Told([2.0, 3.0, 1.0, 0.5])
    samples = HardExampleMining(count=4)({}, proposals_of(a, b, c), batch, losses)
    assert_close(samples.boxes[samples.drawn], torch.stack([b, c, OBJECT]))
    everything = HardExampleMining(count=4, nms_threshold=1)({}, proposals_of(a, b, c), batch, losses)
    assert everything.drawn.all()


def test_each_image_has_its_own_hard_examples() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4).expand(2, -1, -1))
    boxes = Proposals(torch.stack([FAR, IOU_0_1]).expand(2, -1, -1), torch.ones(2, 2, dtype=torch.bool))
    mining = HardExampleMining(count=1)
    samples = mining({}, boxes, batch, Told([9.0, 8.0, 7.0], [0.1, 0.3, 0.2]))
    assert_close(samples.boxes[:, 0], torch.stack([FAR, IOU_0_1]))


def test_padding_and_ignored_regions_are_no_hard_examples_however_large_their_loss() -> None:
    batch = batch_of(
        torch.stack([OBJECT, FAR])[None], ignore=[[False, True]]
    )  # what lies in the crowd is no background
    boxes = Proposals(
        torch.stack([FAR + 1, torch.zeros(4), IOU_0_1])[None], torch.tensor([[True, False, True]])
    )
    samples = HardExampleMining(count=9)({}, boxes, batch, Told([99.0, 98.0, 0.1, 0.2, 97.0]))
    assert_close(samples.boxes[samples.drawn], torch.stack([OBJECT, IOU_0_1]))


def test_a_loss_that_is_not_a_number_is_the_hardest_so_that_it_is_noticed() -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    mining = HardExampleMining(count=1)
    samples = mining({}, proposals_of(FAR), batch, Told([float("nan"), 5.0]))
    assert samples.drawn.all()
    assert_close(samples.boxes[0, 0], FAR)


@pytest.mark.parametrize("sampler", [RandomSampling(count=4), HardExampleMining(count=4)])
def test_nothing_that_is_chosen_wants_a_gradient(sampler: RandomSampling | HardExampleMining) -> None:
    batch = batch_of(OBJECT.view(1, 1, 4))
    told = Told([1.0, 2.0])
    told.losses.requires_grad_()
    samples = sampler({}, proposals_of(FAR.clone().requires_grad_()), batch, told)
    assert not samples.boxes.requires_grad
