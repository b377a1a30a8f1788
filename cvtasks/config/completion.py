"""Shell completion of verbs, groups, their options, and keys. Reads the YAML files, without Hydra: it must be quick.

A script (`cvtasks completion bash`) asks `cvtasks complete LINE`, LINE being the command line up to the cursor, and
gets whole words for the last one. Where there are none the shell offers files, for `run=`, `checkpoint=`, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cvtasks.config.locate import conf_dirs, groups, options, plural
from cvtasks.config.schema import CHOICES, GROUPS, PROPOSALS, STUDY
from cvtasks.errors import ConfigError

SCRIPTS = {
    "bash": """\
_cvtasks() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${line##* }"
    COMPREPLY=($(cvtasks complete "$line" 2>/dev/null))
    # bash ends words at = and :, and wants what stands behind the last one.
    COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _cvtasks cvtasks
""",
    "zsh": """\
#compdef cvtasks
_cvtasks() {
    local -a found
    found=("${(@f)$(cvtasks complete "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    if [[ -n "$found[1]" ]]; then compadd -S '' -- $found; else _files; fi
}
compdef _cvtasks cvtasks
""",
    "fish": """\
complete -c cvtasks -a '(cvtasks complete (commandline -cp | string collect --no-trim-newlines) 2>/dev/null)'
""",
}
FLAGS = ["-m", "-cd", "--cfg", "--info", "-cn", "--help"]


def script(shell: str) -> str:
    """The script for a shell. Raises ConfigError for one that there is none for."""
    if shell not in SCRIPTS:
        raise ConfigError(f"type which shell: cvtasks completion {'|'.join(SCRIPTS)}")
    return SCRIPTS[shell]


def candidates(line: str, verbs: Sequence[str]) -> list[str]:
    """Words that may stand where the line ends, sorted; those of keys end in `=` or `.`."""
    *before, word = line.lstrip().split(" ")
    before = [w for w in before if w]
    if len(before) < 2:
        return [v for v in verbs if v.startswith(word)]
    verb = before[1]
    user_dir = next((b for a, b in pairwise(before) if a in ("-cd", "--config-dir")), None)
    folders = conf_dirs(user_dir if user_dir and Path(user_dir).is_dir() else None)
    if before[-1] in ("-cd", "--config-dir"):
        return []
    if verb == "completion":
        found: Sequence[str] = list(SCRIPTS)
    elif verb == "list":
        found = [plural(group) for group in groups(folders)]
    elif word.startswith("-"):
        found = ["--why", "-cd", "--help"] if verb == "config" else FLAGS
    elif "=" in word:
        key, _, value = word.partition("=")
        group = PROPOSALS if (verb, key) == (PROPOSALS, "method") else key
        typed = value[: value.rfind(",") + 1]  # a sweep's earlier values
        found = [f"{key}={typed}{option}" for option in options(group, folders)]
    elif verb == STUDY and not set(before) & (studies := options(STUDY, folders)).keys():
        found = list(studies)
    else:
        found = _keys("train" if verb in ("config", "tune") else verb, word, before, folders)
        found = [*found, *_own_keys(verb, word, sweep="-m" in before)]
    return sorted(w for w in set(found) if w.startswith(word))


def _own_keys(verb: str, word: str, *, sweep: bool) -> list[str]:
    """What a sweep or a search takes beside its jobs' keys."""
    keys = ["sweep.jobs=", "sweep.devices="] if sweep or verb == "tune" else []
    own = ["trials=", "pruning="] if verb == "tune" else []
    return [*own, *(keys if word.startswith("sweep.") else ["sweep."] if keys else [])]


def _keys(verb: str, word: str, before: Sequence[str], folders: list[Path]) -> list[str]:
    """Groups and keys, one level of dots at a time: `optimizer=`, `optimizer.`, `optimizer.lr=`."""
    chosen = dict(w.split("=", 1) for w in before if "=" in w)
    if verb == STUDY:
        chosen[STUDY] = next(w for w in before if w in options(STUDY, folders))
    keys = (
        list(_leaves(_read(folders[0] / f"{verb}.yaml"))) if (folders[0] / f"{verb}.yaml").is_file() else []
    )
    known = [g for g in groups(folders) if g != STUDY and (verb == "train" or g not in CHOICES)]
    own: Sequence[str] = GROUPS
    if verb == STUDY:
        known, own = [], (STUDY,)  # its name was typed
        if "override /dataset:" in options(STUDY, folders)[chosen[STUDY]].read_text(encoding="utf-8"):
            known, own = ["dataset"], (STUDY, "dataset")
    if verb == PROPOSALS:
        known, own = ["method", "dataset"], (PROPOSALS, "dataset")
        chosen |= {PROPOSALS: chosen["method"]} if "method" in chosen else {}
    for group in own:
        found = options(group, folders)
        for file in [found[chosen[group]]] if chosen.get(group) in found else found.values():
            text = file.read_text(encoding="utf-8")
            prefix = "" if "@package _global_" in text else f"{group}."
            keys += [prefix + key for key in _leaves(_read(file))]
    if verb == STUDY:  # which need no prefix
        keys += [key.removeprefix(f"{STUDY}.") for key in keys if key.startswith(f"{STUDY}.")]
    level = word.count(".")
    parts = [key.split(".") for key in keys]
    return [f"{group}=" for group in known] + [
        ".".join(p[: level + 1]) + ("." if len(p) > level + 1 else "=") for p in parts if len(p) > level
    ]


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:  # the user's own file, half written
        return {}
    return {k: v for k, v in values.items() if k != "defaults"} if isinstance(values, dict) else {}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key not in ("_target_", "name"):
            yield f"{prefix}{key}"
