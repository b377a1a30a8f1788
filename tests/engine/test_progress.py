import pytest

from cvtasks.engine import progress as module
from cvtasks.engine.progress import Progress, duration


def test_without_a_terminal_there_are_lines_at_the_start_every_so_often_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One step a second of a made-up clock, a line every 15.
    now, said = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress(40, title="train", unit="step", say=said.append, terminal=False) as progress:
        for _ in range(40):
            now[0] += 1
            progress.status("loss 0.5")
            progress.advance()
    assert said == [
        "train 1/40 steps, 39 s left, loss 0.5",
        "train 16/40 steps, 24 s left, loss 0.5",
        "train 31/40 steps, 9 s left, loss 0.5",
        "train 40/40 steps, 40 s, loss 0.5",
    ]


def test_the_time_left_of_a_resumed_run_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress(100, title="train", unit="step", initial=90, say=said.append, terminal=False) as progress:
        now[0] += 2
        progress.advance()
    assert said == ["train 91/100 steps, 18 s left"]


def test_a_terminal_gets_a_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with Progress(2, title="evaluate", unit="image", say=said.append, terminal=True) as progress:
        progress.status("loss 0.5")
        progress.advance(2)
    assert not said
    assert "evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
