"""What the configuration's own nodes may hold. Standard library only.

Nodes with a `_target_` are checked against the constructor that they name; the nodes below belong to
no constructor, so these dataclasses are their signature. Both are checked by `config.check`, so a type, a
`Literal` and a `Range` mean the same in either place.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeAlias


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated[float, Range(min=0)]`; `above` and `below` leave out the bound."""

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None


Positive = Range(min=1)


@dataclass(frozen=True)
class Supplied:
    """Constructor arguments that the application hands over: `Annotated[Node, Supplied("split")]`."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True)
class Node:
    """A node that names its constructor in `_target_`; the rest of it are the constructor's own arguments."""

    _target_: str
    name: str


@dataclass(frozen=True)
class TaskNode(Node):
    """What a task's node says beside its model's constructor arguments."""

    requires: list[
        Literal[
            "label",
            "boxes",
            "labels",
            "ignore",
            "masks",
            "keypoints",
            "visible",
            "segmentation",
            "proposals",
        ]
    ]
    """Fields of `Sample` without which its losses cannot be computed; the data set must provide them."""
    monitor: str
    """The metric that decides which checkpoint is best."""
    loss_weights: dict[str, Annotated[float, Range(min=0)]]
    """One for each loss that the model returns."""
    stage_steps: list[Annotated[float, Range(min=0)]] | None = None
    """Shares of the steps, one for each stage of a model that trains in stages; null: equal ones, none for a solved one."""
    keep_features: bool = False
    """Leave what its stages kept (the features of regions, many gigabytes) in the run's folder."""


@dataclass(frozen=True)
class ProposalsNode(Node):
    """What the node of a proposal method says beside the method's constructor arguments."""

    cache: str | None = None
    """The folder that keeps proposals from run to run; null: ~/.cache/cvtasks/proposals, or CVTASKS_CACHE/proposals."""
    fit_images: Annotated[int, Positive] = 500
    """Training images that a method is fitted to, if it learns at all, spread over all of them."""


@dataclass(frozen=True)
class EngineConfig:
    """How long and how exactly to train. One clock: steps; epochs are turned into steps once."""

    max_steps: Annotated[int, Positive] | None = None
    """Optimizer steps in all, at least one for each stage; if null, `max_epochs` decides."""
    max_epochs: Annotated[float, Range(above=0)] | None = None
    eval_every: Annotated[int, Positive] | None = None
    """Steps between evaluations (null: once an epoch at most, five times in a run, and always at the end)."""
    checkpoint_every: Annotated[int, Positive] | None = None
    """Steps between writes of last.pt (null: whenever it evaluates, and every 1,000 steps)."""
    log_every: Annotated[int, Positive] = 10
    """Steps between lines of metrics.jsonl; losses are read from the device only then."""
    max_minutes: Annotated[float, Range(above=0)] | None = None
    """The run evaluates, saves and ends after so many minutes of training, those before a resume included."""
    patience: Annotated[int, Positive] | None = None
    """The run ends after so many evaluations in a row without a better `task.monitor`."""
    limit_batches: Annotated[int, Positive] | None = None
    """Use no more than the first so many batches of each split, for a quick look."""
    overfit: bool = False
    """Judge on the training images themselves, and show them without augmentation: it should learn them by heart."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies in it, else fp32. Which one it was is recorded in the run."""
    channels_last: bool = True
    accumulate: Annotated[int, Positive] = 1
    """Batches whose gradients are averaged into one step."""
    clip_norm: Annotated[float, Range(above=0)] | None = None
    """Largest norm of all gradients together."""
    ema: Annotated[float, Range(min=0, below=1)] | None = None
    """Decay of an exponential moving average of the weights, 0.999 say, which is evaluated in their place."""
    sync_batchnorm: bool = False
    """Batch norm takes its statistics over the images of all processes (torchrun)."""
    compile: bool = False
    """torch.compile: on a GPU, with images of one size. The first steps take minutes."""
    val_losses: bool = True
    """Compute the losses on validation data too."""


@dataclass(frozen=True)
class LoaderConfig:
    """How batches reach the device."""

    batch_size: Annotated[int, Positive] | Literal["auto"] = 8
    """Images of one step in each process. auto: the largest power of two that fits into memory."""
    eval_batch_size: Annotated[int, Positive] | None = None
    """null: the same as `batch_size`."""
    workers: Annotated[int, Range(min=0)] | Literal["auto"] = "auto"
    """Processes that read and augment. auto: up to 8, none on a machine where training needs every core."""


