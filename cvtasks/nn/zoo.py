"""Weights from a file or from torchvision's zoo. The only module that can reach the network.

It does so only for weights that the user named and that are not in torch.hub's folder yet, and when it fails
it says what to put where. Files are read with `weights_only=True`: tensors and plain values, no code.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torchvision import models

from cvtasks import torch_file
from cvtasks.errors import WeightsError

_log = logging.getLogger(__name__)

StateDict: TypeAlias = dict[str, Tensor]

FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl")
CLASSIFIERS = (
    "fc.",
    "classifier.",
    "head.",
    "heads.",
    "classif.",
    "last_linear.",
    "aux1.",
    "aux2.",
    "AuxLogits.",
)
"""Where published networks keep the layers that a backbone has no use for, auxiliary classifiers too."""
PREFIXES = ("", "module.", "backbone.", "backbone.body.", "network.", "backbone.network.")
"""Under which a file may hold a backbone: alone, from DataParallel, from our models, from torchvision's."""
ZERO_EPS = tuple(f"{name}_resnet50_fpn" for name in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet"))
"""Networks whose COCO_V1 weights torchvision runs with eps = 0 in batch norm, not 1e-5."""

_loads: ContextVar[bool] = ContextVar("loads", default=True)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Inside, networks are built as for their weights, but none are read: a checkpoint's replace them."""
    token = _loads.set(False)
    try:
        yield
    finally:
        _loads.reset(token)


def load_into(
    backbone: nn.Module,
    weights: str,
    *,
    network: str,
    ignore: Sequence[str] = CLASSIFIERS,
    rename: Callable[[str], str] = str,
) -> None:
    """Put `weights` (see `load_weights`) into a backbone; a classifier in the file is left out.

    Of a run the task may have read no further than some level, and dropped what leads higher: that starts afresh, with a
    warning.

    ignore: what the file may have, and the backbone need not. rename: from the file's names to the backbone's.
    """
    if not _loads.get():
        return
    if (ours := trained(weights)) is None:
        state = {rename(key): value for key, value in load_weights(weights, network=network).items()}
    else:
        state = _out_of_a_model(backbone, ours[0])
        if fresh := _stages_above(backbone, state):
            _log.warning("weights=%s hold no %s, which start afresh", weights, ", ".join(fresh))
            new = tuple(f"{name}." for name in fresh)
            state |= {key: value for key, value in backbone.state_dict().items() if key.startswith(new)}
    fit_weights(backbone, state, source=weights, ignore=ignore)


def load_weights(spec: str, *, network: str) -> StateDict:
    """The state of a classification network, or of a file.

    `spec` is a file, a run's folder (its best checkpoint), `imagenet` (torchvision's default weights), or torchvision's
    name for some weights of `network`, such as IMAGENET1K_V1. Raises WeightsError.
    """
    if _is_file(spec) or Path(spec).expanduser().is_dir():
        return _tensors(_read(_checkpoint(spec)), spec)
    if network not in models.list_models():
        raise WeightsError(f"weights={spec}: no such file, and none are published for {network}; give a file")
    # Weights without categories (VGG16's IMAGENET1K_FEATURES) expect other image statistics, and lack layers.
    entries = {n: w for n, w in models.get_model_weights(network).__members__.items() if w.meta["categories"]}
    name = "DEFAULT" if spec == "imagenet" else spec.rpartition("_Weights.")[2]
    if name not in entries:
        raise WeightsError(
            f"weights={spec}: {_unknown(spec, ['imagenet', *entries])} for {network}, or a file"
        )
    return _tensors(_read(_fetch(entries[name].url)), spec)


def load_timm(
    build: Callable[..., nn.Module], weights: str, *, network: str, own: Sequence[str]
) -> StateDict | None:
    """The state of a network of timm's under the names `own`; None inside `weights_follow`.

    build: makes the network, as timm's create_model. weights: `imagenet` (timm's choice for the name), or a file, of ours
    or of the whole network under timm's names. Raises WeightsError.
    """
    if not _loads.get():
        return None
    overlay = {}
    if weights != "imagenet":
        state = load_weights(weights, network=network)
        prefix = next((p for p in PREFIXES if p + own[0] in state), "")
        if all(prefix + key in state for key in own if not key.endswith("num_batches_tracked")):
            return {key: state[prefix + key] for key in own if prefix + key in state}
        overlay = {"state_dict": state}
    try:
        return build(pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # whatever stands between timm, its hub and this machine
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if overlay:
            raise WeightsError(f"weights={weights}: do not fit {network} of timm ({reason})") from error
        raise WeightsError(
            f"weights: could not get timm's for {network} ({reason}); download pytorch_model.bin of "
            f"https://huggingface.co/timm/{network} elsewhere, and give that file"
        ) from error


def load_detector_weights(spec: str) -> tuple[StateDict, tuple[str, ...] | None]:
    """The state of a whole model, and the names of its classes by its own indices, if they are known.

    `spec` is a file, a run's folder (its best checkpoint), or the name of a detector of torchvision's, such
    as `fasterrcnn_resnet50_fpn_v2`, whose first class is the background. Raises WeightsError.
    """
    if _is_file(spec) or Path(spec).expanduser().is_dir():
        content = _read(_checkpoint(spec))
        classes = content.get("classes") if isinstance(content, dict) else None
        names = classes.get("names") if isinstance(classes, dict) else None
        return _tensors(content, spec), tuple(names) if names else None
    name, _, version = spec.partition(".")
    known = models.list_models(module=models.detection)
    if name not in known:
        raise WeightsError(f"weights={spec}: {_unknown(name, known)}, or a file, or a run's folder")
    entries = models.get_model_weights(name).__members__
    if (version or "DEFAULT") not in entries:
        raise WeightsError(f"weights={spec}: {_unknown(version, list(entries))} for {name}")
    entry = entries[version or "DEFAULT"]
    state = _tensors(_read(_fetch(entry.url)), spec)
    if name in ZERO_EPS and entry.name == "COCO_V1":
        # Our batch norm adds 1e-5 to the variance, so take it off beforehand.
        state = {k: v - 1e-5 if k.endswith("running_var") else v for k, v in state.items()}
    return state, tuple(entry.meta["categories"])


def trained(spec: str) -> tuple[StateDict, str] | None:
    """The state and the configuration of a model of ours in a run's folder or a checkpoint; None for any other weights."""
    if not (_is_file(spec) or Path(spec).expanduser().is_dir()):
        return None
    content = _read(_checkpoint(spec))
    config = content.get("config") if isinstance(content, dict) else None
    return (_tensors(content, spec), config) if isinstance(config, str) else None


def fit_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, ignore: Sequence[str] = ()
) -> None:
    """Load `state` into `module`; every key and shape must agree, except keys below `ignore` that it lacks.

    Raises WeightsError that names the first keys that do not.
    """
    own = module.state_dict()
    anchor = next(iter(own))
    prefix = next((p for p in PREFIXES if p + anchor in state), "")
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    state = {k: v for k, v in state.items() if k in own or not k.startswith(tuple(ignore))}
    # Counters of batch norm: old files and frozen layers have none, and nothing depends on them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} ({list(state[k].shape)} instead of {list(own[k].shape)})"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("not expected", extra), ("of another shape", shapes))
        if keys
    ]
    if problems:
        hint = ""
        if any(k.endswith("running_mean") for k in extra):
            hint = "; the file holds batch norm: type backbone.norm=frozen or backbone.norm=batch"
        elif any(k.endswith("running_mean") for k in missing):
            hint = "; the file holds no batch norm: type backbone.norm=group"
        raise WeightsError(f"weights={source}: do not fit this network: {'; '.join(problems)}{hint}")
    module.load_state_dict(state, strict=False)


