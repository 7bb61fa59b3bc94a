"""New members out of the public rules: what the rest of the family needs fits without a change of the core."""

from __future__ import annotations

import pytest
import torch

from hf_sls.optim import (
    Adam,
    Adaptive,
    Backtracking,
    Cyclic,
    LastStep,
    LineSearchOptimizer,
    Polyak,
    Smoothed,
)

from ..problems import Network, same, snapshot


def salsa(params: object) -> LineSearchOptimizer:
    return LineSearchOptimizer(
        params,
        direction=Adam(search="gradient"),
        criterion=Smoothed(),
        initial_step=LastStep(init_step_size=1.0, growth=1.1),
        backtracking=Backtracking(shrink=0.8),
        cadence=Adaptive(),
    )


def test_the_line_is_the_smoothed_inequality() -> None:
    """`accepts` on the line is the published `hs >= c * eta * ss`, over random cases."""
    rule, generator = Smoothed(c=0.3, smoothing=0.8), torch.Generator().manual_seed(0)
    agreed = 0
    for _ in range(2000):
        old_h, old_s, loss, new_loss, slope, eta = torch.randn(6, generator=generator, dtype=torch.float64).tolist()
        old_s, slope, eta = abs(old_s), abs(slope), abs(eta)
        h, s = 0.8 * old_h + 0.2 * (loss - new_loss), 0.8 * old_s + 0.2 * slope
        line = rule.line(loss, slope, {"decrease": old_h, "slope": old_s})
        assert line.accepts(eta, new_loss) == (h >= 0.3 * eta * s)
        agreed += h >= 0.3 * eta * s
    assert 200 < agreed < 1800


def test_salsa_composed_trains_skips_searches_and_resumes() -> None:
    model, again = Network(), Network()
    optimizer = salsa(model.parameters())
    losses = [float(optimizer.step(closure).detach()) for closure in model.closures(60)]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert 10 <= optimizer.counts["searches"] < 60

    first = salsa(again.parameters())
    closures = list(again.closures(60))
    for closure in closures[:25]:
        first.step(closure)
    second = salsa(again.parameters())
    second.load_state_dict(first.state_dict())
    for closure in closures[25:]:
        second.step(closure)
    assert same(again, snapshot(model))


def test_polyak_start_sees_the_backtracks() -> None:
    model = Network()
    optimizer = LineSearchOptimizer(model.parameters(), direction=Adam(), initial_step=Polyak(largest=1.0))
    for closure in model.closures(20):
        optimizer.step(closure)
        assert optimizer.last_report.outcome == "accepted"
    assert optimizer.counts["backtracks"] > 0


def test_groups_searched_one_by_one_keep_their_own_steps() -> None:
    model = Network()
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    initial_step = LastStep(0.1, growth=1.3)
    optimizer = LineSearchOptimizer(groups, direction=Adam(), initial_step=initial_step, partition=Cyclic())
    for step, closure in enumerate(model.closures(20)):
        before = [group["step_size"] for group in optimizer.param_groups]
        parameters = snapshot(model)
        optimizer.step(closure)
        after = [group["step_size"] for group in optimizer.param_groups]
        if step < 6:
            assert len(set(after)) == 1
        else:
            shrunk = [i for i in range(4) if after[i] != pytest.approx(1.3 * before[i])]
            assert shrunk in ([(step - 6) % 4], [])
        assert not any(torch.equal(now, old) for now, old in zip(model.parameters(), parameters))
    assert len(set(after)) > 1
    assert optimizer.counts["searches"] == 20
