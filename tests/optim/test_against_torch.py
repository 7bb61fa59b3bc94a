"""With the step size pinned, the members are torch's own optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_sls.optim import Adam, Budget, Direction, Event, EveryStep, Gradient, LastStep, Line, LineSearchOptimizer

from ..problems import Network


class AnyStep:
    """A criterion that accepts whatever is tried."""

    def new_memory(self) -> dict[str, float]:
        return {}

    def line(self, loss: float, slope: float, memory: dict[str, float]) -> Line:
        return Line(float("inf"), 1.0)

    def update(self, memory: dict[str, float], event: Event) -> dict[str, float]:
        return memory


def groups(model: Network) -> list[dict[str, Any]]:
    """Weights decay, biases do not, as the Trainer groups them; one parameter has no gradient at first."""
    named = list(model.layers.named_parameters())
    return [
        {"params": [p for name, p in named if "weight" in name], "weight_decay": 0.1},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]


def run(model: Network, optimizer: torch.optim.Optimizer, late: bool) -> list[torch.Tensor]:
    """Train for 20 steps; with `late` one parameter has its first gradient on the sixth, where a search is due."""
    bias = model.layers[0].bias
    for step, closure in enumerate(model.closures(20)):
        bias.requires_grad_(step >= 5 or not late)
        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        if isinstance(optimizer, LineSearchOptimizer):
            optimizer.step(closure, loss=loss)
        else:
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("cadence", [EveryStep(), Budget(credit=3, rate=0.3)], ids=["every step", "budget"])
@pytest.mark.parametrize("search", ["gradient", "momentum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_adam_direction_is_torch_adamw(search: Any, cadence: Any, dtype: torch.dtype) -> None:
    ours, theirs = Network(dtype=dtype), Network(dtype=dtype)
    optimizer = pinned(ours, Adam(betas=(0.8, 0.95), eps=1e-6, search=search), cadence)
    adamw = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=(0.8, 0.95), eps=1e-6, foreach=True)
    late = isinstance(cadence, EveryStep)
    for mine, torchs in zip(run(ours, optimizer, late), run(theirs, adamw, late)):
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
        torch.testing.assert_close(mine, torchs, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("cadence", [EveryStep(), Budget(credit=3, rate=0.3)], ids=["every step", "budget"])
def test_gradient_direction_is_torch_sgd(cadence: Any) -> None:
    ours, theirs = Network(), Network()
    optimizer = pinned(ours, Gradient(), cadence, weight_decay=False)
    sgd = torch.optim.SGD(theirs.parameters(), lr=1e-2)
    for mine, torchs in zip(run(ours, optimizer, late=True), run(theirs, sgd, late=True)):
        torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=1e-13)


def pinned(model: Network, direction: Direction, cadence: Any, weight_decay: bool = True) -> LineSearchOptimizer:
    return LineSearchOptimizer(
        groups(model) if weight_decay else model.parameters(),
        direction=direction,
        criterion=AnyStep(),
        initial_step=LastStep(1e-2, growth=1.0),
        cadence=cadence,
    )
