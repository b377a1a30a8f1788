"""Oracles: the paper's loss by hand on a 2 x 2 grid, and darknet's loop over images, cells and boxes in plain numbers."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_faster_rcnn import NAMES, make_batch
from test_launches import Launches
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.config.compose import compose
from cvtasks.errors import ConfigError
from cvtasks.models.detection.yolo import Yolo
from cvtasks.nn.backbones.darknet import darknet24
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.types import Batch, ClassInfo

WEIGHTS = {
    "box_center": 5.0,
    "box_size": 5.0,
    "object_confidence": 1.0,
    "empty_confidence": 0.5,
    "classification": 1.0,
}
"""The paper's"""


def small(*, names: tuple[str, ...] = NAMES, **settings: Any) -> Yolo:
    torch.manual_seed(0)
    options = {"level": "c4", "grid": 6, "head": "conv", "hidden": 32} | settings
    return Yolo(tiny(width=16), classes=ClassInfo(names), **options)


def batch_of(
    boxes: list[list[list[float]]], labels: list[list[int]], *, size: int = 100, ignore: Any = None
) -> Batch:
    """Square images with so many objects each; what is lacking is padding."""
    longest = max(1, *map(len, boxes))
    padded = [own + [[0.0] * 4] * (longest - len(own)) for own in boxes]
    numbers = [own + [0] * (longest - len(own)) for own in labels]
    sizes = torch.tensor([[size, size]] * len(boxes))
    return Batch(
        images=torch.zeros(len(boxes), 3, size, size, dtype=torch.uint8),
        sizes=sizes,
        orig_sizes=sizes,
        image_ids=list(range(len(boxes))),
        valid=torch.arange(longest) < torch.tensor([len(own) for own in boxes])[:, None],
        boxes=torch.tensor(padded),
        labels=torch.tensor(numbers),
        ignore=None if ignore is None else torch.tensor(ignore),
    )


# --- the loss --------------------------------------------------------------------------------------------------------


def two_by_two() -> Yolo:
    return small(names=("cat", "dog"), grid=2)


def test_the_five_parts_are_those_worked_out_by_hand() -> None:
    """Images of 100 pixels, cells of 50; in a cell two boxes of five numbers and two classes."""
    dog = [
        12.0,
        12,
        48,
        28,
    ]  # centre (30, 20): in cell 0 at 0.6, 0.4; sides 0.36 and 0.16, whose roots are 0.6 and 0.4
    cat = [67.0, 67, 83, 83]  # centre (75, 75): in cell 3 at 0.5, 0.5; roots 0.4 and 0.4
    batch = batch_of([[dog, cat], []], [[1, 0], []])
    cell0 = [
        # 36 x 64 pixels about the dog's centre: IoU 16 / 64 = 1/4. Its confidence is the highest.
        *(0.6, 0.4, 0.6, 0.8, 0.7),
        # 25 x 9 pixels about (35, 23), inside the dog's 36 x 16: IoU 225 / 576. This one is responsible.
        *(0.7, 0.46, 0.5, 0.3, 0.2),
        *(0.3, 0.6),
    ]
    cell1 = [9.0, 9, 9, 9, 0.1, 9, 9, 9, 9, 0.3, 9, 9]  # empty: only what is said of confidence counts
    cell2 = [9.0, 9, 9, 9, -0.2, 9, 9, 9, 9, 0.4, 9, 9]
    cell3 = [
        *(-0.9, 0.5, 0.4, 0.4, 0.8),  # as large as the cat, but 0.7 of the image to the left
        *(0.7, 0.5, 0.0, 0.0, 0.5),  # a point at 0.1 of the image to the right: no IoU either, but nearer
        *(0.9, 0.2),
    ]
    nothing = [[0.0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0]] * 4
    output = torch.tensor([[cell0, cell1, cell2, cell3], nothing])
    found = two_by_two().squares(output, batch)
    two_images = 2
    expected = {
        "box_center": (0.1**2 + 0.06**2) + 0.2**2,
        "box_size": (0.1**2 + 0.1**2) + (0.4**2 + 0.4**2),
        "object_confidence": (0.2 - 225 / 576) ** 2 + (0.5 - 0) ** 2,
        "empty_confidence": 0.7**2 + (0.1**2 + 0.3**2) + (0.2**2 + 0.4**2) + 0.8**2 + 8 * 0.5**2,
        "classification": (0.3**2 + 0.4**2) + (0.1**2 + 0.2**2),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value / two_images, rel=1e-5), name


