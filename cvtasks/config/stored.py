"""A trained model's own configuration: of a run's folder, or of a checkpoint.

It may come from anywhere, so it is read as plain data: keys that a training configuration does not have are refused
(Hydra's own among them, which name classes), and every interpolation but `${oc.env:NAME}` in the place of a path, as a run
writes it for a value from the environment. Its plug-ins are never loaded.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvtasks.config.environment import leaves, may_hold
from cvtasks.config.schema import TrainConfig, defaults
from cvtasks.config.suggest import did_you_mean
from cvtasks.config.yaml_text import check_size
from cvtasks.errors import ConfigError

OPTION = "checkpoint"
"""The name under which Hydra knows the nodes of a stored configuration."""
OLDER = {"proposals": {"name": "none", "_target_": "cvtasks.proposals.method.NoProposals"}}
"""Nodes that a run of an older version lacks"""
RUNS = Path("runs")
NAMES = ("best.pt", "last.pt")


def load(verb: str, *, run: Any = None, checkpoint: Any = None) -> dict[str, Any]:
    """The stored configuration, with `run` and `checkpoint`; neither given: those of the newest run below runs/.

    For eval and predict its `run_dir` and `weights` are gone, as the checkpoint replaces them; the backbone's
    `weights` stay, as they decide what `norm: auto` is. For resume `run_dir` is the folder itself.
    Raises ConfigError naming the file.
    """
    if checkpoint is not None:
        file = Path(str(checkpoint))
        if not file.is_file():
            raise ConfigError(f"checkpoint={checkpoint}: there is no such file")
        text, source = _text_of(str(file), file.stat().st_mtime_ns), file
        folder = file.resolve().parent.parent
        found_run = (
            str(run) if run is not None else _relative(folder) if (folder / "config.yaml").is_file() else None
        )
        found_checkpoint: str | None = str(checkpoint)
    else:
        folder = Path(str(run)) if run is not None else newest_run()
        source = folder / "config.yaml"
        if not folder.is_dir():
            raise ConfigError(f"run={folder}: there is no such folder" + did_you_mean(str(folder), _runs()))
        if not source.is_file():
            raise ConfigError(f"run={folder}: there is no config.yaml in it")
        names = NAMES if verb != "resume" else NAMES[::-1]
        found_run = str(folder)
        found_checkpoint = next((str(f) for n in names if (f := folder / "checkpoints" / n).is_file()), None)
        if verb != "resume" and found_checkpoint is None:
            raise ConfigError(f"run={folder}: it has no checkpoints/{NAMES[0]} yet")
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{source}: its configuration is damaged: not UTF-8") from None
    config = parse(text, source)
    config = defaults(TrainConfig) | OLDER | config | {"plugins": []}
    if verb == "resume":
        config["run_dir"] = found_run
    else:
        config |= {"run_dir": None, "weights": None}
    return config | {"run": found_run, "checkpoint": found_checkpoint}


def newest_run() -> Path:
    """The run below runs/ that was started last and has a checkpoint. Raises ConfigError if there is none."""
    runs = [r for r in map(Path, _runs()) if any((r / "checkpoints" / n).is_file() for n in NAMES)]
    if not runs:
        raise ConfigError(
            f"there is no run with a checkpoint below {RUNS}/: type run=FOLDER or checkpoint=FILE"
        )
    return max(runs, key=lambda r: (r / "config.yaml").stat().st_mtime_ns)


def _runs() -> list[str]:
    """Folders below runs/ with a config.yaml; nothing is looked for inside of one."""
    found = []
    for folder, inner, files in os.walk(RUNS):
        if "config.yaml" in files:
            found.append(folder)
            inner.clear()
    return sorted(found)


@lru_cache(maxsize=2)
def _text_of(file: str, _changed: int) -> str:
    from cvtasks.engine.checkpoint import load as load_checkpoint  # late: it imports torch

    text = load_checkpoint(Path(file)).get("config")
    if not isinstance(text, str):
        raise ConfigError(f"checkpoint={file}: it holds no configuration")
    return text


def parse(text: str, source: Path) -> dict[str, Any]:
    """A stored configuration as plain data. Raises ConfigError that names the source."""
    check_size(text, str(source))
    try:
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(
            f"{source}: its configuration is damaged: {next(iter(str(error).splitlines()), '')}"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{source}: its configuration is not a mapping")
    known = TrainConfig.__dataclass_fields__
    for key, node in config.items():
        if str(key) not in known:
            raise ConfigError(f"{source}: its configuration has a key {key!r} that cvtasks does not know")
        # Hydra would compose other nodes by it, also where it builds what they name.
        if isinstance(node, dict) and "defaults" in node:
            raise ConfigError(
                f"{source}: its configuration has a key {str(key) + '.defaults'!r}, which a run never writes"
            )
    for key, value in leaves(config):
        if "${" in key or ("${" in str(value) and not may_hold(key, str(value))):
            raise ConfigError(
                f"{source}: its configuration holds an interpolation at {key} (${{...}}), which a run never writes there"
            )
    return {str(key): value for key, value in config.items()}


def _relative(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
