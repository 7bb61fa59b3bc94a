"""The members without a published program, against their formulas written out on flat float64 vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ..members import published
from ..problems import Network, Transformer

STEPS = 60


def flat(model: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def loss_at(model: Any, closure: Callable[[], Tensor], w: Tensor) -> float:
    torch.nn.utils.vector_to_parameters(w, model.parameters())
    with torch.no_grad():
        return float(closure())


def gradient_at(model: Any, closure: Callable[[], Tensor], w: Tensor) -> Tensor:
    torch.nn.utils.vector_to_parameters(w, model.parameters())
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(closure(), list(model.parameters()))])


def ponos(model: Any) -> tuple[list[float], list[float]]:
    """PoNoS: f(w - eta g) <= max(C, f) - c eta |g|^2, from min(f / (c_p |g|^2) delta^l, 10)."""
    w, c, polyak, delta = flat(model), 0.5, 0.1, 0.5
    average = weight = 0.0
    memory = 0
    losses, steps = [], []
    for closure in model.closures(STEPS):
        loss, g = loss_at(model, closure, w), gradient_at(model, closure, w)
        squared = float(g @ g)
        average, weight = (weight * average + loss) / (weight + 1), weight + 1
        eta = min(max(loss / (polyak * squared) * delta**memory, 1e-6), 10.0)
        backtracks = 0
        while not loss_at(model, closure, w - eta * g) <= max(average, loss) - c * eta * squared:
            eta, backtracks = eta * delta, backtracks + 1
        memory = max(memory + backtracks - 1, 0)
        w = w - eta * g
        losses.append(loss)
        steps.append(eta)
    return losses, steps


FIRST = 10.0


def armijo(model: Any, update: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """Armijo along the searched update, the step applied along the other one; c = 0.1, beta = 0.9, gamma^(1/n)."""
    w, eta = flat(model), FIRST
    losses, steps = [], []
    for step, closure in enumerate(model.closures(STEPS), start=1):
        loss, g = loss_at(model, closure, w), gradient_at(model, closure, w)
        searched, applied = update(g, step)
        slope = float(g @ searched)
        eta *= 2 ** (1 / 500) if step > 1 else 1.0
        while not loss_at(model, closure, w - eta * searched) <= loss - 0.1 * eta * slope:
            eta *= 0.9
        w = w - eta * applied
        losses.append(loss)
        steps.append(eta)
    return losses, steps


def adagrad(model: Any) -> tuple[list[float], list[float]]:
    total = torch.zeros_like(flat(model))

    def update(g: Tensor, step: int) -> tuple[Tensor, Tensor]:
        total.add_(g**2)
        direction = g / (total.sqrt() + 1e-10)
        return direction, direction

    return armijo(model, update)


def amsgrad(model: Any) -> tuple[list[float], list[float]]:
    m, v, largest = (torch.zeros_like(flat(model)) for _ in range(3))

    def update(g: Tensor, step: int) -> tuple[Tensor, Tensor]:
        m.mul_(0.9).add_(0.1 * g)
        v.mul_(0.999).add_(0.001 * g**2)
        torch.maximum(largest, v, out=largest)
        denominator = (largest / (1 - 0.999**step)).sqrt() + 1e-8
        return g / denominator, m / (1 - 0.9**step) / denominator

    return armijo(model, update)


@pytest.mark.parametrize("problem", [Network, Transformer])
@pytest.mark.parametrize(("name", "formulas"), [("ponos", ponos), ("adagrad_sls", adagrad), ("amsgrad_sls", amsgrad)])
def test_losses_and_step_sizes(name: str, formulas: Any, problem: Any) -> None:
    expected_losses, expected_steps = formulas(problem())
    model = problem()
    optimizer = published(name, model.parameters(), init_step_size=FIRST)
    losses, steps = [], []
    for closure in model.closures(STEPS):
        losses.append(float(optimizer.step(closure).detach()))
        steps.append(optimizer.param_groups[0]["step_size"])
    assert steps == pytest.approx(expected_steps, rel=1e-7)
    assert losses == pytest.approx(expected_losses, rel=1e-7)
    assert optimizer.counts["backtracks"] > 5