def darknet(output: Tensor, batch: Batch, side: int, boxes: int) -> tuple[dict[str, float], Tensor]:
    """The loss of outputs [B, G, 5n + K] object by object, and its weighted gradient times B.

    Of several objects in a cell the largest.
    """
    (height, width), classes = batch.images.shape[2:], output.shape[2] - 5 * boxes
    losses, gradient = dict.fromkeys(WEIGHTS, 0.0), torch.zeros_like(output)

    def add(part: str, at: tuple[int, int, int], target: float) -> None:
        difference = output[at].item() - target
        losses[part] += difference**2 / len(output)
        gradient[at] += 2 * WEIGHTS[part] * difference

    for b in range(len(output)):
        truths: dict[int, tuple[list[float], int]] = {}
        objects = [
            (box.tolist(), int(label))
            for box, label, valid in zip(batch.boxes[b], batch.labels[b], batch.valid[b], strict=True)  # type: ignore[index]
            if valid
        ]
        for (x1, y1, x2, y2), label in objects:
            truth = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            cell = int(truth[1] * side) * side + int(truth[0] * side)
            if cell not in truths or truth[2] * truth[3] > truths[cell][0][2] * truths[cell][0][3]:
                truths[cell] = truth, label
        for cell in range(side * side):
            responsible = -1
            if cell in truths:
                truth, label = truths[cell]
                rated = []
                for j in range(boxes):
                    x, y, w, h = output[b, cell, 5 * j : 5 * j + 4].tolist()
                    one = [(x + cell % side) / side, (y + cell // side) / side, w * w, h * h]
                    shared = 1.0
                    for c, s in ((0, 2), (1, 3)):
                        low = max(one[c] - one[s] / 2, truth[c] - truth[s] / 2)
                        shared *= max(0, min(one[c] + one[s] / 2, truth[c] + truth[s] / 2) - low)
                    iou = shared / (one[2] * one[3] + truth[2] * truth[3] - shared)
                    rated.append((iou, -math.dist(one, truth), j))
                iou, _, responsible = max(rated)
                at = 5 * responsible
                add("box_center", (b, cell, at), truth[0] * side - cell % side)
                add("box_center", (b, cell, at + 1), truth[1] * side - cell // side)
                add("box_size", (b, cell, at + 2), math.sqrt(truth[2]))
                add("box_size", (b, cell, at + 3), math.sqrt(truth[3]))
                add("object_confidence", (b, cell, at + 4), iou)
                for c in range(classes):
                    add("classification", (b, cell, 5 * boxes + c), float(c == label))
            for j in range(boxes):
                if j != responsible:
                    add("empty_confidence", (b, cell, 5 * j + 4), 0.0)
    return losses, gradient


@settings(max_examples=25)
@given(
    seed=st.integers(0, 9999),
    side=st.integers(1, 5),
    boxes=st.integers(1, 3),
    spread=st.sampled_from([0.2, 2.0]),
)
def test_losses_and_gradients_are_those_of_a_loop_over_images_cells_and_boxes(
    seed: int, side: int, boxes: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch = make_batch(3, objects=6)
    batch.images = torch.zeros(3, 3, 96, 160, dtype=torch.uint8)
    corner, extent = torch.rand(2, 3, 6, 2, generator=generator) * torch.tensor([80, 48])
    batch.boxes = torch.cat([corner, corner + extent], -1)
    batch.labels = torch.randint(0, 3, (3, 6), generator=generator)
    model = small(grid=side, boxes=boxes)
    output = torch.randn(3, side * side, 5 * boxes + 3, generator=generator) * spread + 0.4
    output.requires_grad_(True)
    found = model.squares(output, batch)
    sum(WEIGHTS[name] * value for name, value in found.items()).backward()  # type: ignore[union-attr]
    losses, gradient = darknet(output.detach(), batch, side, boxes)
    for name, value in losses.items():
        assert found[name].item() == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert output.grad is not None
    assert_close(output.grad * 3, gradient, rtol=1e-3, atol=1e-3)


def test_the_weights_are_the_papers() -> None:
    assert compose("train", ["task=yolo"])["task"]["loss_weights"] == WEIGHTS


def test_an_empty_image_teaches_only_that_boxes_are_empty() -> None:
    output = torch.randn(1, 4, 12, requires_grad=True)
    losses = two_by_two().squares(output, batch_of([[]], [[]]))
    assert {name for name, value in losses.items() if value > 0} == {"empty_confidence"}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert output.grad is not None
    assert output.grad[..., [4, 9]].ne(0).all()
    assert output.grad[..., [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]].eq(0).all()


def test_neither_padding_nor_the_order_of_objects_changes_the_losses() -> None:
    batch, model = make_batch(3, objects=5), small(grid=3)  # so few cells that objects share them
    output = torch.randn(3, 9, 13, generator=torch.Generator().manual_seed(0))
    plain = model.squares(output, batch)
    order = torch.tensor([3, 0, 4, 1, 2])
    fields = ("boxes", "labels", "ignore", "valid")
    turned = replace(batch, **{name: getattr(batch, name)[:, order] for name in fields})
    wild = {"boxes": torch.tensor([0.0, 0, 90, 90]), "labels": torch.tensor(2), "ignore": torch.tensor(True)}
    padding = {name: value.expand(3, 4, *value.shape) for name, value in wild.items()}
    padding["valid"] = torch.zeros(3, 4, dtype=torch.bool)
    padded = replace(batch, **{n: torch.cat([getattr(batch, n), padding[n]], 1) for n in fields})
    for other in (turned, padded):
        for name, value in model.squares(output, other).items():
            assert_close(value, plain[name])


def test_an_image_counts_the_same_in_any_batch() -> None:
    batch, model = make_batch(2), small()
    output = torch.randn(2, 36, 13, generator=torch.Generator().manual_seed(0))
    both, alone = model.squares(output, batch), []
    for i in range(2):
        own = {
            n: getattr(batch, n)[i : i + 1] for n in ("images", "sizes", "boxes", "labels", "ignore", "valid")
        }
        alone.append(model.squares(output[i : i + 1], replace(batch, image_ids=[i], **own)))
    for name in WEIGHTS:
        assert_close(both[name], (alone[0][name] + alone[1][name]) / 2)


def test_of_an_ignored_object_nothing_is_learnt_not_even_that_it_is_not_there() -> None:
    crowd = [60.0, 60, 90, 90]  # in cell 3
    model = two_by_two()
    far = [0.5, 0.5, 0.1, 0.1, 0.4]
    inside = [1.5, 1.5, 0.3, 0.3, 0.4]  # of cell 0, but about (75, 75)
    by_a_third = [1.5, 1.5, 0.55, 0.55, 0.4]  # 900 of 915 pixels inside would be half; see below
    output = torch.tensor(
        [[[*far, *inside, 1, 1], [*far, *far, 1, 1], [*far, *far, 1, 1], [*far, *far, 1, 1]]]
    )
    each = 0.4**2
    ignored = model.squares(output, batch_of([[crowd]], [[1]], ignore=[[True]]))
    # Of eight boxes two are of the crowd's cell, and one lies in it.
    assert ignored["empty_confidence"].item() == pytest.approx(5 * each, rel=1e-5)
    assert all(ignored[name] == 0 for name in WEIGHTS if name != "empty_confidence")
    # A box of 60.5 pixels a side has a quarter of itself in there, which is too little.
    wide = torch.tensor([*by_a_third[:2], 0.778, 0.778, 0.4])
    output[0, 0, 5:10] = wide
    ignored = model.squares(output, batch_of([[crowd]], [[1]], ignore=[[True]]))
    assert ignored["empty_confidence"].item() == pytest.approx(6 * each, rel=1e-5)
    # An object in the same cell is learnt as ever.
    dog = [70.0, 70, 80, 80]
    both = model.squares(output, batch_of([[crowd, dog]], [[1, 1]], ignore=[[True, False]]))
    alone = model.squares(output, batch_of([[dog]], [[1]], ignore=[[False]]))
    assert {n: both[n] for n in WEIGHTS if n != "empty_confidence"} == {
        n: alone[n] for n in WEIGHTS if n != "empty_confidence"
    }
    assert both["object_confidence"] > 0


def test_the_grid_lies_over_the_batchs_images_with_their_padding() -> None:
    """A smaller image of a batch has its objects in the cells that a convolution sees them in."""
    model, box = small(grid=2), [30.0, 30, 40, 40]
    batch = batch_of([[box]], [[1]])
    output = torch.zeros(1, 4, 13)
    output[0, 0, :4] = torch.tensor([0.7, 0.7, math.sqrt(0.1), math.sqrt(0.1)])
    for size in (100, 50):
        batch.sizes = torch.tensor([[size, size]])
        losses = model.squares(output, batch)
        assert losses["box_center"] < 1e-10
        assert losses["box_size"] < 1e-10
        assert losses["object_confidence"].item() == pytest.approx(
            1.0, abs=1e-4
        )  # of 0, which should be the IoU of 1


# --- predictions -----------------------------------------------------------------------------------------------------


def test_a_detection_is_confidence_times_class_score_in_the_original_images_pixels() -> None:
    batch = batch_of([[]], [[]])
    batch.orig_sizes = torch.tensor([[200, 300]])  # twice as high, three times as wide
    output = torch.zeros(1, 4, 12)
    output[0, 1, :5] = torch.tensor([0.5, 0.5, 0.4, 0.2, 0.5])  # about (75, 25), 16 x 4
    output[0, 1, 10:] = torch.tensor([0.8, 0.6])
    output[0, 2, 5:10] = torch.tensor(
        [0.0, 1.0, 0.6, 0.6, 0.9]
    )  # second box, about (0, 100): cut by the image's ends
    output[0, 2, 10:] = torch.tensor([1.0, -5.0])
    (found,) = two_by_two().detections(output, batch)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.4, 0.3])
    assert found["labels"].tolist() == [0, 0, 1]
    wide, small_box = [0.0, 164, 54, 200], [201.0, 46, 249, 54]
    assert_close(found["boxes"], torch.tensor([wide, small_box, small_box]), rtol=1e-4, atol=1e-3)


def test_two_scores_below_zero_are_not_a_detection() -> None:
    output = torch.full((1, 4, 12), -1.0)
    assert len(two_by_two().detections(output, batch_of([[]], [[]]))[0]["boxes"]) == 0


def test_boxes_suppress_others_of_their_class_alone_and_the_threshold_holds() -> None:
    model = small(names=("cat", "dog"), grid=2, score_threshold=0.25, nms_threshold=0.5)
    output = torch.zeros(1, 4, 12)
    output[0, 0, :10] = torch.tensor([1.0, 1.0, 0.6, 0.6, 1.0, 1.0, 1.0, 0.6, 0.61, 0.8])
    output[0, 0, 10:] = torch.tensor([0.9, 0.3])
    output[0, 3, :5] = torch.tensor([0.0, 0.0, 0.6, 0.6, 1.0])  # the same place, seen from another cell
    output[0, 3, 10:] = torch.tensor([0.2, 0.7])
    (found,) = model.detections(output, batch_of([[]], [[]]))
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7])
    assert found["labels"].tolist() == [0, 1]


