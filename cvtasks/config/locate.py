"""Where the YAML files lie: in a wheel `cvtasks/conf`, in a checkout `conf` beside the package.

Standard library only, so that `list` and completion answer at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cvtasks
from cvtasks.config.schema import CHOICES, GROUPS, STUDY
from cvtasks.errors import ConfigError


@cache
def conf_dir() -> Path:
    """The folder with our own YAML files. Raises ConfigError if the installation lacks it."""
    package = Path(cvtasks.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"{package / 'conf'} is missing: install cvtasks again")


def conf_dirs(user_dir: str | None = None) -> list[Path]:
    """Our folder, then the user's (`-cd`). Raises ConfigError if the latter is not there."""
    if user_dir is None:
        return [conf_dir()]
    if not Path(user_dir).is_dir():
        raise ConfigError(f"--config-dir {user_dir}: there is no such folder")
    return [conf_dir(), Path(user_dir).resolve()]


def groups(folders: list[Path]) -> list[str]:
    """The names of all configuration groups, sorted; ours also while they are empty."""
    found = {f.name for folder in folders for f in folder.iterdir() if f.is_dir() and any(_files(f))}
    return sorted(found | {*GROUPS, *CHOICES, STUDY})


def plural(group: str) -> str:
    """What `cvtasks list` calls a group."""
    if group.endswith("s"):
        return group
    return f"{group[:-1]}ies" if group.endswith("y") else f"{group}s"


def options(group: str, folders: list[Path]) -> dict[str, Path]:
    """The group's options and their files, sorted by name; as in Hydra the first folder that has one wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in _files(folder / group):
            found.setdefault(file.relative_to(folder / group).with_suffix("").as_posix(), file)
    return dict(sorted(found.items()))


def _files(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.yaml")


def summary(file: Path) -> str:
    """What a YAML file says of itself: its first comment."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""
