"""Oracle: torchvision.ops.batched_nms, image by image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from cvtasks.ops import nms
from cvtasks.ops.nms import suppress


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_boxes_compete_only_within_their_image_and_group(seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, 3, sum(counts), 2, generator=generator) * 20
    boxes, scores = torch.cat([corner, corner + size], -1), torch.rand(3, sum(counts), generator=generator)
    group = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    keep = suppress(boxes, scores, counts, iou=0.4)
    for image in range(3):
        expected = batched_nms(boxes[image], scores[image], group, 0.4)
        assert set(keep[image].nonzero().flatten().tolist()) == set(expected.tolist())


def test_the_same_box_in_two_images_and_in_two_groups_is_kept_in_each() -> None:
    boxes = torch.tensor([0.0, 0, 9, 9]).expand(2, 4, 4)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6]).expand(2, 4)
    assert suppress(boxes, scores, [2, 2], iou=0.5).tolist() == [[True, False, True, False]] * 2


@pytest.mark.parametrize("images", [1, 3])
def test_images_moved_apart_do_not_compete(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    # What an accelerator does, on the CPU.
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, images, 90, 2, generator=generator) * 40
    boxes, scores = torch.cat([corner, corner + size], -1), torch.rand(images, 90, generator=generator)
    expected = suppress(boxes, scores, [60, 30], iou=0.4)
    monkeypatch.setattr(nms, "on_host", lambda _: False)
    assert torch.equal(suppress(boxes, scores, [60, 30], iou=0.4), expected)
    assert 0 < expected.sum() < expected.numel()


@pytest.mark.gpu
def test_an_accelerator_keeps_the_same_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 4, 300, 2, generator=generator) * 90
    boxes, scores = torch.cat([corner, corner + size], -1), torch.rand(4, 300, generator=generator)
    there = suppress(boxes.cuda(), scores.cuda(), [200, 100], iou=0.5)
    assert torch.equal(there.cpu(), suppress(boxes, scores, [200, 100], iou=0.5))
