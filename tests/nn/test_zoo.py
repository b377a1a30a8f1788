"""Oracles: torchvision's own networks and its table of weights; the network is blocked throughout."""

import hashlib
import pickle
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from cvtasks.errors import WeightsError
from cvtasks.nn import zoo
from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is blocked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def message(error: pytest.ExceptionInfo[WeightsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def published() -> models.ResNet:
    torch.manual_seed(0)
    return models.resnet18()


def equal(backbone: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict", "parallel", "ours", "torchvision"])
def test_a_file_loads_with_its_classifier_and_however_it_is_wrapped(
    wrap: str, tmp_path: Path, published: models.ResNet
) -> None:
    state = published.state_dict()  # with fc.weight and fc.bias
    prefix = {"parallel": "module.", "ours": "backbone.", "torchvision": "backbone.body."}.get(wrap, "")
    content: dict = {prefix + k: v for k, v in state.items()}
    if prefix.startswith("backbone"):
        content |= {"head.weight": torch.zeros(3), "fpn.conv1.weight": torch.zeros(3)}
    content = {wrap: content, "step": 3} if wrap in ("model", "state_dict") else content
    torch.save(content, tmp_path / "weights.pth")
    backbone = resnet(depth=18, weights=str(tmp_path / "weights.pth"))
    assert equal(backbone, state)
    assert backbone.frozen == ("c1", "c2")


@pytest.mark.parametrize("form", ["frozen", "batch"])
def test_batch_norm_loads_from_files_with_and_without_counters(
    form: str, tmp_path: Path, published: models.ResNet
) -> None:
    state = {k: v for k, v in published.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert resnet(depth=18, weights=str(tmp_path / "old.pth"), norm=form)


def test_weights_that_do_not_fit_are_named_by_their_first_keys(
    tmp_path: Path, published: models.ResNet
) -> None:
    state = published.state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["layer2.0.conv1.weight"] = torch.zeros(2, 2)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as error:
        resnet(depth=18, weights=str(path))
    text = message(error)
    assert str(path) in text
    assert "missing layer1.0.conv1.weight;" in text
    assert "not expected layer9.weight;" in text
    assert "of another shape layer2.0.conv1.weight ([2, 2] instead of [128, 64, 3, 3])" in text


def test_another_network_or_norm_is_told_in_one_line(tmp_path: Path, published: models.ResNet) -> None:
    torch.save(published.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="do not fit") as error:
        alexnet(weights=str(tmp_path / "w.pth"))
    assert len(message(error)) < 600
    with pytest.raises(WeightsError, match=r"backbone\.norm=frozen"):
        resnet(depth=18, weights=str(tmp_path / "w.pth"), norm="group")
    torch.save(resnet(depth=18, norm="group").state_dict(), tmp_path / "group.pth")
    with pytest.raises(WeightsError, match=r"backbone\.norm=group"):
        resnet(depth=18, weights=str(tmp_path / "group.pth"))


def test_damaged_files_and_files_with_code_are_refused(tmp_path: Path, published: models.ResNet) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return Path.write_text, (tmp_path / "ran", "")

    torch.save(published.state_dict(), tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"conv1.weight": Payload()}, protocol=2))
    torch.save({"conv1.weight": Payload()}, tmp_path / "code_zip.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model": {"step": 3}}, tmp_path / "no_tensors.pth")
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(WeightsError, match=path.name) as error:
            zoo.load_weights(str(path), network="resnet18")
        message(error)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_not_taken_for_a_name(tmp_path: Path) -> None:
    for spec in (str(tmp_path / "none"), "none.pth"):
        with pytest.raises(WeightsError, match="no such file"):
            zoo.load_weights(spec, network="resnet18")


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("imagenet", "resnet50-11ad3fa6.pth"),
        ("DEFAULT", "resnet50-11ad3fa6.pth"),
        ("IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("ResNet50_Weights.IMAGENET1K_V1", "resnet50-0676ba61.pth"),
    ],
)
def test_without_network_the_error_names_url_place_and_hash(spec: str, file: str, hub: Path) -> None:
    with pytest.raises(WeightsError) as error:
        zoo.load_weights(spec, network="resnet50")
    text = message(error)
    assert f"https://download.pytorch.org/models/{file}" in text
    assert f"save it as {hub / file}" in text
    assert f"starts with {file[9:17]}" in text
    assert list(hub.iterdir()) == []


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(WeightsError, match=r"did you mean imagenet\?.*IMAGENET1K_V2") as error:
        zoo.load_weights("imagnet", network="resnet50")
    message(error)
    with pytest.raises(WeightsError, match="did you mean IMAGENET1K_V1"):
        zoo.load_weights("imagenet1k_v1", network="vgg16")
    with pytest.raises(WeightsError, match="unknown name"):  # other statistics, and no classifier
        zoo.load_weights("IMAGENET1K_FEATURES", network="vgg16")
    with pytest.raises(WeightsError, match=r"none are published for tiny"):
        tiny(weights="imagenet")
    with pytest.raises(WeightsError, match=r"did you mean fasterrcnn_resnet50_fpn\?"):
        zoo.load_detector_weights("faster_rcnn_resnet50_fpn")
    with pytest.raises(WeightsError, match=r"COCO_V1.*for fasterrcnn_resnet50_fpn"):
        zoo.load_detector_weights("fasterrcnn_resnet50_fpn.COCO_V9")