def test_what_was_learnt_exactly_is_found_exactly() -> None:
    """The loss's numbers and the prediction's are the same: an output that costs nothing gives the objects back."""
    batch = make_batch(1, objects=3)
    model = small()
    output = torch.zeros(1, 36, 13, requires_grad=True)
    optimizer = torch.optim.LBFGS([output], lr=0.3, max_iter=400)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = sum(model.squares(output, batch).values())
        loss.backward()  # type: ignore[union-attr]
        return loss  # type: ignore[return-value]

    optimizer.step(step)
    batch.orig_sizes = batch.sizes
    (found,) = model.detections(output.detach(), batch)
    assert batch.boxes is not None
    assert batch.labels is not None
    kept = found["scores"] > 0.5
    order = found["boxes"][kept][:, 0].argsort()
    truth = batch.boxes[0, :, 0].argsort()
    assert_close(found["boxes"][kept][order], batch.boxes[0, truth], rtol=0, atol=0.5)
    assert torch.equal(found["labels"][kept][order], batch.labels[0, truth])


# --- heads -----------------------------------------------------------------------------------------------------------


def test_the_output_is_ordered_by_rows_columns_boxes_and_classes() -> None:
    """As the convolutional head writes it: the map's position [row, column] is cell row * S + column."""
    model = small()
    x = torch.randn(2, 64, 6, 6)
    with torch.no_grad():
        output = model.head(x, make_batch().images)
        kernel = model.head.last.weight[:, :, None, None]
        oracle = nn.functional.conv2d(x, kernel, model.head.last.bias)
    assert output.shape == (2, 36, 5 * 2 + 3)
    assert_close(output[1, 4 * 6 + 2], oracle[1, :, 4, 2])