@dataclass(frozen=True)
class TrainConfig:
    """The whole of a training configuration; `eval`, `predict` and `resume` have it all, too."""

    task: Annotated[TaskNode, Supplied("backbone", "classes")]
    backbone: Node
    dataset: Annotated[Node, Supplied("split", "fields")]
    pipeline: Annotated[Node, Supplied("train", "flip_index")]
    evaluator: Annotated[Node, Supplied("classes")]
    optimizer: Annotated[Node, Supplied("model", "params")]
    scheduler: Annotated[Node, Supplied("optimizer", "max_steps")]
    engine: EngineConfig
    loader: LoaderConfig
    proposals: ProposalsNode
    run_dir: str | None = None
    """The run's folder; null: runs/<task>/<dataset>/<date>_<time>."""
    seed: Annotated[int, Range(min=0, below=2**63)] = 0
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; auto: the accelerator if there is one."""
    deterministic: bool = False
    plugins: tuple[str, ...] = ()
    """Modules of the user's own that a `_target_` may name."""
    weights: str | None = None
    """Weights of the whole model to start from: a file, a run's folder, or the zoo's name."""


@dataclass(frozen=True)
class StoredConfig(TrainConfig):
    """A trained model's own configuration, and which model it is. `resume` adds nothing to it."""

    run: str | None = None
    """The run's folder; null: the newest below runs/, unless `checkpoint` says more."""
    checkpoint: str | None = None
    """A checkpoint's file; null: the run's best.pt."""


@dataclass(frozen=True)
class EvalConfig(StoredConfig):
    """What `cvtasks eval` adds."""

    predictions: str | None = None
    """A COCO results file, or a folder of label PNGs, to be judged in place of a model's predictions."""


@dataclass(frozen=True)
class PredictConfig(StoredConfig):
    """What `cvtasks predict` adds."""

    source: str = ""
    """An image, a folder, or a glob pattern in quotes."""
    output: str | None = None
    """The folder to write into; null: beside the run."""
    boxes: str | None = None
    """For poses: a COCO results file with the boxes of people; null: the whole image is one person's."""
    score_threshold: Annotated[float, Range(min=0, max=1)] = 0.5
    """Detections below it are neither drawn nor written."""


@dataclass(frozen=True)
class StudyConfig:
    """The whole of a study's configuration. The trainings that are its parts have configurations of their own."""

    study: Annotated[Node, Supplied("run", "dataset")]
    dataset: Annotated[Node | None, Supplied("split", "fields")] = None
    """What all trainings of a study learn from, if it takes a data set."""
    run_dir: str | None = None
    """The study's folder; null: runs/studies/<name>/<date>_<time>. Parts that are done there are not done again."""
    seed: Annotated[int, Range(min=0, below=2**63)] = 0
    device: str = "auto"
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProposalsConfig:
    """The whole of what `cvtasks proposals` takes; `method=NAME` chooses the node `proposals`."""

    dataset: Annotated[Node, Supplied("split", "fields")]
    proposals: ProposalsNode
    split: Literal["train", "val"] = "val"
    images: Annotated[int, Positive] | None = None
    """Only the first so many of the split; null: all."""
    pictures: Annotated[int, Range(min=0)] = 8
    """Images that are drawn with the proposals that fit their objects best."""
    run_dir: str | None = None
    """The folder to write into; null: runs/proposals/<method>/<date>_<time>."""
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepNode:
    """How the jobs of a sweep are run (`-m`, and `cvtasks tune`); no part of what a job is."""

    jobs: Annotated[int, Positive] | None = None
    """So many side by side, which share the processor's cores; null: one, or one for each of `devices`."""
    devices: list[int | str] | None = None
    """Numbers of GPUs, as CUDA_VISIBLE_DEVICES has them: each job sees one, in turn; null: every job sees all."""


@dataclass(frozen=True)
class SweepConfig:
    """What `-m` takes beside what its jobs take."""

    sweep: SweepNode = field(default_factory=SweepNode)


@dataclass(frozen=True)
class TuneConfig(SweepConfig):
    """What `cvtasks tune` takes beside what a training takes."""

    trials: Annotated[int, Positive] = 20
    """In all, those of the same search before included."""
    pruning: bool = True
    """End a trial that an evaluation finds worse than the median of the others at that step, once five have ended."""


AnyConfig: TypeAlias = type[TrainConfig] | type[StudyConfig] | type[ProposalsConfig]
VERBS: dict[str, AnyConfig] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "resume": StoredConfig,
    "study": StudyConfig,
    "proposals": ProposalsConfig,
}
GROUPS = (
    "backbone",
    "dataset",
    "pipeline",
    "evaluator",
    "optimizer",
    "scheduler",
    "engine",
    "loader",
    "proposals",
    "task",
)
"""The configuration groups that fill a node of the same name, in the order of composing."""
CHOICES = ("recipe", "experiment", "debug")
"""The groups that set keys of the others."""
PROPOSALS = "proposals"
"""A verb, and the group of which its `method=` chooses"""
STUDY = "study"
"""The group that only the verb of the same name has."""


def defaults(config: AnyConfig) -> dict[str, Any]:
    """The values of the keys that a configuration may leave out."""
    return {
        f.name: list(f.default) if isinstance(f.default, tuple) else f.default
        for f in fields(config)
        if f.default is not MISSING
    }
