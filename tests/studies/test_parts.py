"""What is done is not done again; what fails takes nothing with it."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cvtasks.errors import ConfigError, DataError, Interrupted, OutOfDiskError
from cvtasks.studies.parts import Result, StudyRun

Calls = list[Path]


def working(calls: Calls, result: Result) -> Callable[[Path], Result]:
    def work(folder: Path) -> Result:
        calls.append(folder)
        return result

    return work


def test_a_part_is_done_once(tmp_path: Path) -> None:
    calls: Calls = []
    work = working(calls, {"value": 3, "undefined": float("nan")})
    with StudyRun.create(tmp_path / "R", "x") as run:
        first = run.part("a", work, settings={"steps": 5, "sizes": (1, 2)})
    with StudyRun.create(tmp_path / "R", "x") as run:
        second = run.part("a", work, settings={"steps": 5, "sizes": (1, 2)})
    assert calls == [tmp_path / "R" / "parts" / "a"]
    assert first is not None
    assert first == second
    assert (first["value"], first["undefined"]) == (3, None)
    assert 0 <= first["seconds"] < 60


def test_what_the_work_says_of_its_time_holds(tmp_path: Path) -> None:
    with StudyRun(tmp_path) as run:
        result = run.part("a", working([], {"seconds": 1234.5}), settings={})
    assert result == {"seconds": 1234.5}


@pytest.mark.parametrize("done", [True, False])
def test_other_settings_are_not_taken_for_the_same(tmp_path: Path, done: bool) -> None:
    def stopped(_: Path) -> Result:
        raise DataError("broken")

    with StudyRun(tmp_path) as run:
        run.part(
            "a", working([], {}) if done else stopped, settings={"engine": {"max_steps": 5, "ema": None}}
        )
        with pytest.raises(ConfigError, match=r"engine.max_steps: 5, and now 6.*choose another run_dir"):
            run.part("a", working([], {}), settings={"engine": {"max_steps": 6, "ema": None}})
        with pytest.raises(ConfigError, match=r"engine.ema: None, and now absent"):
            run.part("a", working([], {}), settings={"engine": {"max_steps": 5}})


@pytest.mark.parametrize("error", [DataError("a.png: broken"), ZeroDivisionError("a bug"), MemoryError()])
def test_a_failing_part_is_named_the_others_are_done_and_it_is_tried_again(
    tmp_path: Path, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: Path) -> Result:
        raise error

    with StudyRun(tmp_path) as run:
        assert run.part("a", failing, settings={}) is None
        assert run.part("b", working([], {"value": 1}), settings={}) is not None
        assert list(run.failed) == ["a"]
    shown = capsys.readouterr()
    assert ("Traceback" in shown.err) == (not isinstance(error, DataError))
    assert f"a: failed: {error if isinstance(error, DataError) else repr(error)}" in shown.out
    calls: Calls = []
    with StudyRun(tmp_path) as run:
        assert run.part("a", working(calls, {}), settings={}) is not None
        assert run.part("b", working(calls, {}), settings={}) is not None
        assert run.failed == {}
    assert [folder.name for folder in calls] == ["a"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Interrupted("saved", exit_code=128 + signal.SIGTERM), "the same command with run_dir={} goes on"),
        (OutOfDiskError("/full"), "/full: the disk is full"),
        (KeyboardInterrupt(), ""),
    ],
)
def test_what_ends_the_process_ends_the_study(tmp_path: Path, error: BaseException, line: str) -> None:
    def stopped(_: Path) -> Result:
        raise error

    with StudyRun(tmp_path) as run, pytest.raises(type(error)) as raised:
        run.part("a", stopped, settings={})
    assert line.format(tmp_path) in str(raised.value)
    assert getattr(raised.value, "exit_code", None) == getattr(error, "exit_code", None)
    assert "result" not in json.loads((tmp_path / "parts" / "a" / "part.json").read_text())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}'])
def test_a_damaged_record_says_what_to_delete(tmp_path: Path, text: str) -> None:
    (tmp_path / "parts" / "a").mkdir(parents=True)
    (tmp_path / "parts" / "a" / "part.json").write_text(text)
    with StudyRun(tmp_path) as run, pytest.raises(ConfigError, match="damaged; delete"):
        run.part("a", working([], {}), settings={})


def test_a_study_keeps_out_of_the_folder_of_a_training_and_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds a training"):
        StudyRun.create(tmp_path / "run", "x")
    monkeypatch.chdir(tmp_path)
    with StudyRun.create(None, "x") as one, StudyRun.create(None, "x") as two:
        assert one.folder != two.folder
        assert one.folder.parent == Path("runs", "studies", "x")