def test_the_connected_head_sees_the_whole_image_and_the_convolutional_one_its_cell() -> None:
    for kind, sees_all in (("fc", True), ("conv", False)):
        model = small(head=kind).eval()
        x = torch.randn(1, 64, 6, 6)
        changed = x.clone()
        changed[:, :, 0, 0] += 1
        with torch.no_grad():
            moved = (model.head(x, x) != model.head(changed, x)).any(2)[0]
        assert moved[0]
        assert moved[1:].all() if sees_all else not moved[1:].any()


def test_the_connected_head_drops_units_in_training_alone() -> None:
    model, batch = small(head="fc", dropout=0.5), make_batch()
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


@pytest.mark.parametrize("head", ["fc", "conv"])
def test_an_image_of_a_wrong_size_is_one_error_that_says_what_to_type(head: Any) -> None:
    model = small(head=head)
    assert len(model.predict(make_batch())) == 2  # 96 pixels, stride 16
    with pytest.raises(ConfigError, match=r"task\.grid=6.* 128 x 128 .* 8 x 8 cells.* pipeline\.size=96"):
        model.predict(make_batch(size=128))


def test_settings_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.head_stride=2.*task\.head_convs"):
        small(head_stride=2)
    with pytest.raises(ConfigError, match=r"task\.level=c7"):
        small(level="c7")


