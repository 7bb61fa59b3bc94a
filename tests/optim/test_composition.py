"""New members out of the public rules: what the rest of the family needs fits without a change of the core."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hf_sls.optim import Adam, Adaptive, Backtracking, LastStep, Line, LineSearchOptimizer

from ..problems import Network, same, snapshot

Memory = dict[str, float]


@dataclass(frozen=True)
class Smoothed:
    """SaLSa's criterion (arXiv 2407.20650): the smoothed decrease against the smoothed slope."""

    c: float = 0.5
    smoothing: float = 0.9

    def new_memory(self) -> Memory:
        return {"decrease": 0.0, "slope": 0.0}

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        smoothed_slope = self.smoothing * memory["slope"] + (1 - self.smoothing) * slope
        return Line(
            intercept=loss + self.smoothing * memory["decrease"] / (1 - self.smoothing),
            rate=self.c * smoothed_slope / (1 - self.smoothing),
        )

    def accepted(self, loss: float, slope: float, accepted_loss: float, memory: Memory) -> Memory:
        return {
            "decrease": self.smoothing * memory["decrease"] + (1 - self.smoothing) * (loss - accepted_loss),
            "slope": self.smoothing * memory["slope"] + (1 - self.smoothing) * slope,
        }


@dataclass(frozen=True)
class Polyak:
    """PoNoS's initial step (arXiv 2306.12747), from the loss and the slope and the backtracks so far."""

    first: float = 1.0
    largest: float = 10.0

    def new_memory(self) -> Memory:
        return {"backtracks": 0}

    def start(self, loss: float, slope: float, step_size: float, memory: Memory) -> float:
        return min(max(loss / (0.1 * slope) * 0.5 ** memory["backtracks"], 1e-6), self.largest)

    def searched(self, backtracks: int, memory: Memory) -> Memory:
        return {"backtracks": max(memory["backtracks"] + backtracks - 1, 0)}


@dataclass(frozen=True)
class OneByOne:
    """PLASLS's cycle: all groups together for a while, then one after the other."""

    joint_steps: int = 6

    def searched(self, group_count: int, step: int) -> list[int]:
        return list(range(group_count)) if step < self.joint_steps else [step % group_count]


def salsa(params: object) -> LineSearchOptimizer:
    return LineSearchOptimizer(
        params,
        direction=Adam(search="gradient"),
        criterion=Smoothed(),
        initial_step=LastStep(first=1.0, growth=1.1),
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
    optimizer = LineSearchOptimizer(model.parameters(), direction=Adam(), initial_step=Polyak())
    for closure in model.closures(20):
        optimizer.step(closure)
        assert optimizer.last_report.outcome == "accepted"
    assert optimizer.counts["backtracks"] > 0


def test_groups_searched_one_by_one_keep_their_own_steps() -> None:
    model = Network()
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    optimizer = LineSearchOptimizer(groups, direction=Adam(), initial_step=LastStep(0.1), partition=OneByOne())
    for step, closure in enumerate(model.closures(20)):
        before = [group["step_size"] for group in optimizer.param_groups]
        parameters = snapshot(model)
        optimizer.step(closure)
        after = [group["step_size"] for group in optimizer.param_groups]
        if step < 6:
            assert len(set(after)) == 1
        else:
            assert [i for i in range(4) if before[i] != after[i]] in ([step % 4], [])
        assert not any(torch.equal(now, old) for now, old in zip(model.parameters(), parameters))
    assert len(set(after)) > 1
    assert optimizer.counts["searches"] == pytest.approx(20)