def place(hub: Path, content: object, entry: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save `content` as the zoo's file for `entry`, under a name that carries its hash."""
    hub.mkdir(parents=True)
    torch.save(content, hub / "file")
    digits = hashlib.sha256((hub / "file").read_bytes()).hexdigest()[:8]
    path = (hub / "file").rename(hub / f"network-{digits}.pth")
    monkeypatch.setattr(entry.value, "url", f"https://example.org/{path.name}")  # type: ignore[attr-defined]
    return path


def test_a_file_in_the_hubs_folder_is_used_if_its_hash_is_right(
    hub: Path, published: models.ResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    path = place(hub, published.state_dict(), entry, monkeypatch)
    assert equal(resnet(depth=18, weights="imagenet"), published.state_dict())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError, match=rf"{path.name}: SHA-256 .* expected {path.stem[-8:]}"):
        resnet(depth=18, weights="imagenet")


def test_a_detector_comes_with_its_class_names_and_its_batch_norm_without_eps(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    state = {"backbone.body.bn1.running_var": torch.tensor([1.0]), "other.weight": torch.tensor([1.0])}
    place(hub, state, entry, monkeypatch)
    loaded, names = zoo.load_detector_weights("fasterrcnn_resnet50_fpn")
    assert names is not None
    assert names[:2] == ("__background__", "person")
    # torchvision divides by sqrt(var + 0) in this network, ours by sqrt(var + 1e-5).
    assert loaded["backbone.body.bn1.running_var"] + 1e-5 == 1.0
    assert loaded["other.weight"] == 1.0
    assert zoo.load_detector_weights("fasterrcnn_resnet50_fpn.COCO_V1")[1] == names


def test_a_detector_loads_from_a_file_and_from_a_runs_folder(tmp_path: Path) -> None:
    checkpoint = {"model": {"w": torch.ones(2)}, "classes": {"names": ["cat", "dog"]}, "step": 7}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, tmp_path / "run" / "checkpoints" / "best.pt")
    for spec in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "best.pt"):
        state, names = zoo.load_detector_weights(str(spec))
        assert list(state) == ["w"]
        assert names == ("cat", "dog")
    with pytest.raises(WeightsError, match=r"no such file.*best\.pt"):
        zoo.load_detector_weights(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn"],
)
def test_an_unreachable_detector_names_its_file(name: str, hub: Path) -> None:
    with pytest.raises(WeightsError, match=rf"save it as {hub}/{name}[_-].*\.pth"):
        zoo.load_detector_weights(name)


def test_a_network_whose_weights_follow_is_built_like_the_one_that_had_them(tmp_path: Path) -> None:
    # Evaluating a checkpoint on a machine that lacks the file its training started from.
    with zoo.weights_follow():
        later = resnet(depth=18, weights=str(tmp_path / "gone.pth"))
    assert isinstance(later, Backbone)
    assert not any("running_mean" in k for k, _ in later.named_parameters())
    assert "bn1.running_mean" in later.state_dict()
    assert later.frozen == ("c1", "c2")
    with pytest.raises(WeightsError):
        resnet(depth=18, weights=str(tmp_path / "gone.pth"))
