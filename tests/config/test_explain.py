"""Every mistake is one line that names the key, where it stands, and the nearest right name."""

from pathlib import Path

import pytest

from cvtasks.config.compose import compose
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
            "expected one of auto, fp32, bf16, fp16, not 'bf61'; did you mean bf16?",
        ),
        ("task=toy optimizer.lr='1e-3'", "it was read as text: write 0.001 without quotes"),
        (
            "task=toy loader.batch_size=true",
            "loader.batch_size: expected an integer of at least 1 or auto, not true",
        ),
        (
            "task=toy dataset=voc loader.batch_size=a",
            "loader.batch_size: expected an integer of at least 1 or auto, not 'a'",
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
