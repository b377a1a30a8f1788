"""Samples of different sizes in one batch: what is padding, and with what."""

from __future__ import annotations

import pytest
import torch

from cvtasks.data.collate import collate
from cvtasks.data.pipelines import fixed, scale_jitter, shortest_edge

from .samples import INSTANCE_FIELDS, make_sample, plain


def test_each_sample_lies_in_the_low_corner_and_the_rest_is_padding():
    samples = [
        make_sample(0, objects=1, height=20, width=50),
        make_sample(1, objects=3, height=40, width=30),
    ]
    batch = collate(samples, divisor=16)
    assert batch.images.shape == (2, 3, 48, 64)
    assert batch.sizes.tolist() == batch.orig_sizes.tolist() == [[20, 50], [40, 30]]
    assert batch.valid.tolist() == [[True, False, False], [True, True, True]]
    assert batch.image_ids == [0, 1]
    padding = {"images": 0, "segmentation": 255} | dict.fromkeys((*INSTANCE_FIELDS, "proposals"), 0)
    for name, value in padding.items():
        tensor = getattr(batch, name)
        for b, sample in enumerate(samples):
            source = plain(sample["image" if name == "images" else name])
            corner = tuple(slice(length) for length in source.shape)
            assert tensor.dtype == source.dtype
            assert torch.equal(tensor[b][corner], source)
            rest = tensor[b].clone()
            rest[corner] = value
            assert (rest == value).all()
    assert batch.masks.shape == (2, 3, 48, 64)
    assert batch.label.tolist() == [0, 1]
    assert batch.truth is None


def test_images_stay_uint8_and_lie_channels_last_in_memory():
    batch = collate([make_sample(0)])
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_without_objects_has_one_invalid_row():
    samples = [make_sample(seed, objects=0) for seed in (0, 1)]
    for sample in samples:
        sample["proposals"] = torch.zeros(0, 4)
    batch = collate(samples)
    assert batch.valid.tolist() == [[False], [False]]
    assert batch.boxes.shape == (2, 1, 4)
    assert batch.masks.shape == (2, 1, 64, 64)
    assert batch.keypoints.shape == (2, 1, 3, 2)
    assert batch.proposals.shape == (2, 1, 4)


def test_fields_that_the_data_lacks_stay_none():
    keep = ("image", "image_id", "orig_size", "label")
    batch = collate([{name: make_sample(0)[name] for name in keep}])
    assert batch.valid is None
    assert batch.boxes is None
    assert batch.segmentation is None
    assert batch.label.tolist() == [0]


@pytest.mark.parametrize("train", [True, False])
def test_a_fixed_pipeline_gives_one_shape_whatever_the_images(train):
    for build in (
        lambda **kw: fixed(size=64, keep_aspect=True, **kw),
        lambda **kw: scale_jitter(size=64, **kw),
    ):
        transform = build(train=train)
        for seed in range(5):
            sample = transform(make_sample(seed, height=20 + 10 * seed, width=50))
            batch = collate([sample])
            assert batch.images.shape == (1, 3, 64, 64)
            assert tuple(batch.sizes[0].tolist()) == sample["image"].shape[-2:]


@pytest.mark.parametrize("divisor", [1, 32, 128])
def test_the_shape_is_a_multiple_of_the_divisor(divisor):
    transform = shortest_edge(train=False, size=50)
    batch = collate([transform(make_sample(0))], divisor=divisor)
    smallest = {1: (50, 67), 32: (64, 96), 128: (128, 128)}[divisor]
    assert batch.images.shape[-2:] == smallest
