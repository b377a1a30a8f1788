"""The command line: verbs, help and exit codes. What stands after a verb is Hydra's.

Neither Hydra nor torch is imported before a verb needs it, so that help, `list` and completion answer at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cvtasks import __version__
from cvtasks.config.suggest import did_you_mean
from cvtasks.errors import ConfigError, CvtasksError, OutOfDiskError, OutOfMemoryError
from cvtasks.usage import HELP, VERBS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. One line on stderr tells what a user can put right."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except BrokenPipeError:  # `cvtasks list | head`
        _drop_output()
        return 0
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        if isinstance(explained, OutOfDiskError):
            _drop_output()
        return _say(str(explained), explained.exit_code)


def _main(words: list[str]) -> int:
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    if verb in ("--help", "-h", "help"):
        print(VERBS.get(rest[0], HELP) if rest else HELP, end="")
    elif verb in ("--version", "-V"):
        print(f"cvtasks {__version__}")
    elif verb == "complete":  # asked by the completion scripts
        from cvtasks.config.completion import candidates

        print("\n".join(candidates(" ".join(rest), list(VERBS))))
    elif verb not in VERBS:
        raise ConfigError(_no_verb(verb, words))
    elif "--help" in rest or "-h" in rest:
        print(VERBS[verb], end="")
    elif verb == "list":
        _list(_flags(verb, rest))
    elif verb == "config":
        _config(_flags(verb, rest))
    elif verb == "completion":
        from cvtasks.config.completion import script

        print(script(rest[0] if rest else ""), end="")
    else:
        _launch(verb, _flags(verb, rest))
    return 0


def explain(error: BaseException) -> CvtasksError | None:
    """The error as one that a user can put right; None if it is a bug of ours."""
    if isinstance(error, CvtasksError):
        return error
    if isinstance(error, MemoryError) or ("torch" in sys.modules and _is_out_of_memory(error)):
        what = (str(error).splitlines() or ["memory"])[0]
        return OutOfMemoryError(f"out of memory: {what}; try a smaller loader.batch_size or pipeline.size")
    if "WORLD_SIZE" in os.environ and isinstance(error, RuntimeError) and "peer" in str(error):
        return CvtasksError("another process of this training has ended; its own line says why")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfDiskError(error.filename or "a file or the standard output")
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) and error.filename:
        return CvtasksError(f"{error.filename}: {error.strerror}")
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    from cvtasks.engine.memory import is_out_of_memory

    return is_out_of_memory(error)


def _launch(verb: str, flags: argparse.Namespace) -> None:
    if verb == "resume":
        flags.overrides = _with_run(flags.overrides)
    if verb == "study":
        from cvtasks.config.study_words import spelled_out

        flags.overrides = spelled_out(
            _with_study(flags.overrides, flags.config_dir),
            runs=flags.runs,
            sweep=flags.multirun,
            config_dir=flags.config_dir,
        )
    if verb == "proposals":
        flags.overrides = _with_method(flags.overrides, flags.config_dir)
    if verb == "tune":
        from cvtasks.sweeps.tune import tune

        tune(flags)
        return
    if flags.multirun and not flags.cfg and not flags.info:
        from cvtasks.sweeps.sweep import sweep

        sweep(verb, flags)
        return
    from cvtasks.config.launch import launch

    def job(config: dict[str, Any], scaled: dict[str, str]) -> float | None:
        if verb in ("train", "resume"):
            from cvtasks import app

            if verb == "train":
                return app.train(config, sources=scaled)
            return app.resume(Path(config["run"]), config)
        if verb == "study":
            from cvtasks.studies.conduct import conduct

            conduct(config, config_dir=flags.config_dir)
            return None
        if verb == "proposals":
            from cvtasks.proposal_run import propose

            propose(config)
            return None
        from cvtasks import judge

        if verb == "eval":
            return judge.evaluate(config)
        judge.predict(config)
        return None

    def measure(config: dict[str, Any]) -> int:
        from cvtasks.batch_size import largest

        return largest(config)

    launch(verb, flags, job, measure)


def _with_run(overrides: list[str]) -> list[str]:
    """`resume RUN`: the folder may hold any character."""
    folders = [o for o in overrides if "=" not in o or Path(o).is_dir()]
    if len(folders) > 1:
        raise ConfigError(f"resume takes one run, not {', '.join(folders)}")
    if not folders and not any(o.startswith("run=") for o in overrides):
        raise ConfigError("type which run: cvtasks resume RUN")
    quoted = ['run="' + folder.replace('"', '\\"') + '"' for folder in folders]
    return quoted + [o for o in overrides if o not in folders]


def _with_study(overrides: list[str], config_dir: str | None) -> list[str]:
    """`study NAME`: a word that sets nothing is the name."""
    names = [o for o in overrides if "=" not in o and not o.startswith("~")]
    if len(names) > 1:
        raise ConfigError(f"study takes one name, not {', '.join(names)}")
    if not names and not any(o.startswith("study=") for o in overrides):
        from cvtasks.config.locate import conf_dirs, options

        known = ", ".join(options("study", conf_dirs(config_dir)))
        raise ConfigError(f"type which study: cvtasks study NAME, one of {known}")
    return [f"study={name}" for name in names] + [o for o in overrides if o not in names]


def _with_method(overrides: list[str], config_dir: str | None) -> list[str]:
    """`proposals method=NAME`: the choice of the group that tasks know as `proposals=NAME`."""
    if not any(o.startswith(("method=", "proposals=")) for o in overrides):
        from cvtasks.config.locate import conf_dirs, options

        known = ", ".join(options("proposals", conf_dirs(config_dir)))
        raise ConfigError(f"type which method: cvtasks proposals method=NAME, one of {known}")
    return ["proposals" + o.removeprefix("method") if o.startswith("method=") else o for o in overrides]


def _list(flags: argparse.Namespace) -> None:
    from cvtasks.config.locate import conf_dirs, groups, options, plural, summary

    folders = conf_dirs(flags.config_dir)
    known = groups(folders)
    if not flags.overrides:
        for group in known:
            print(f"{plural(group):14}{', '.join(options(group, folders))}")
        return
    for word in flags.overrides:
        named = [group for group in known if word in (group, plural(group))]
        if not named:
            raise ConfigError(f"there are no {word}" + _near(word, [plural(group) for group in known]))
        found = options(named[0], folders)
        if not found:
            print(
                f"There is no {named[0]} yet: a YAML file in {named[0]}/ of your own folder makes one (-cd DIR)."
            )
        width = max(map(len, found), default=0) + 2
        for option, file in found.items():
            print(f"{option:{width}}{summary(file)}".rstrip())


def _config(flags: argparse.Namespace) -> None:
    if flags.why is not None:
        from cvtasks.config.why import why

        print(why("train", flags.overrides, flags.why, config_dir=flags.config_dir))
        return
    import yaml

    from cvtasks.config.compose import compose

    config = compose("train", flags.overrides, config_dir=flags.config_dir)
    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _flags(verb: str, words: list[str]) -> argparse.Namespace:
    """The options before, between and after the overrides; Hydra's own names for what is Hydra's."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--config-dir", "-cd")
    if verb == "config":
        parser.add_argument("--why")
    elif verb == "tune":
        parser.add_argument("--config-name", "-cn")
    elif verb != "list":
        parser.add_argument("--config-name", "-cn")
        parser.add_argument("--multirun", "-m", action="store_true")
        if verb == "study":
            parser.add_argument("--from", nargs="+", default=[], dest="runs")
        parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        parser.add_argument("--package", "-p")
        parser.add_argument("--resolve", action="store_true")
        infos = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
        parser.add_argument("--info", "-i", nargs="?", const="all", choices=infos)
    known = [name for action in parser._actions for name in action.option_strings]
    for word in words:
        if word.startswith("-") and word.split("=")[0] not in known:
            raise ConfigError(f"{word}: cvtasks {verb} has no such option" + did_you_mean(word, known))
    return parser.parse_intermixed_args(words)


def _no_verb(word: str, words: Sequence[str]) -> str:
    if "=" in word:
        return f"a verb comes first: cvtasks train {' '.join(words)}"
    return f"there is no verb {word}" + _near(word, VERBS)


def _near(word: str, names: Collection[str]) -> str:
    return did_you_mean(word, names, otherwise=f"; there are {', '.join(names)}")


def _drop_output() -> None:
    """Whatever cannot be printed any more; else Python would complain of it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str, code: int) -> int:
    print(f"cvtasks: {line}", file=sys.stderr, flush=True)
    return code
