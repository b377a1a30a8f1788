"""The command line from outside: what is printed where, exit codes, and what is imported for it."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from config.toy import write_run, write_user_folder, write_yaml
from sweeps import stand_ins

import cvtasks
from cvtasks import __version__
from cvtasks.cli import main
from cvtasks.errors import CvtasksError, DataError, NonFiniteLossError
from cvtasks.usage import VERBS

Calls = list[tuple[str, dict[str, Any], dict[str, Any]]]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A user's folder, and an application that notes what it was called with; `seed` makes it fail.

    The jobs of a sweep run in this process, too.
    """
    stand_ins.in_process(monkeypatch)
    write_user_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "toy_model", raising=False)
    noted: Calls = []
    errors: dict[int, Exception] = {
        101: DataError("voc: a.xml: broken"),
        102: KeyError("a bug"),
        103: MemoryError(),
        104: OSError(28, "No space left on device", "runs/last.pt"),
        105: NonFiniteLossError("step 3"),
        106: PermissionError(13, "Permission denied", "/locked"),
    }

    def verb(name: str) -> Callable[..., Any]:
        def call(*given: Any, **sources: Any) -> float:
            config = given[-1]
            noted.append((name, config, sources | {"first": given[0]}))
            if config["seed"] in errors:
                raise errors[config["seed"]]
            if config["seed"] == 107:
                raise KeyboardInterrupt
            return 0.5

        return call

    for room, names in (("app", ("train", "resume")), ("judge", ("evaluate", "predict"))):
        module = types.ModuleType(f"cvtasks.{room}")
        for name in names:
            setattr(module, name, verb(name))
        monkeypatch.setitem(sys.modules, f"cvtasks.{room}", module)
        monkeypatch.setattr(cvtasks, room, module, raising=False)
    return noted


def test_train_hands_the_checked_configuration_to_the_application(calls: Calls) -> None:
    assert main(["train", "task=toy", "dataset=voc", "-cd", "conf", "run_dir=R"]) == 0
    [(name, config, more)] = calls
    assert (name, config["run_dir"], config["task"]["name"]) == ("train", "R", "toy")
    assert more["sources"] == {"optimizer.lr": "0.02 x 6 / 16", "engine.max_steps": "90000 x 16 / 6"}
    json.dumps(config)  # plain values only


def test_hydra_itself_writes_nothing(calls: Calls, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts}
    assert main(["train", "task=toy", "-cd", "conf"]) == 0
    assert {p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts} == before
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("seed", "code", "line"),
    [
        (101, 2, "cvtasks: voc: a.xml: broken"),
        (103, 4, "cvtasks: out of memory"),
        (104, 5, "cvtasks: runs/last.pt: the disk is full"),
        (105, 3, "cvtasks: step 3"),
        (106, 1, "cvtasks: /locked: Permission denied"),
        (107, 130, "cvtasks: stopped"),
    ],
)
def test_every_failure_is_one_line_and_its_own_exit_code(
    calls: Calls, capsys: pytest.CaptureFixture[str], seed: int, code: int, line: str
) -> None:
    assert main(["train", "task=toy", "-cd", "conf", f"seed={seed}"]) == code
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


def test_a_bug_of_ours_keeps_its_traceback(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="a bug"):
        main(["train", "task=toy", "-cd", "conf", "seed=102"])
    assert "Error executing job" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("train taks=toy", "there is no setting taks; did you mean task?"),
        ("train task=toy -cd conf optimizer.lr=fast", "optimizer.lr: expected a number above 0, not 'fast'"),
        ("trian task=toy", "there is no verb trian; did you mean train?"),
        ("frobnicate", "there is no verb frobnicate; there are train, eval"),
        ("task=toy seed=1", "a verb comes first: cvtasks train task=toy seed=1"),
        (
            "train --mutlirun task=toy",
            "--mutlirun: cvtasks train has no such option; did you mean --multirun?",
        ),
        ("train --experimental-rerun x", "cvtasks train has no such option"),
        ("train -cd", "argument --config-dir/-cd: expected one argument"),
        ("train --cfg jbo", "invalid choice: 'jbo'"),
        ("eval", "there is no run with a checkpoint below runs/"),
        ("eval run=nowhere", "run=nowhere: there is no such folder"),
        ("eval checkpoint=nowhere.pt", "checkpoint=nowhere.pt: there is no such file"),
        ("predict run=R -cd conf plugins=[toy_model]", "source: is not set; type source=..."),
        ("resume", "type which run: cvtasks resume RUN"),
        ("resume R S", "resume takes one run, not R, S"),
        ("resume nowhere", "run=nowhere: there is no such folder"),
        ("list taskss", "there are no taskss; did you mean tasks?"),
        ("config task=toy -cd conf --why optimizer.lt", "did you mean optimizer.lr?"),
        ("proposals", "type which method: cvtasks proposals method=NAME, one of "),
        ("proposals method=nonsense", "there is no proposals nonsense; there are "),
        ("completion tcsh", "type which shell: cvtasks completion bash|zsh|fish"),
    ],
)
def test_what_is_typed_wrong_exits_with_2_and_one_line(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str, line: str
) -> None:
    if "run=R" in typed:
        main(["config", "task=toy", "-cd", "conf"])
        write_run(tmp_path / "R", capsys.readouterr().out)
    assert main(typed.split()) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert (printed.out, calls) == ("", [])


