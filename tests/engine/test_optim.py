import pytest
import torch
from torch import nn

from cvtasks.engine import optim
from cvtasks.errors import ConfigError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False))
        self.backbone_head = nn.Linear(4, 2)
        self.backbone[0].weight.requires_grad_(False)


def settings(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> its learning rate and weight decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("build", [optim.sgd, optim.adamw])
def test_norms_and_biases_do_not_decay_and_the_backbone_has_its_own_rate(build: type) -> None:
    model = Model()
    optimizer = build(model, lr=0.1, weight_decay=0.01, backbone_lr_factor=0.5)
    assert settings(optimizer, model) == {
        "backbone.0.bias": (0.05, 0.0),
        "backbone.1.weight": (0.05, 0.0),
        "backbone.1.bias": (0.05, 0.0),
        "backbone.2.weight": (0.05, 0.01),
        "backbone_head.weight": (0.1, 0.01),  # "backbone." with its dot
        "backbone_head.bias": (0.1, 0.0),
    }
    assert optimizer.param_groups[0]["lr"] == 0.1  # what the log shows is optimizer.lr


def test_norms_decay_where_asked() -> None:
    model = Model()
    found = settings(optim.sgd(model, lr=0.1, weight_decay=0.01, norm_weight_decay=0.003), model)
    assert found["backbone.1.weight"] == (0.1, 0.003)


@pytest.mark.parametrize("build", [optim.sgd, optim.adamw])
def test_both_are_fused_on_a_cpu_and_step_as_the_plain_ones(build: type) -> None:
    # Oracle: torch's own single-tensor optimizers.
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = build(models[0], lr=0.1, weight_decay=0.01, norm_weight_decay=0.01)
    assert ours.param_groups[0]["fused"]
    plain = {
        optim.sgd: lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False),
        optim.adamw: lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01, foreach=False),
    }[build](models[1].parameters())
    for _ in range(3):
        x = torch.rand(4, 3)
        for model, optimizer in zip(models, (ours, plain), strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight)
    torch.testing.assert_close(models[0].bias, models[1].bias)


def test_a_model_that_is_wholly_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.freeze_until"):
        optim.sgd(nn.Linear(2, 2).requires_grad_(False), lr=0.1)


def test_a_first_step_that_fp16_skips_leaves_no_trace() -> None:
    # Against the optimizer without momentum buffers made beforehand, one parameter after the other.
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)
        optimizer = optim.sgd(model, lr=0.1)
        if not fused:
            optimizer = torch.optim.SGD(
                model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=False
            )
            optimizer.param_groups[0]["params"], biases = [model.weight], [model.bias]
            optimizer.add_param_group({"params": biases, "weight_decay": 0.0})
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 8)).square().sum() * (float("inf") if step == 0 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        weights.append(model.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])