def _out_of_a_model(backbone: nn.Module, state: StateDict) -> StateDict:
    """The part of a whole model's state that is its backbone's, under the backbone's own names.

    Of several backbones (a cascade has one for each stage) it is the first. fc6 and fc7 are where a head took them.
    """
    own = backbone.state_dict()
    anchor = next(iter(own))
    prefix = next((k.removesuffix(anchor) for k in state if f".{k}".endswith(f".{anchor}")), "")
    part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    # An SSD has the statistics of its pixels in its state, a backbone by itself has its own.
    part = {k: v for k, v in part.items() if k not in ("mean", "std")}
    for key in own:
        if key.startswith(CLASSIFIERS) and key not in part:
            taken = next((v for k, v in state.items() if k.endswith(f".{key}")), None)
            part |= {} if taken is None else {key: taken}
    return part


def _stages_above(backbone: nn.Module, state: StateDict) -> list[str]:
    """The modules of a backbone's last levels of which `state` has nothing."""
    absent: list[str] = []
    for names in reversed(list(getattr(backbone, "stages", {}).values())):
        modules = [name for name in names if list(backbone.get_submodule(name).parameters())]
        if any(key.startswith(f"{name}.") for name in modules for key in state):
            break
        absent = modules + absent
    return absent


def _checkpoint(spec: str) -> Path:
    path = Path(spec).expanduser()
    return path / "checkpoints" / "best.pt" if path.is_dir() else path


def _is_file(spec: str) -> bool:
    path = Path(spec).expanduser()
    return path.is_file() or (not path.is_dir() and (os.sep in spec or path.suffix in FILE_SUFFIXES))


def _unknown(name: str, known: list[str]) -> str:
    near = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.5)
    guess = f"did you mean {near[close[0]]}? " if close else ""
    return f"unknown name; {guess}There is {', '.join(known)}"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"weights: no such file: {path}")
    try:
        with path.open("rb") as file:
            return torch_file.load(file)
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"weights: {path}: damaged, or not a file of tensors and plain values "
            f"({type(error).__name__}); nothing else is loaded, since it could run code"
        ) from error


def _tensors(content: Any, source: str) -> StateDict:
    """The state inside a file, perhaps below "model" or "state_dict"; of a run its average, if it has one."""
    for key in ("ema", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not state:
        raise WeightsError(f"weights={source}: holds no tensors by name; expected a state_dict")
    return state


def _fetch(url: str) -> Path:
    """The file of a URL in torch.hub's folder, downloaded if it is not there; its hash is in its name."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.stem.rpartition("-")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reason = str(error).replace("\n", " ")
            raise WeightsError(
                f"weights: could not get {url} ({reason}); download it elsewhere and save it as {path}, "
                f"or give a file (its SHA-256 starts with {digits})"
            ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(digits):
        raise WeightsError(
            f"weights: {path}: SHA-256 starts with {digest[: len(digits)]}, expected {digits}; delete it, or "
            f"save {url} there"
        )
    return path
