"""Step sizes and losses of the authors' package, `salsa-optimizer` 0.1.0, with its faults patched here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_sls.optim import create_optimizer

from ..problems import Network, Transformer

authors = pytest.importorskip("salsa.adam_sls")
authors_salsa = pytest.importorskip("salsa.SaLSA")
GROWTH = 2 ** (1 / 500)


def trajectory(model: Any, optimizer: Any, step_size: Any) -> tuple[list[float], list[float]]:
    losses, steps = [], []
    for closure in model.closures(60):
        optimizer.zero_grad()
        losses.append(float(optimizer.step(closure).detach()))
        steps.append(float(step_size()))
    return losses, steps


@pytest.mark.parametrize("problem", [Network, Transformer])
@pytest.mark.parametrize("c", [0.1, 0.4])
def test_adam_sls(problem: Any, c: float) -> None:
    ours, theirs = problem(), problem()
    mine = create_optimizer("adam_sls", ours.parameters(), preset="published", c=c)
    reference = authors.AdamSLS([list(theirs.parameters())], smooth=False, c=c, init_step_size=0.1 / GROWTH)
    reference.state["gv"] = [[torch.zeros_like(p) for p in theirs.parameters()]]
    reference.state["mv"] = [[torch.zeros_like(p) for p in theirs.parameters()]]
    compare(ours, mine, theirs, reference)


@pytest.mark.parametrize("problem", [Network, Transformer])
@pytest.mark.parametrize("c", [0.1, 0.4])
def test_sgd_sls(problem: Any, c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors compare with the norm of the gradient where the criterion wants its square."""
    monkeypatch.setattr(authors, "compute_grad_norm", lambda gradients: sum(g.square().sum() for g in gradients))
    ours, theirs = problem(), problem()
    mine = create_optimizer("sgd_sls", ours.parameters(), preset="published", c=c, init_step_size=10.0)
    reference = authors.AdamSLS(
        [list(theirs.parameters())],
        smooth=False,
        c=c,
        init_step_size=10.0 / GROWTH,
        base_opt="scalar",
        gv_option="scalar",
    )
    compare(ours, mine, theirs, reference)


class OneAfterTheOther(authors.AdamSLS):
    """PLASLS as the paper has it.

    The joint steps are tested with the slope of all layers, in place of the last one's; and the layers that wait move
    after the search, in place of those of lower number before it.
    """

    @property
    def pp_norm(self) -> list[torch.Tensor]:
        return [*self._slopes[:-1], sum(self._slopes)] if self.first_step else self._slopes

    @pp_norm.setter
    def pp_norm(self, slopes: list[torch.Tensor]) -> None:
        self._slopes = slopes
        self.waiting: list[tuple[Any, ...]] = []

    def try_sgd_precond_update(self, i: int, *arguments: Any, **settings: Any) -> None:
        if self.first_step or i == self.nextcycle:
            super().try_sgd_precond_update(i, *arguments, **settings)
        else:
            self.waiting.append((i, *arguments))

    def save_state(self, *arguments: Any) -> None:
        for waiting in self.waiting:
            super().try_sgd_precond_update(*waiting)
        super().save_state(*arguments)


@pytest.mark.parametrize("problem", [Network, Transformer])
@pytest.mark.parametrize("c", [0.1, 0.4])
def test_plasls(problem: Any, c: float) -> None:
    ours, theirs = problem(), problem()
    layers = [[list(model.parameters())[i::3] for i in range(3)] for model in (ours, theirs)]
    mine = create_optimizer("plasls", [{"params": layer} for layer in layers[0]], preset="published", c=c)
    reference = OneAfterTheOther(layers[1], smooth=False, c=c, init_step_size=0.1 / GROWTH)
    reference.state["gv"] = [[torch.zeros_like(p) for p in layer] for layer in layers[1]]
    reference.state["mv"] = [[torch.zeros_like(p) for p in layer] for layer in layers[1]]
    compare(ours, mine, theirs, reference)
    their_steps = reference.state["step_sizes"]
    assert [group["step_size"] for group in mine.param_groups] == pytest.approx(their_steps, rel=1e-9)
    assert len(set(their_steps)) == 3


