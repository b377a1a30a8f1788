"""What may be typed behind `cvtasks study NAME` in place of a study's full keys: `image_size=96,128` sets the list
`study.image_size`, and `--from RUN RUN` the list `study.runs`.

A key of the study's YAML file needs no `study.` in front of it, unless all studies have a key of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cvtasks.config.locate import conf_dirs, options
from cvtasks.config.schema import STUDY, StudyConfig

SHARED = {field.name for field in fields(StudyConfig)}


def spelled_out(
    typed: Sequence[str], *, runs: Sequence[str] = (), sweep: bool = False, config_dir: str | None = None
) -> list[str]:
    """The overrides in full, `study=NAME` among them.

    runs: what stands behind `--from`, words of the command line that follow it included. sweep: commas separate jobs, and
    make no lists.
    """
    words = [word for word in runs if "=" in word and not Path(word).exists()]
    folders = [word for word in runs if word not in words]
    name = next((word.removeprefix("study=") for word in typed if word.startswith("study=")), "")
    own = settings_of(name, config_dir)
    full = [_full(word, own, sweep) for word in (*typed, *words)]
    quoted = ",".join('"' + folder.replace('"', '\\"') + '"' for folder in folders)
    return [*full, *([f"study.runs=[{quoted}]"] if folders else [])]


def settings_of(name: str, config_dir: str | None = None) -> dict[str, Any]:
    """The settings of a study with their defaults, those of a study that it builds on included.

    None where its file is not there, or not readable.
    """
    import yaml

    file = options(STUDY, conf_dirs(config_dir)).get(name)
    if file is None:
        return {}
    text = file.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:  # composing tells the line
        return {}
    if not isinstance(values, Mapping):
        return {}
    below = [
        each
        for each in values.get("defaults") or ()
        if isinstance(each, str) and each not in ("_self_", name)
    ]
    found = {key: value for each in below for key, value in settings_of(each, config_dir).items()}
    node = values.get(STUDY) if "@package _global_" in text else values
    own = node if isinstance(node, Mapping) else {}
    return found | {key: own[key] for key in own if key not in ("name", "_target_", "defaults", *SHARED)}


def _full(word: str, own: Mapping[str, Any], sweep: bool) -> str:
    key, _, value = word.partition("=")
    if key.partition(".")[0] not in own:
        return word
    if isinstance(own.get(key), list) and not sweep and not value.startswith("["):
        value = f"[{value}]"
    return f"{STUDY}.{key}={value}"
