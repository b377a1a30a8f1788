"""What a training step asks of the host and of the device does not grow with the batch: waits, and operations launched.

Counted on a CPU that pretends to be an accelerator; with a GPU (`pytest -m gpu`) torch's own sync warnings are counted.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_faster_rcnn import make_batch, small
from test_ssd import small as small_ssd
from torch.utils._python_dispatch import TorchDispatchMode

from cvtasks.engine.optim import sgd
from cvtasks.nn import heads, rpn
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.ops import nms
from cvtasks.types import Batch

WAITS = {
    # A number is read: item(), float(), bool(), a comparison in an if.
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    # The size of the result depends on the data.
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::unique_dim_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
    "torchvision::nms",
}
BY_MASK = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""These wait if an index is a mask."""


class Launches(TorchDispatchMode):
    """Counts all operators, and those for which a GPU's host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        self.all[name] += 1
        by_mask = name in BY_MASK and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        self.waits[name] += name in WAITS or by_mask
        return func(*args, **(kwargs or {}))


def make_step(model: RegionDetector, batch: Batch) -> Callable[[], None]:
    """What one step of training does."""
    optimizer = sgd(model)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()

    step()  # the optimizer's state is made, and the anchors
    return step


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"rpn_score_threshold": 0.1, "rpn_convs": 2, "head": "conv_fc", "head_norm": "batch"},
        {"sampling_ratio": 0},
        {
            "levels": ["c4"],
            "fpn_channels": None,
            "anchor_sizes": [[32, 64, 96]],
            "region_features": "roi_pool",
        },
    ],
    ids=["pyramid", "deeper", "adaptive", "paper"],
)
def test_neither_waits_nor_operations_grow_with_the_batch(
    monkeypatch: pytest.MonkeyPatch, form: dict[str, Any], training: bool
) -> None:
    for module in (nms, rpn, heads):
        monkeypatch.setattr(module, "on_host", lambda _: False)
    counted = []
    for images in (1, 2, 4):
        model = small(**form).train(training).to(memory_format=torch.channels_last)
        step = make_step(model, make_batch(images))
        with Launches() as launches:
            step()
        counted.append(launches)
    one, two, four = counted
    # Non-maximum suppression alone waits, once for each level.
    assert one.waits.total() == one.all["torchvision::nms"] == len(model.neck.specs)
    assert one.waits == two.waits == four.waits
    # A batch of one has fewer: some of its tensors lie in memory so that they need no copy to be flattened.
    assert {name: n - two.all[name] for name, n in four.all.items() if n != two.all[name]} == {}
    assert one.all.total() > 0.9 * two.all.total()


def test_a_step_of_ssd_waits_for_nothing_and_its_operations_do_not_grow_with_the_batch() -> None:
    counted = []
    for images in (2, 4, 8):
        step = make_step(small_ssd(norm="batch").train(), make_batch(images))
        with Launches() as launches:
            step()
        counted.append(launches)
    assert [launches.waits.total() for launches in counted] == [0, 0, 0]
    assert counted[0].all == counted[1].all == counted[2].all


def test_mining_hard_examples_waits_once_more_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (nms, rpn, heads):
        monkeypatch.setattr(module, "on_host", lambda _: False)
    counted = []
    for images in (2, 4):
        step = make_step(small(roi_sampling="ohem").train(), make_batch(images))
        with Launches() as launches:
            step()
        counted.append(launches)
    two, four = counted
    assert two.waits.total() == two.all["torchvision::nms"] == 6  # five levels' proposals, and the regions
    assert two.waits == four.waits


def test_on_a_cpu_the_one_number_read_is_how_many_proposals_there_are() -> None:
    for images in (1, 4):
        step = make_step(small().train(), make_batch(images))
        with Launches() as launches:
            step()
        assert launches.waits["aten::_local_scalar_dense"] == 1
        assert launches.waits.total() - launches.waits["torchvision::nms"] == 1


def test_the_counter_sees_what_makes_a_host_wait() -> None:
    x = torch.arange(4.0)
    for read in (
        lambda: x.sum().item(),
        lambda: bool(x[0] > 0),
        lambda: x.nonzero(),
        lambda: x[x > 2],
        lambda: x.masked_select(x > 2),
        lambda: x.unique(),
        lambda: x.long().bincount(),
        lambda: x.repeat_interleave(torch.tensor([1, 2, 0, 1])),
        lambda: torch.equal(x, x),
        lambda: x.clone().index_put_((x > 2,), torch.tensor(0.0)),
    ):
        with Launches() as launches:
            read()
        assert launches.waits.total() >= 1, read


@pytest.mark.gpu
def test_on_a_gpu_the_waits_do_not_grow_with_the_batch() -> None:
    counts = []
    for images in (1, 2, 4):
        step = make_step(small().cuda().train(), make_batch(images).to("cuda"))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(w.message) for w in caught))
    assert len(set(counts)) == 1, counts
    # One for each level's non-maximum suppression at most.
    assert counts[0] <= 5