def test_a_sweep_gives_every_job_a_folder_and_goes_on_behind_a_failing_one(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", "task=toy", "-cd", "conf", "seed=101,102,4", "engine.max_steps=5"]) == 1
    assert [config["seed"] for _, config, _ in calls] == [101, 102, 4]
    folders = [Path(config["run_dir"]) for _, config, _ in calls]
    assert [f.name for f in folders] == ["0_seed-101", "1_seed-102", "2_seed-4"]
    assert {f.parent.parent for f in folders} == {Path("runs/sweeps")}
    assert len({f.parent for f in folders}) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(
        "cvtasks: 2 of the sweep's jobs failed: job 0 (seed=101): exit code 2: voc: a.xml: broken; log: runs/sweeps/"
    )
    assert "job 1 (seed=102): exit code 1: KeyError: 'a bug'; log: " in error
    assert "Traceback" in (folders[0].parent / "1_seed-102.log").read_text()


def test_a_sweep_may_be_told_its_folder_and_chooses_each_jobs_own_recipe(calls: Calls) -> None:
    assert main(["train", "-m", "task=toy", "-cd", "conf", "dataset=shapes,voc", "run_dir=mine"]) == 0
    found = [(config["run_dir"], config["backbone"]["name"]) for _, config, _ in calls]
    assert found == [("mine/0_dataset-shapes", "tiny"), ("mine/1_dataset-voc", "resnet50")]


def test_a_sweep_over_folders_keeps_them(calls: Calls) -> None:
    assert main(["train", "-m", "task=toy", "-cd", "conf", "run_dir=a,b"]) == 0
    assert [config["run_dir"] for _, config, _ in calls] == ["a", "b"]


def test_a_sweep_with_a_mistake_in_a_later_job_does_not_start(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", "task=toy", "-cd", "conf", "optimizer.lr=0.1,slow"]) == 2
    assert "optimizer.lr: expected a number above 0, not 'slow'" in capsys.readouterr().err
    assert calls == []
    assert list(Path("runs/sweeps").iterdir()) == []


def test_eval_predict_and_resume_start_from_the_run(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", "task=toy", "seed=7", "-cd", "conf"])
    text = capsys.readouterr().out
    for name in ("runs/a", "runs/b (new) = 1, 2"):
        write_run(tmp_path / name, text)
    own = ["-cd", "conf", "plugins=[toy_model]"]
    assert main(["eval", "-m", "run=runs/a", "seed=8,9", *own]) == 0
    assert main(["predict", "run=runs/a", "source='x/*.jpg'", *own]) == 0
    assert main(["resume", "runs/b (new) = 1, 2", *own]) == 0
    names = [(name, config["run"], config["seed"]) for name, config, _ in calls]
    assert names == [
        ("evaluate", "runs/a", 8),
        ("evaluate", "runs/a", 9),
        ("predict", "runs/a", 7),
        ("resume", "runs/b (new) = 1, 2", 7),
    ]
    assert calls[2][1]["source"] == "x/*.jpg"
    assert calls[3][2]["first"] == Path("runs/b (new) = 1, 2")


def test_list_tells_each_option_with_its_first_comment(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(Path.cwd(), "experiment/deep/mine", "# @package _global_\n\n# Too late\nseed: 1\n")
    assert main(["list", "tasks", "-cd", "conf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.split()[0] == "toy").endswith("  A toy for tests")
    assert any(line.startswith("faster_rcnn ") for line in lines)
    assert main(["list", "experiments", "-cd", "conf"]) == 0
    assert "deep/mine" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert {"tasks", "backbones", "datasets"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }


def test_config_prints_yaml_that_composes_to_the_same_again(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", "task=toy", "dataset=voc", "-cd", "conf", "optimizer.lr=1e-7"])
    first = capsys.readouterr().out
    assert yaml.safe_load(first)["optimizer"]["lr"] == 1e-7
    write_run(tmp_path / "R", first)
    main(["resume", "R", "-cd", "conf", "plugins=[toy_model]"])
    resumed = {k: v for k, v in calls[0][1].items() if k not in ("run", "checkpoint", "run_dir")}
    assert resumed == {k: v for k, v in yaml.safe_load(first).items() if k != "run_dir"}


def test_cfg_job_prints_what_would_be_composed(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "task=toy", "-cd", "conf", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["optimizer"]["lr"] == 0.03
    assert (
        main(["train", "task=toy", "-cd", "conf", "--cfg", "job", "-p", "optimizer", "optimizer=adamw"]) == 0
    )
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "adamw"
    assert calls == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([verb, "--help"], [verb, "x=1", "-h"], ["help", verb]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert text == VERBS[verb]
        assert text.count(f"cvtasks {verb}") >= 3


def run(*words: str, code: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "cvtasks", *words]
    root = str(Path(cvtasks.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize(
    "words", ["--help", "--version", "train --help", "nonsense", "list tasks", "completion bash"]
)
def test_what_needs_neither_hydra_nor_torch_imports_neither(words: str) -> None:
    code = (
        f"import sys; from cvtasks.cli import main; main({words.split()!r});"
        "print([m for m in ('hydra', 'omegaconf', 'torch', 'numpy') if m in sys.modules])"
    )
    assert run(code=code).stdout.splitlines()[-1] == "[]"


def test_composing_needs_no_torch() -> None:
    code = (
        "import sys; from cvtasks.cli import main; main(['train', 'task=faster_rcnn', '--cfg', 'job']);"
        "print('torch' in sys.modules)"
    )
    assert run(code=code).stdout.splitlines()[-1] == "False"


def test_the_package_runs_as_a_program(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"cvtasks {__version__}\n"
    wrong = run("train", "taks=faster_rcnn", folder=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "cvtasks: there is no setting taks; did you mean task?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    root = str(Path(cvtasks.__file__).parent.parent)
    script = f"set -o pipefail; '{sys.executable}' -m cvtasks list | true"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=os.environ | {"PYTHONPATH": root}, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cvtasks tr", ["train"]),
        ("cvtasks train datas", ["dataset.", "dataset="]),
        ("cvtasks train dataset=v", ["dataset=voc"]),
        ("cvtasks train -m optimizer=sgd,a", ["optimizer=sgd,adamw"]),
        ("cvtasks train optimizer=sgd optimizer.mo", ["optimizer.momentum="]),
        ("cvtasks train optimizer=adamw optimizer.mo", []),
        ("cvtasks train -cd conf task=to", ["task=toy"]),
        ("cvtasks train -cd conf task=toy task.loss_weights.f", ["task.loss_weights.first="]),
        ("cvtasks eval predi", ["predictions="]),
        ("cvtasks predict score", ["score_threshold="]),
        ("cvtasks predict recip", []),
        ("cvtasks train proposals=n", ["proposals=none"]),
        ("cvtasks proposals me", ["method="]),
        ("cvtasks proposals method=fi", ["method=file"]),
        ("cvtasks proposals method=file proposals.tr", ["proposals.train="]),
        ("cvtasks proposals method=file sp", ["split="]),
        ("cvtasks proposals engine", []),
        ("cvtasks list prop", ["proposals"]),
        ("cvtasks list exp", ["experiments"]),
        ("cvtasks completion f", ["fish"]),
        ("cvtasks train run_dir=a", []),
    ],
)
def test_completion_offers(
    calls: Calls, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    assert main(["complete", line]) == 0
    assert capsys.readouterr().out.split() == expected


def test_bash_completes_behind_the_equals_sign(tmp_path: Path) -> None:
    """In bash itself, with a `cvtasks` on its path."""
    program = tmp_path / "cvtasks"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m cvtasks \"$@\"\n")
    program.chmod(0o755)
    script = (
        'eval "$(cvtasks completion bash)"; compopt() { echo "$2"; };'
        'ask() { COMP_LINE="$1"; COMP_POINT=${#1}; _cvtasks; echo "${COMPREPLY[*]}"; };'
        'ask "cvtasks tr"; ask "cvtasks train dataset=v"; ask "cvtasks train optimizer.l"'
    )
    path = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(cvtasks.__file__).parent.parent),
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, env=os.environ | path, check=True
    )
    assert done.stdout.splitlines() == ["train", "voc", "nospace", "optimizer.lr="]


def test_errors_of_this_package_carry_their_exit_code() -> None:
    assert {error.exit_code for error in (CvtasksError, DataError, NonFiniteLossError)} == {1, 2, 3}


def test_hydras_own_reading_of_the_command_line_is_not_used(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.14 argparse refuses a help text in Hydra 1.3's parser: `badly formed help string`."""

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("badly formed help string")

    monkeypatch.setattr("hydra._internal.utils.get_args_parser", refuse)
    assert main(["train", "task=toy", "-cd", "conf"]) == 0
    assert main(["train", "task=toy", "-cd", "conf", "--cfg", "job"]) == 0
    assert main(["train", "-m", "task=toy", "-cd", "conf"]) == 0
    assert len(calls) == 2
