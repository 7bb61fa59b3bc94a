"""Step sizes and losses of the authors' package, `salsa-optimizer` 0.1.0, with its faults patched here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_sls.optim import SGDSLS, AdamSLS

from ..problems import Network, Transformer

authors = pytest.importorskip("salsa.adam_sls")
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
    mine = AdamSLS(ours.parameters(), c=c)
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
    mine = SGDSLS(ours.parameters(), c=c, init_step_size=10.0)
    reference = authors.AdamSLS(
        [list(theirs.parameters())],
        smooth=False,
        c=c,
        init_step_size=10.0 / GROWTH,
        base_opt="scalar",
        gv_option="scalar",
    )
    compare(ours, mine, theirs, reference)


def compare(ours: Any, mine: Any, theirs: Any, reference: Any) -> None:
    my_losses, my_steps = trajectory(ours, mine, lambda: mine.param_groups[0]["step_size"])
    their_losses, their_steps = trajectory(theirs, reference, lambda: reference.state["step_sizes"][0])
    assert my_steps == pytest.approx(their_steps, rel=1e-9)
    assert my_losses == pytest.approx(their_losses, rel=1e-7)
    assert mine.counts["trials"] == reference.state["n_forwards"] - 60
    assert mine.counts["backtracks"] > 5
