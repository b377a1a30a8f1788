"""Whole pipelines: what holds for any of them, and the sizes each promises."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvtasks.data import pipelines
from cvtasks.data.pipelines import edge_jitter, fixed, scale_crop, scale_jitter, shortest_edge, ssd
from cvtasks.errors import ConfigError

from .samples import FLIP_INDEX, INSTANCE_FIELDS, assert_same, extent, make_sample, plain

FEW = settings(max_examples=25)
CONF = Path(__file__).parents[2] / "conf" / "pipeline"

BUILDERS = {
    "fixed": lambda **kw: fixed(size=40, **kw),
    "fixed keeping the aspect": lambda **kw: fixed(size=40, keep_aspect=True, **kw),
    "shortest_edge": lambda **kw: shortest_edge(size=[24, 40], max_size=50, **kw),
    "scale_jitter": lambda **kw: scale_jitter(size=40, scale=[0.1, 2.0], **kw),
    "scale_crop": lambda **kw: scale_crop(size=40, scale=[0.5, 2.0], **kw),
    "scale_crop of a shortest side": lambda **kw: scale_crop(size=40, image_size=48, max_size=60, **kw),
    "edge_jitter": lambda **kw: edge_jitter(size=40, **kw),
    "ssd": lambda color=0.0, **kw: ssd(size=40, saturation=color, **kw),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


@given(seed=st.integers(0, 9999), n=st.integers(0, 4), height=st.integers(16, 90), width=st.integers(16, 90))
@pytest.mark.parametrize("name", BUILDERS)
@FEW
def test_any_training_pipeline_keeps_a_sample_whole(name, seed, n, height, width):
    transform = BUILDERS[name](
        train=True, flip_index=FLIP_INDEX, vertical_flip=0.5, rotate90=0.75, color=0.4, hue=0.1, min_box=1.5
    )
    torch.manual_seed(seed)
    # Rectangles: the tip of an ellipse may vanish between two pixels when it shrinks.
    result = transform(make_sample(seed, objects=n, height=height, width=width, ellipses=False))
    new_height, new_width = result["image"].shape[-2:]
    assert result["image"].dtype == torch.uint8
    assert result["orig_size"] == (height, width)
    assert len({len(result[field]) for field in INSTANCE_FIELDS}) == 1
    assert result["masks"].shape[1:] == result["segmentation"].shape == (new_height, new_width)
    assert result["boxes"].canvas_size == (new_height, new_width)
    for boxes in (plain(result["boxes"]), result["proposals"]):
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([new_width, new_height, new_width, new_height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1.5).all()
    joints = result["keypoints"][result["visible"] > 0]
    assert (joints >= 0).all()
    assert (joints <= torch.tensor([new_width, new_height])).all()
    for box, mask in zip(result["boxes"], result["masks"], strict=True):
        assert (plain(box) - torch.tensor(extent(plain(mask)))).abs().max() < 1.01


@given(seed=st.integers(0, 9999), n=st.integers(0, 4), height=st.integers(16, 90), width=st.integers(16, 90))
@pytest.mark.parametrize("name", BUILDERS)
@FEW
def test_in_evaluation_scaling_back_to_orig_size_gives_the_original_boxes(name, seed, n, height, width):
    sample = make_sample(seed, objects=n, height=height, width=width)
    result = BUILDERS[name](train=False, flip_index=FLIP_INDEX, flip=1.0, color=1.0, min_box=30.0)(sample)
    new_height, new_width = result["image"].shape[-2:]
    scale = torch.tensor([width / new_width, height / new_height]).repeat(2)
    torch.testing.assert_close(plain(result["boxes"]) * scale, plain(sample["boxes"]), rtol=0, atol=1e-3)
    torch.testing.assert_close(result["keypoints"] * scale[:2], sample["keypoints"], rtol=0, atol=1e-3)
    assert torch.equal(result["visible"], sample["visible"])


def test_training_is_decided_by_the_seed_alone_and_evaluation_by_nothing(build):
    sample = make_sample(1)
    train, evaluate = build(train=True, color=0.5), build(train=False, color=0.5)

    def run(transform, seed):
        torch.manual_seed(seed)
        return transform(sample)

    assert_same(run(train, 1), run(train, 1))
    assert_same(run(evaluate, 1), run(evaluate, 2))
    assert len({run(train, seed)["image"].sum().item() for seed in range(5)}) == 5


def test_a_flip_happens_as_often_as_asked():
    # A bright left half tells; 200 draws at 0.25 lie within 30..72 but once in a million runs.
    sample = make_sample(0, objects=0)
    sample["image"] = tv_tensors.Image((torch.arange(64) < 32).mul(200).to(torch.uint8).expand(3, 48, 64))
    torch.manual_seed(0)
    transform = fixed(train=True, size=16, flip=0.25)
    assert 30 < sum(transform(sample)["image"][0, 0, 0].item() < 100 for _ in range(200)) < 72
    assert all(fixed(train=True, size=16, flip=1.0)(sample)["image"][0, 0, 0] == 0 for _ in range(10))
    assert all(fixed(train=True, size=16, flip=0.0)(sample)["image"][0, 0, 0] == 200 for _ in range(10))


def test_a_flip_swaps_joints_by_the_flip_index_of_the_classes():
    sample = make_sample(2, objects=1)
    result = fixed(train=True, flip_index=FLIP_INDEX, size=64, flip=1.0)(sample)
    assert result["visible"].tolist() == sample["visible"][:, list(FLIP_INDEX)].tolist()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (800, 1067)), (640, 480, (1067, 800)), (300, 1000, (400, 1333))],
)
def test_the_shortest_edge_is_at_its_size_unless_the_longest_would_exceed_its_own(height, width, expected):
    sample = make_sample(0, objects=0, height=height, width=width)
    assert shortest_edge(train=False)(sample)["image"].shape[-2:] == expected


def test_training_draws_among_several_sizes_and_evaluation_takes_the_largest():
    sample = make_sample(0, objects=0, height=20, width=20)

    def sides(**kw):
        transform = shortest_edge(size=[16, 24, 32], **kw)
        return {transform(sample)["image"].shape[-1] for _ in range(60)}

    torch.manual_seed(0)
    assert sides(train=True) == {16, 24, 32}
    assert sides(train=False) == {32}


def test_fixed_stretches_or_keeps_the_aspect_and_asks_for_padding():
    sample = make_sample(0, objects=0, height=30, width=60)
    assert fixed(train=False, size=40)(sample)["image"].shape == (3, 40, 40)
    fitted = fixed(train=False, size=40, keep_aspect=True)(sample)
    assert fitted["image"].shape == (3, 20, 40)
    assert fitted["pad_to"] == (40, 40)


def test_scale_jitter_fits_at_scale_1_pads_below_and_crops_above():
    sample = make_sample(0, objects=2, height=30, width=60)

    def at(scale):
        return scale_jitter(train=True, size=40, scale=[scale, scale], flip=0.0)(sample)

    assert_same(at(1.0), scale_jitter(train=False, size=40)(sample))
    assert at(0.5)["image"].shape == (3, 10, 20)
    assert at(2.0)["image"].shape == (3, 40, 40)
    assert at(0.5)["pad_to"] == at(2.0)["pad_to"] == (40, 40)
    assert len({at(2.0)["image"].sum().item() for _ in range(10)}) > 5  # the crop moves about


def test_scale_jitter_draws_scales_over_its_whole_range():
    sample = make_sample(0, objects=0, height=40, width=40)
    torch.manual_seed(0)
    transform = scale_jitter(train=True, size=40, scale=[0.5, 1.0])
    sides = [transform(sample)["image"].shape[-1] for _ in range(200)]
    assert min(sides) in (20, 21)
    assert max(sides) in (39, 40)


@pytest.mark.parametrize("pipeline", [scale_jitter, scale_crop])
def test_a_scale_whose_ends_are_exchanged_is_refused_by_its_key(pipeline):
    with pytest.raises(ConfigError, match=r"pipeline\.scale"):
        pipeline(train=True, scale=(2.0, 0.5))


@pytest.mark.parametrize(("image_size", "max_size", "expected"), [
    (None, None, (48, 64)), (24, None, (24, 32)), (96, None, (96, 128)), (None, 32, (24, 32)), (None, 640, (48, 64)),
    (96, 100, (75, 100)),
])  # fmt: skip
def test_scale_crop_evaluates_whole_images_and_crops_them_at_the_same_scale(image_size, max_size, expected):
    sample = make_sample(0)
    options = {"image_size": image_size, "max_size": max_size}
    whole = scale_crop(train=False, **options)(sample)
    assert whole["image"].shape[-2:] == whole["segmentation"].shape == expected
    crop = scale_crop(train=True, size=200, scale=[1, 1], flip=0.0, **options)(sample)
    assert torch.equal(crop["image"], whole["image"])
    assert crop["pad_to"] == (200, 200)


def test_scale_crop_draws_scales_over_its_whole_range_and_crops_everywhere():
    sample = make_sample(0, objects=0, height=40, width=40)
    torch.manual_seed(0)
    small = scale_crop(train=True, size=80, scale=[0.5, 1.5])
    sides = [small(sample)["image"].shape[-1] for _ in range(200)]
    assert min(sides) in (20, 21)
    assert max(sides) in (59, 60)
    sample["image"] = tv_tensors.Image(torch.arange(40, dtype=torch.uint8).expand(3, 40, 40))
    crop = scale_crop(train=True, size=(30, 20), scale=[1, 1], flip=0.0)
    starts = {crop(sample)["image"][0, 0, 0].item() for _ in range(200)}
    assert starts == set(range(21))
    assert crop(sample)["image"].shape == (3, 30, 20)


def test_a_crop_of_one_class_alone_is_drawn_again_up_to_ten_times():
    # A strip of class 1 at the right end: of the 81 crops the 10 from 71 on have at least a twentieth of it.
    sample = make_sample(0, objects=0, height=20, width=100)
    labels = torch.zeros(20, 100, dtype=torch.uint8)
    labels[:, 90:] = 1
    sample["segmentation"] = tv_tensors.Mask(labels)

    def mixed(share):
        torch.manual_seed(0)
        transform = scale_crop(train=True, size=20, scale=[1, 1], max_class_share=share)
        return sum(len(transform(sample)["segmentation"].unique()) == 2 for _ in range(300)) / 300

    assert mixed(1.0) == pytest.approx(10 / 81, abs=0.06)
    # one minus ten failures; 0.75 leaves out crops with less than a quarter of either
    assert mixed(0.999) == pytest.approx(1 - (71 / 81) ** 10, abs=0.08)
    assert mixed(0.75) < mixed(0.999) - 0.1

    sample["segmentation"] = tv_tensors.Mask(torch.full((20, 100), 255, dtype=torch.uint8))
    assert scale_crop(train=True, size=20)(sample)["segmentation"].unique().tolist() == [255]


def test_elastic_deformation_happens_as_often_as_asked_and_only_in_training():
    sample = {k: v for k, v in make_sample(0).items() if k not in ("keypoints", "proposals")}
    sample["segmentation"] = tv_tensors.Mask(torch.zeros(48, 64, dtype=torch.uint8))
    whole = {"size": 200, "scale": [1, 1], "flip": 0.0, "elastic_sigma": 5.0}

    def deformed(chance, train=True):
        torch.manual_seed(0)
        transform = scale_crop(train=train, elastic=chance, **whole)
        return sum(not torch.equal(transform(sample)["image"], sample["image"]) for _ in range(60))

    assert deformed(1.0) == 60
    assert 8 < deformed(0.4) < 42
    assert deformed(0.0) == deformed(1.0, train=False) == 0
    torch.manual_seed(1)
    assert 255 in scale_crop(train=True, elastic=1.0, **whole)(sample)["segmentation"]
    with pytest.raises(ConfigError, match=r"pipeline\.elastic"):
        scale_crop(train=True, elastic=1.0)(make_sample(0))


def test_crops_that_are_not_square_are_not_turned():
    with pytest.raises(ConfigError, match=r"pipeline\.rotate90"):
        scale_crop(train=True, size=(64, 32), rotate90=0.5)


def test_a_pipeline_tells_the_largest_shape_of_a_batch():
    assert fixed(train=True, size=40).largest == (40, 40)
    assert shortest_edge(train=True, max_size=50).largest == (50, 50)
    assert scale_crop(train=True, size=(64, 32)).largest == (64, 32)
    assert scale_crop(train=False, max_size=50).largest == (50, 50)
    assert scale_crop(train=False).largest == (0, 0)


def test_pipelines_can_be_sent_to_another_process(build):
    torch.manual_seed(0)
    one = build(train=True)(make_sample(0))
    torch.manual_seed(0)
    assert_same(pickle.loads(pickle.dumps(build(train=True)))(make_sample(0)), one)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_pipelines_yaml_lists_every_parameter_with_its_default(file):
    node = yaml.safe_load(file.read_text())
    assert node.pop("name") == file.stem
    module, function = node.pop("_target_").rsplit(".", 1)
    assert module == "cvtasks.data.pipelines"
    parameters = inspect.signature(getattr(pipelines, function)).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("train", "flip_index")}
    assert node == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
