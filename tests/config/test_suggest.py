import pytest

from cvtasks.config.suggest import closest, did_you_mean

KEYS = [
    "optimizer.lr",
    "optimizer.momentum",
    "loader.batch_size",
    "loader.workers",
    "engine.max_steps",
    "task",
    "seed",
]


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("taks", "task"),  # swapped
        ("optimizer.lrr", "optimizer.lr"),
        ("optimzer.lr", "optimizer.lr"),
        ("lr", "optimizer.lr"),  # without its parent
        ("engine.batch_size", "loader.batch_size"),  # under a wrong parent
        ("optimizer.learning_rate", "optimizer.lr"),
        ("loader.num_workers", "loader.workers"),
        ("engine.Max_Steps", "engine.max_steps"),
    ],
)
def test_the_nearest_name_comes_first(typed: str, right: str) -> None:
    assert closest(typed, KEYS)[0] == right


def test_what_is_far_from_everything_gets_no_suggestion() -> None:
    assert closest("zebra_crossing", KEYS) == []
    assert did_you_mean("zebra_crossing", KEYS, otherwise="; see") == "; see"


def test_two_swapped_letters_are_nearer_than_two_changed_ones() -> None:
    assert closest("tsak", ["task", "tool"]) == ["task"]


def test_the_sentence_lists_up_to_three() -> None:
    assert did_you_mean("ab", ["ab1", "ab2", "ab3", "ab4"]) == "; did you mean ab1, ab2 or ab3?"
    assert did_you_mean("taks", ["task"]) == "; did you mean task?"
