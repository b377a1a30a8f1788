"""R-CNN and SPP-net: three stages of which two are solved, on a few boxes that are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from region_scenes import scenes
from sklearn.svm import LinearSVC
from torch import Tensor

from cvtasks.errors import ConfigError
from cvtasks.models.detection.rcnn import rcnn
from cvtasks.models.detection.sppnet import sppnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.svm_detector import SvmDetector
from cvtasks.ops import coders
from cvtasks.types import Batch, ClassInfo, Prediction

CLASSES = ClassInfo(("dark", "light", "missing"))
SYSTEMS = ("rcnn", "sppnet")


def make(system: str = "rcnn", **settings: Any) -> Any:
    torch.manual_seed(0)
    if system == "sppnet":
        made = sppnet(tiny(width=16), classes=CLASSES, level="c3", **{"head_channels": 32} | settings)
    else:
        small = {"level": "c4", "crop_size": 32, "context": 4, "head_channels": 32}
        made = rcnn(tiny(width=16), classes=CLASSES, **small | settings)
    return made.eval()


def said(model: SvmDetector, *batches: Batch) -> Iterator[tuple[Batch, list[Prediction]]]:
    for batch in batches:
        yield batch, model.collect(batch)


def staged(model: SvmDetector, *batches: Batch, folder: Path | None = None) -> SvmDetector:
    for stage in range(1, len(model.stages)):
        model.begin_stage(stage, said(model, *batches), folder)
    return model


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_stages_are_the_papers_and_all_but_the_first_are_solved(system: str) -> None:
    model = make(system)
    assert (model.stages, model.solved) == (("fine-tuning", "SVMs", "boxes"), ("SVMs", "boxes"))
    model = make(system, classifier="softmax")
    assert (model.stages, model.solved) == (("fine-tuning", "boxes"), ("boxes",))


@pytest.mark.parametrize("system", SYSTEMS)
def test_collected_regions_are_what_the_svms_and_the_boxes_need(system: str) -> None:
    model, batch = make(system), scenes()
    first, second, _ = model.collect(batch)
    assert first["boxes"].shape == (2 + 20, 4)  # no padding, and no object that is to be ignored
    assert second["boxes"].shape == (2 + 24, 4)
    assert torch.equal(second["boxes"][:2], batch.boxes[1, :2])
    assert second["objects"].tolist() == [0, 1] + [-1] * 24
    assert second["overlaps"][:2].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert second["features"].dtype == second["pooled"].dtype == torch.float16
    # A hand-made pair of boxes: IoU in other words.
    (x1, y1, x2, y2), (a1, b1, a2, b2) = second["boxes"][5].tolist(), second["boxes"][1].tolist()
    shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
    union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
    assert float(second["overlaps"][5, 1]) == pytest.approx(shared / union, abs=1e-4)
    near = second["near"]
    assert (near >= 2).all()  # proposals, not the objects themselves
    assert set(near.tolist()) == {n for n in range(2, 26) if second["overlaps"][n].max() >= 0.6}
    assert torch.equal(second["target"], batch.boxes[1][second["label"]])
    assert len(second["pooled"]) == len(near)


def test_what_lies_in_an_ignored_object_is_no_negative() -> None:
    model, batch = make(), scenes()
    batch.proposals[1, 7] = batch.boxes[1, 2] + torch.tensor([1.0, 1, -1, -1])
    found = model.collect(batch)[1]
    assert found["ignored"][2 + 7]
    assert not found["ignored"][:2].any()


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_svms_are_those_of_all_true_boxes_against_all_that_overlaps_less(system: str) -> None:
    # So few negatives that all are in the problem; the oracle gets features and labels from the boxes alone.
    model, batch = make(system), scenes()
    images = model.collect(batch)
    model.begin_stage(1, said(model, batch))
    features = torch.cat([i["features"].float() for i in images])
    scale = 20 / features.norm(dim=1).mean()
    positive = torch.cat([i["objects"] == 0 for i in images])
    negative = torch.cat([(i["overlaps"][:, 0] < 0.3) & ~i["ignored"] for i in images])
    chosen = positive | negative
    oracle = LinearSVC(
        loss="hinge", C=1e-3, intercept_scaling=10, class_weight={1: 2, 0: 1}, tol=1e-9, max_iter=10**6
    ).fit((scale * features[chosen]).numpy(), positive[chosen].numpy())
    # Those that were easy when they were dropped might be hard for the last solution: none are, in so small a problem.
    margins = model.head.svms(features[chosen])[:, 0]
    expected = torch.from_numpy(oracle.decision_function((scale * features[chosen]).numpy())).float()
    torch.testing.assert_close(margins, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_detection_is_scored_by_softmax_then_by_svms_and_moved_when_boxes_are_solved(system: str) -> None:
    model, batch = make(system, score_threshold=0.0, nms_threshold=1.0, detections_per_image=1000), scenes()
    pooled, vectors = model.head(model.maps(batch), batch.proposals)
    first = model.predict(batch)[1]
    softmax = model.head.scores(vectors).softmax(-1)[1, :, :3]
    torch.testing.assert_close(first["scores"], softmax.flatten().sort(descending=True).values)

    notes = model.begin_stage(1, said(model, batch))
    assert notes == ["no training image has an object of missing: its SVM never says yes"]
    second = model.predict(batch)[1]
    svms = model.head.svms(vectors)[1].sigmoid()
    torch.testing.assert_close(second["scores"], svms[:, :2].flatten().sort(descending=True).values)
    assert set(second["labels"].tolist()) == {0, 1}  # never the class that nobody has seen
    known = {tuple(box) for box in batch.proposals[1].clamp(0, 64).tolist()}
    assert {tuple(box) for box in second["boxes"].tolist()} <= known

    assert model.begin_stage(2, said(model, batch)) == []
    third = model.predict(batch)[1]
    torch.testing.assert_close(third["scores"], second["scores"])
    best = int(svms[:, 0].argmax())
    moved = coders.decode(model.head.boxes(pooled[1, best])[0], batch.proposals[1, best]).clamp(0, 64)
    assert any(torch.allclose(box, moved, atol=1e-4) for box in third["boxes"])
    assert not torch.equal(third["boxes"], second["boxes"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_stages_state_is_in_the_state_dict(system: str) -> None:
    model, batch = make(system), scenes()
    staged(model, batch)
    other = make(system)
    other.load_state_dict(model.state_dict())
    assert other.stage == 2
    for one, two in zip(model.predict(batch), other.predict(batch), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    # Weights of a run that is done, to begin another one with: nothing is solved.
    other.begin_stage(0, iter(()))
    assert not other.head.svms.solved
    assert not other.head.boxes.solved
    assert other.stage == 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_features_are_computed_once_and_not_again_after_a_kill(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = scenes(2), scenes(2, seed=1)
    second.image_ids = [2, 3]
    whole = staged(make(system), first, second, folder=tmp_path / "whole").state_dict()

    computed, forward = list[int](), type(make(system).head).forward

    def counted(self: Any, maps: Any, boxes: Tensor) -> Any:
        computed.append(len(boxes))
        return forward(self, maps, boxes)

    monkeypatch.setattr(type(make(system).head), "forward", counted)
    model = make(system)

    def killed() -> Iterator[Any]:
        yield from said(model, first)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.begin_stage(1, killed(), tmp_path / "cut")
    assert sum(computed) == 2
    model = make(system)
    staged(model, first, second, folder=tmp_path / "cut")
    assert sum(computed) == 4  # also of the stage "boxes"
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_features_of_other_weights_are_computed_anew(tmp_path: Path) -> None:
    batch = scenes()
    staged(make(), batch, folder=tmp_path)
    model = make()
    with torch.no_grad():
        model.head.trunk.fc7.weight.mul_(1.5)
    found = staged(model, batch, folder=tmp_path).head.svms.weight.clone()
    torch.testing.assert_close(found, staged(model, batch).head.svms.weight)


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_image_without_proposals_or_objects_is_no_error(system: str) -> None:
    model, batch = make(system), scenes()
    batch.proposals[1] = 0
    batch.valid[2] = False
    losses = model.losses(batch)
    assert losses["classification"].isfinite()
    staged(model, batch)
    assert len(model.predict(batch)[1]["boxes"]) == 0
    empty = scenes(1)
    empty.valid[:] = False
    empty.proposals[:] = 0
    other = make(system)
    assert len(other.begin_stage(1, said(other, empty))) == 1
    other.begin_stage(2, said(other, empty))
    assert len(other.predict(empty)[0]["boxes"]) == 0


def test_one_class_only() -> None:
    torch.manual_seed(0)
    model = rcnn(
        tiny(width=16), classes=ClassInfo(("one",)), level="c4", crop_size=32, context=4, head_channels=16
    )
    batch = scenes()
    batch.labels[:] = 0
    assert staged(model.eval(), batch).stage == 2
    assert set(model.predict(batch)[0]["labels"].tolist()) == {0}


def test_joint_training_is_one_loss_for_classes_and_boxes() -> None:
    model, batch = make(training="joint"), scenes()
    assert type(model) is RegionDetector
    losses = model.losses(batch)
    assert set(losses) == {"classification", "box_regression"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_each_crop_goes_through_the_cnn_alone() -> None:
    # What another proposal is does not change a region's features, and what lies outside of its frame neither.
    model, batch = make(), scenes(1)
    other = scenes(1)
    other.proposals[:, 1:] = 0
    x2, y2 = (int(v) for v in batch.proposals[0, 0, 2:].ceil() + 12)
    other.images[:, :, y2:] = 0
    other.images[:, :, :, x2:] = 0
    one, two = (model.head(model.maps(b), b.proposals)[1][0, 0] for b in (batch, other))
    torch.testing.assert_close(one, two)


def test_the_convolutions_of_sppnet_stay_as_they_are_and_those_of_rcnn_learn() -> None:
    for system, learns in (("sppnet", False), ("rcnn", True)):
        model = make(system).train()
        sum(model.losses(scenes()).values()).backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert any("backbone" in name for name in trained) == learns
        assert any("trunk.fc6" in name for name in trained)
    assert any(p.requires_grad for p in make("sppnet", train_convolutions=True).backbone.parameters())


def test_the_means_of_the_map_can_be_the_svms_features() -> None:
    model, batch = make(head="mean"), scenes()
    pooled, vectors = model.head(model.maps(batch), batch.proposals)
    assert (pooled.shape[2], vectors.shape[2]) == (64 * 4, 64)
    torch.testing.assert_close(
        vectors, pooled.unflatten(2, (4, 64)).mean(2)
    )  # as `flat` has them: places first
    staged(model, batch)


def test_parts_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"task\.level=c9: expected levels of this backbone"):
        make(level="c9")
    with pytest.raises(
        ConfigError, match=r"task\.context=16: leaves nothing of crops of 32 pixels; type less than 16"
    ):
        make(context=16)