def test_the_heads_stride_halves_the_map() -> None:
    for convs in (1, 4):
        model = small(grid=3, head_convs=convs, head_channels=8, head_stride=2, head_norm="group")
        assert model(make_batch()).shape == (2, 9, 13)


def test_without_a_level_the_last_one_is_read_and_stages_above_a_level_go() -> None:
    assert small(level=None, grid=3)(make_batch()).shape == (2, 9, 13)
    assert list(small().backbone.specs) == ["c1", "c2", "c3", "c4"]


def test_the_papers_network_has_its_24_convolutions_and_two_layers() -> None:
    with torch.device("meta"):
        settings = compose("train", ["task=yolo", "recipe=none"])["task"]
        names = tuple(f"class {i}" for i in range(20))
        options = {key: settings[key] for key in ("grid", "boxes", "head", "head_convs", "hidden", "dropout")}
        model = Yolo(darknet24(norm=None), classes=ClassInfo(names), **options)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        connected = [m for m in model.modules() if isinstance(m, nn.Linear)]
        maps = model.backbone(torch.zeros(1, 3, 448, 448))
    assert len(convolutions) == 24
    assert [(m.in_features, m.out_features) for m in connected] == [(7 * 7 * 1024, 4096), (4096, 7 * 7 * 30)]
    assert maps["c6"].shape == (1, 1024, 7, 7)


def test_before_anything_is_learnt_boxes_lie_in_the_middle_of_their_cells() -> None:
    for head in ("fc", "conv"):
        model = small(head=head)
        nn.init.zeros_(model.head.last.weight)
        output = model(make_batch())
        assert_close(output[1, 7], torch.tensor([0.5, 0.5, 0.5, 0.5, 0.1] * 2 + [1 / 3] * 3))


# --- how it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["fc", "conv"])
def test_under_autocast_losses_and_gradients_are_finite_and_the_output_is_float32(head: Any) -> None:
    model, batch = small(head=head).train(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch).dtype == torch.float32
        losses = model.losses(batch)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_neither_waits_nor_operations_grow_with_the_batch() -> None:
    counted = []
    for images in (2, 4):
        model, batch = small(head_convs=1, head_channels=16).train(), make_batch(images)
        model.losses(batch)
        with Launches() as launches:
            sum(model.losses(batch).values()).backward()  # type: ignore[union-attr]
        counted.append(launches)
    two, four = counted
    assert two.waits.total() == four.waits.total() == 0
    assert two.all == four.all
