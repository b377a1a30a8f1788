"""Every mistake is one line that names the key, where it stands, and the nearest right name."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvtasks.config.compose import compose
from cvtasks.config.locate import conf_dirs, options
from cvtasks.config.origins import flatten
from cvtasks.errors import ConfigError

from .toy import write_yaml


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        compose("train", overrides, config_dir="conf")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("taks=toy", "there is no setting taks; did you mean task?"),
        ("task=toy optimzer.lr=1", "there is no setting optimzer.lr; did you mean optimizer.lr?"),
        ("task=toy lr=1", "did you mean optimizer.lr?"),
        ("task=toy +typo=1", "there is no setting typo; see cvtasks config"),
        ("task=toy +optimzer.lr=1", "there is no setting optimzer; did you mean optimizer?"),
        ("task=toy +task.chanels=1", "there is no setting task.chanels; did you mean task.channels?"),
        ("task=toy +optimizer.lr=1", "optimizer.lr is a setting; type it without +"),
        ("task=toy +backbone=tiny", "backbone is a setting; type it without +"),
        ("task=toy ~optimzer", "did you mean optimizer?"),
        ("task=toy +dataset.split=val", "there is no setting dataset.split"),  # the application's own to say
        ("task=toy +task.backbone=1", "there is no setting task.backbone"),
        ("task=toy +task.options.deptth=1", "did you mean task.options.depth?"),
        ("task=toy dataset.train={cuont:1}", "did you mean dataset.train.count"),
        (
            "task=toy scheduler.milestones=[1]",
            "there is no setting scheduler.milestones; scheduler=multi_step has it",
        ),
        ("task=toy dataset=voc scheduler=cosine scheduler.milestones=[1]", "scheduler=multi_step has it"),
        (
            "task=toy +task.loss_weights.frist=2",
            "there is no loss frist; did you mean task.loss_weights.first?",
        ),
        (
            "task=toy backbone=resnet51",
            "backbone=resnet51: there is no backbone resnet51; did you mean resnet50",
        ),
        ("task=toy experiment=none_such", "there is no experiment none_such"),
        ("task=toy experiment=null", "experiment=null: choose one of"),
        (
            "task=toy engine.precision=bf61",
            "expected one of auto, fp32, bf16, not 'bf61'; did you mean bf16?",
        ),
        ("task=toy optimizer.lr='1e-3'", "it was read as text: write 0.001 without quotes"),
        ("task=toy loader.batch_size=true", "loader.batch_size: expected an integer of at least 1, not true"),
        (
            "task=toy dataset=voc loader.batch_size=a",
            "loader.batch_size: expected an integer of at least 1, not 'a'",
        ),
        ("task=toy task.requires=[boxs]", "task.requires[0]: expected one of label, boxes"),
        (
            "task=toy dataset=voc task.requires=[boxes,masks]",
            "task toy needs masks, and dataset=voc has only",
        ),
        ("task=toy backbone._target_=os.system", "os.system is not allowed"),
        ("task=toy plugins=[]", "toy_model.Toy is not allowed"),
        (
            "task=toy plugins=toy_model",
            "plugins: expected a list, each text, not 'toy_model'; write [toy_model]",
        ),
        ("task=toy seed=${sede}", "seed=${sede}: Interpolation key 'sede' not found"),
        ("task=toy seed=${oc.env:NO_SUCH_VARIABLE}", "seed=${oc.env:NO_SUCH_VARIABLE}: "),
        ("task=toy optimizer.lr=1,2", "has several values: add -m to run each"),
        ("task=toy optimizer.lr=choice(1,2)", "has several values: add -m"),
        ("task=toy dataset.root=/a(b)", "type 'dataset.root=\"/a(b)\"'"),
        ("task=toy optimizer", "optimizer is not a setting: type key=value"),
        ("optimizer=sgd", "choose a task: task=NAME, one of"),
    ],
)
def test_a_mistake_on_the_command_line(home: Path, overrides: str, message: str) -> None:
    assert message in mistake(*overrides.split(" "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimzer: {lr: 1}",
            "conf/experiment/mine.yaml:2: there is no setting optimzer; did you mean optimizer?",
        ),
        (
            "engine:\n  log_evry: 1",
            "conf/experiment/mine.yaml:3: there is no setting engine.log_evry; did you mean",
        ),
        ("engine:\n  log_every: x", "conf/experiment/mine.yaml:3: engine.log_every: expected an integer"),
        (
            "task: {loss_weights: {frist: 1}}",
            "conf/experiment/mine.yaml:2: there is no loss frist; did you mean",
        ),
        ("task: {chanels: 1}", "conf/experiment/mine.yaml:2: there is no setting task.chanels; did you mean"),
        (
            "defaults:\n  - override /backbone: resnet43",
            "experiment/mine.yaml: there is no backbone resnet43; did you",
        ),
        (
            "defaults:\n  - override /bakcbone: tiny",
            "experiment/mine.yaml: override bakcbone: there is no such group",
        ),
        ("engine: [", "mine.yaml:3: not readable as YAML"),
        ("seed: 1\nseed: 2", "mine.yaml:3: not readable as YAML: found duplicate key seed"),
        (
            "dataset: {_target_: torch.load}",
            "conf/experiment/mine.yaml:2: dataset._target_: torch.load is not allowed",
        ),
    ],
)
def test_a_mistake_in_a_file_names_file_and_line(home: Path, text: str, message: str) -> None:
    write_yaml(home, "experiment/mine", f"# @package _global_\n{text}\n")
    assert message in mistake("task=toy", "experiment=mine")


def typos(seed: int = 0) -> Iterator[tuple[str, str]]:
    """Endless (override with a typo, the right name) of keys, groups and options; never one that exists."""
    random_ = random.Random(seed)
    config = compose("train", ["task=toy"], config_dir="conf")
    values = {k: v for k, v in flatten(config) if "_target_" not in k and not k.endswith(".name")}
    groups = ["backbone", "dataset", "pipeline", "optimizer", "scheduler", "engine", "loader", "task"]
    names = sorted(values) + groups
    while True:
        key = random_.choice(sorted(values))
        kind = random_.randrange(5)
        if kind == 0:  # a key under another node, or under none
            parent, _, last = key.rpartition(".")
            wrong = random_.choice([f"{g}.{last}" for g in groups if g != parent] + [last])
            value = "1"
        elif kind == 1:  # an option
            group = random_.choice(groups)
            key = random_.choice(sorted(options(group, conf_dirs("conf"))))
            wrong, value = group, misspelt(key, random_)
            if value not in options(group, conf_dirs("conf")):
                yield f"{wrong}={value}", key
            continue
        elif kind == 2:  # a group
            key = random_.choice(groups)
            wrong, value = misspelt(key, random_), next(iter(options(key, conf_dirs("conf"))))
        else:
            wrong, value = misspelt(key, random_), "1"
        twins = [n for n in names if n.rpartition(".")[2] == key.rpartition(".")[2]]
        if wrong not in names and (kind != 0 or len(twins) == 1):
            yield f"{wrong}={value}", key


def misspelt(name: str, random_: random.Random) -> str:
    """The name with one letter dropped, doubled, changed, or swapped with the next one."""
    i = random_.choice([i for i, letter in enumerate(name) if letter.isalnum()])
    letter = name[i]
    after = name[i + 1 : i + 2]
    changes = [
        name[:i] + name[i + 1 :],
        name[:i] + letter + name[i:],
        name[:i] + random_.choice("abcdefghijklmnopqrstuvwxyz".replace(letter, "")) + name[i + 1 :],
        name[:i] + after + letter + name[i + 2 :] if after.isalnum() and after != letter else name + "s",
    ]
    return random_.choice(
        [c for c in changes if c and not c[0].isdigit() and "." not in (c[0], c[-1])] or [name + "s"]
    )


@pytest.mark.parametrize(
    "number", [pytest.param(10, id="quick"), pytest.param(100, id="all", marks=pytest.mark.slow)]
)
def test_95_of_100_typos_get_the_right_name_among_three(home: Path, number: int) -> None:
    generated = typos()
    missed = []
    for _ in range(number):
        typed, right = next(generated)
        said = mistake(*(["task=toy"] if not typed.startswith("task=") else []), typed)
        suggested = said.partition("; did you mean ")[2].rstrip("?").replace(" or ", ", ").split(", ")
        if right not in suggested:
            missed.append(f"{typed}: {said}")
    assert len(missed) <= number // 20, missed
