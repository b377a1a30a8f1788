from pathlib import Path

import pytest
import torch
from torch import nn

from cvtasks.engine import checkpoint
from cvtasks.engine.ema import Ema

from .regression import Regressor, make_task, train


def test_the_average_follows_the_formula_by_hand() -> None:
    # decay = min(0.5, (1 + n) / (10 + n)): 2/11 after step 1, 3/12 after step 2, 0.5 from step 8 on.
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = Ema(model, 0.5)
    expected = 1.0
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (8, 0.5), (100, 0.5)):
        nn.init.constant_(model.weight, float(step))
        ema.update(step)
        expected = decay * expected + (1 - decay) * step
        assert ema.average["weight"].item() == pytest.approx(expected)


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    model = nn.BatchNorm2d(1)
    ema = Ema(model, 0.5)
    model.running_mean.fill_(8.0)
    model.num_batches_tracked.fill_(7)
    ema.update(1000)
    assert ema.average["running_mean"].item() == pytest.approx(4.0)
    assert ema.average["num_batches_tracked"].item() == 7


def test_inside_the_model_has_the_average_and_after_it_its_own_weights_and_gradients() -> None:
    model = Regressor()
    ema = Ema(model, 0.9)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    model.norm.running_mean.fill_(3.0)
    images = torch.ones(2, 3, 4, 4)
    model(images).sum().backward()
    own = {name: (t.clone(), t.data_ptr()) for name, t in model.state_dict().items()}
    gradient = model.head.weight.grad.clone()
    with ema.applied():
        assert not torch.equal(model.head.weight, own["head.weight"][0])
        assert model.norm.running_mean.sum() == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name][0])
        assert tensor.data_ptr() == own[name][1]
    assert torch.equal(model.head.weight.grad, gradient)
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert torch.equal(model.head.weight, own["head.weight"][0])


def test_a_run_is_judged_by_its_average_and_saves_both(tmp_path: Path) -> None:
    judged: list[torch.Tensor] = []

    class Watched(Regressor):
        def predict(self, batch):  # type: ignore[no-untyped-def]
            judged.append(self.head.weight.detach().clone())
            return super().predict(batch)

    task = make_task(Watched())
    train(tmp_path, task=task, ema=0.9)
    last = checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)
    assert torch.equal(judged[-1], last["ema"]["head.weight"])
    assert torch.equal(task.model.head.weight, last["model"]["head.weight"])
    assert not torch.equal(last["ema"]["head.weight"], last["model"]["head.weight"])
    assert torch.equal(checkpoint.judged_weights(last)["head.weight"], last["ema"]["head.weight"])
    assert all(tensor.dtype == last["model"][name].dtype for name, tensor in last["ema"].items())


def test_the_average_does_not_change_the_training(tmp_path: Path) -> None:
    with_average, without = make_task(), make_task()
    train(tmp_path / "a", task=with_average, ema=0.9)
    train(tmp_path / "b", task=without)
    for one, other in zip(with_average.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_can_begin_to_average(tmp_path: Path) -> None:
    train(tmp_path, max_steps=10)
    resume, _ = checkpoint.load_last(tmp_path)
    state = train(tmp_path, max_steps=12, ema=0.9, resume=resume)
    assert state.step == 12
    assert "ema" in checkpoint.load(tmp_path / "checkpoints" / checkpoint.LAST)