def in_double(reference: Any) -> Any:
    reference.avg_decrease = reference.avg_decrease.double()
    reference.avg_gradient_norm = reference.avg_gradient_norm.double()
    return reference


class Mended(authors_salsa.SaLSA):
    """SaLSa as the paper has it: every step along Adam's direction and of the size found; averages from the first."""

    def line_search(self, step_size: float, current: Any, gradients: Any, loss: Any, closure: Any) -> Any:
        found = super().line_search(step_size, current, gradients, loss, closure)
        self.try_sgd_precond_update(self.params, found[0], current, gradients, self.momentum)
        if self.avg_step_size_slow == 1e-8:
            self.avg_step_size_slow = self.avg_step_size_fast = found[0]
        return found

    def try_sgd_precond_update(self, params: Any, step_size: float, current: Any, *rest: Any, **settings: Any) -> None:
        if current is params:
            step_size /= self.growth_factor
        super().try_sgd_precond_update(params, step_size, current, *rest, **settings)


@pytest.mark.parametrize("problem", [Network, Transformer])
@pytest.mark.parametrize("cadence", [True, False], ids=["cadence", "every step"])
def test_salsa(problem: Any, cadence: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors correct the bias with one step too many."""
    monkeypatch.setattr(authors_salsa, "scale_vector", lambda vector, beta, step: vector / (1 - beta ** (step - 1)))
    ours, theirs = problem(), problem()
    mine = create_optimizer(
        "adam_salsa", ours.parameters(), preset="authors_code", warmup=9, max_interval=10 if cadence else 1
    )
    reference = in_double(Mended(theirs.parameters(), init_step_size=1 / 1.1, speed_up=cadence))
    my_losses, my_steps = trajectory(ours, mine, lambda: mine.param_groups[0]["step_size"])
    accepts_backwards = [
        lambda backwards=False, closure=closure: _with_backward(closure, backwards) for closure in theirs.closures(60)
    ]
    their_losses, their_steps = [], []
    for closure in accepts_backwards:
        reference.zero_grad()
        their_losses.append(float(reference.step(closure).detach()))
        their_steps.append(reference.step_size)
    assert my_steps == pytest.approx(their_steps, rel=1e-9)
    assert my_losses == pytest.approx(their_losses, rel=1e-7)
    assert mine.counts["trials"] == reference.state["n_forwards"] - 60
    assert (mine.counts["searches"] < 60) == cadence


def _with_backward(closure: Any, backwards: bool) -> torch.Tensor:
    loss = closure()
    if backwards:
        loss.backward()
    return loss


@pytest.mark.parametrize("problem", [Network, Transformer])
def test_sgd_salsa(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "compute_grad_norm", lambda gradients: sum(g.square().sum() for g in gradients))
    ours, theirs = problem(), problem()
    mine = create_optimizer("sgd_salsa", ours.parameters(), preset="authors_code", init_step_size=10.0, max_interval=1)
    settings = {"beta_s": 0.9, "beta_b": 0.8, "gamma": 1.1, "n_batches_per_epoch": 1, "c": 0.5}
    reference = in_double(
        authors.AdamSLS(
            [list(theirs.parameters())],
            smooth=True,
            init_step_size=10.0 / 1.1,
            base_opt="scalar",
            gv_option="scalar",
            **settings,
        )
    )
    compare(ours, mine, theirs, reference)


def compare(ours: Any, mine: Any, theirs: Any, reference: Any) -> None:
    my_losses, my_steps = trajectory(ours, mine, lambda: mine.param_groups[0]["step_size"])
    their_losses, their_steps = trajectory(theirs, reference, lambda: reference.state["step_sizes"][0])
    assert my_steps == pytest.approx(their_steps, rel=1e-9)
    assert my_losses == pytest.approx(their_losses, rel=1e-7)
    assert mine.counts["trials"] == reference.state["n_forwards"] - 60
    assert mine.counts["backtracks"] > 5
