"""Step sizes that can be computed by hand, and the inequality that every accepted step has to satisfy."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind_from_stats

from hf_sls.optim import (
    Adam,
    Armijo,
    Backtracking,
    Budget,
    Event,
    EveryStep,
    Gradient,
    Line,
    LineSearchOptimizer,
    LookBack,
    LookedBack,
    NonMonotone,
    NotSearched,
    Searched,
    SearchedElsewhere,
    SearchResult,
    Smoothed,
    Watch,
    Worsened,
    create_optimizer,
)

from ..members import MEMBERS, published
from ..problems import Network, Transformer, snapshot

curvatures = st.floats(0.01, 1000)
shares = st.floats(0.05, 0.95)


def quadratic(curvature: float) -> tuple[torch.Tensor, Any]:
    """Return w and the closure of `f(w) = curvature / 2 * ||w||^2`, along whose gradient Armijo accepts exactly the
    step sizes up to `2 (1 - c) / curvature`.
    """
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    return w, lambda: curvature / 2 * w.square().sum()


@pytest.mark.parametrize("cadence", [EveryStep(), Budget(credit=0.5, rate=1e-9)], ids=["searched", "not searched"])
@pytest.mark.parametrize("lr", [0.0, 0.3, 1.0])
def test_lr_is_the_fraction_of_the_step_found_that_is_taken(lr: float, cadence: Any) -> None:
    w, closure = quadratic(2.0)
    optimizer = LineSearchOptimizer([w], direction=Gradient(), cadence=cadence, weight_decay=0.1, lr=lr)
    for _ in range(4):
        before = w.detach().clone()
        optimizer.step(closure)
        (group,) = optimizer.param_groups
        found = group["line_search"]["initial_step"]["step_size"]
        taken = lr * found
        assert group["step_size"] == optimizer.last_report.step_size == taken
        torch.testing.assert_close(w.detach(), before - taken * (2.0 * before + 0.1 * before), rtol=1e-12, atol=0)
    assert found == pytest.approx(0.1 * 2 ** (3 / 500) if cadence == EveryStep() else 0.1)


@pytest.mark.parametrize("lrs", [(1.0, 0.0), (0.5, 2.0)])
def test_groups_that_are_searched_together_may_take_different_shares(lrs: tuple[float, float]) -> None:
    w, v = (torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    groups = [{"params": [w], "lr": lrs[0]}, {"params": [v], "lr": lrs[1]}]
    optimizer = published("sgd_sls", groups, c=0.5)
    optimizer.step(lambda: w.square().sum() + v.square().sum())
    for parameter, lr in zip((w, v), lrs, strict=True):
        expected = torch.tensor([3.0, -4.0], dtype=torch.float64) * (1 - lr * 0.1 * 2)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(curvature=curvatures, c=shares, shrink=st.floats(0.3, 0.95))
def test_geometric_backtracking_accepts_the_first_step_below_the_armijo_limit(
    curvature: float, c: float, shrink: float
) -> None:
    w, closure = quadratic(curvature)
    optimizer = published("sgd_sls", [w], init_step_size=1.0, c=c, shrink=shrink, max_trials=1000)
    optimizer.step(closure)
    limit = 2 * (1 - c) / curvature
    backtracks = max(0, math.ceil(math.log(limit) / math.log(shrink)))
    report = optimizer.last_report
    assert abs(report.backtracks - backtracks) <= 1
    assert report.step_size == pytest.approx(shrink**report.backtracks)
    assert report.step_size <= limit * (1 + 1e-9)
    assert report.backtracks == 0 or report.step_size / shrink > limit * (1 - 1e-9)
    assert report.slope == pytest.approx(curvature**2 * 25)
    assert w.detach().tolist() == pytest.approx(
        [3 * (1 - report.step_size * curvature), -4 * (1 - report.step_size * curvature)]
    )


@settings(max_examples=60, deadline=None)
@given(curvature=curvatures, c=shares)
def test_interpolation_finds_the_armijo_limit_of_a_quadratic_in_two_trials(curvature: float, c: float) -> None:
    w, closure = quadratic(curvature)
    limit = 2 * (1 - c) / curvature
    optimizer = published("sgd_sls", [w], init_step_size=5 * limit, c=c, interpolate=True, shrink=0.99)
    optimizer.step(closure)
    assert optimizer.last_report.trials == 2
    assert optimizer.last_report.step_size == pytest.approx(0.9 * limit)


@pytest.mark.parametrize(("c", "lower_bound", "first_tried"), [(0.5, 0.0, 1.0), (0.25, 0.0, 2.0), (0.5, -1.0, 3.0)])
def test_no_step_is_tried_that_no_loss_could_pass(c: float, lower_bound: float, first_tried: float) -> None:
    """At loss 0.5 and slope 1, a nonnegative loss can fall by 0.5 at the most, so `eta <= 0.5 / c`."""
    tried = []
    Backtracking(lower_bound=lower_bound).search(
        lambda eta: tried.append(eta) or 10.0, Armijo(c).line(0.5, 1.0, {}), 0.5, 1.0, 6.0
    )
    assert tried[0] == pytest.approx(first_tried)


def test_interpolation_meets_a_line_above_the_loss() -> None:
    """`1 - eta + eta^2` meets `2 - 0.5 eta` at `(0.5 + sqrt(0.25 + 4)) / 2`."""
    tried = []

    def phi(eta: float) -> float:
        tried.append(eta)
        return 1 - eta + eta**2

    result = Backtracking(shrink=0.99, interpolate=True).search(phi, Line(2.0, 0.5), 1.0, 1.0, 10.0)
    assert tried[1] == pytest.approx(0.9 * (0.5 + math.sqrt(4.25)) / 2)
    assert result.trials == 2


class Published:
    """The inequality of each criterion as the papers print it, with averages of its own, and with its tolerance."""

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        self.smoothed_decrease = self.smoothed_slope = self.average_loss = self.weight = 0.0

    def holds(self, report: Any) -> bool:
        c, decrease = self.criterion.c, report.loss_decrease
        if isinstance(self.criterion, Smoothed):
            share = self.criterion.smoothing
            self.smoothed_decrease = share * self.smoothed_decrease + (1 - share) * decrease
            self.smoothed_slope = share * self.smoothed_slope + (1 - share) * report.slope
            return self.smoothed_decrease >= c * report.step_size * self.smoothed_slope - 1e-15
        if isinstance(self.criterion, NonMonotone):
            past = self.criterion.xi * self.weight
            self.average_loss = (past * self.average_loss + report.loss) / (past + 1)
            self.weight = past + 1
            reference = max(self.average_loss, report.loss)
            return report.loss - decrease <= reference - c * report.step_size * report.slope + 1e-15
        return decrease + self.criterion.tolerance * report.loss >= c * report.step_size * report.slope


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("problem", [Network, Transformer])
def test_every_accepted_step_satisfies_its_criterion(member: str, problem: Any) -> None:
    model = problem()
    optimizer = MEMBERS[member](model.parameters())
    published, accepted, checked = Published(optimizer.criterion), 0, 0
    for closure in model.closures(50):
        loss = optimizer.step(closure)
        report = optimizer.last_report
        if report.outcome == "accepted":
            accepted += 1
            assert report.loss == float(loss)
            assert published.holds(report)
            if optimizer.direction.searches_applied and _descends(optimizer):
                checked += 1
                taken = float(closure().detach())
                assert float(loss) - taken == pytest.approx(report.loss_decrease, rel=1e-9, abs=1e-12)
    assert accepted >= (1 if optimizer.initial_step.needs_last_update else 5)
    assert checked >= min(accepted, 5) or not optimizer.direction.searches_applied


def _descends(optimizer: LineSearchOptimizer) -> bool:
    """Whether the direction applied is one of descent; where it is not, the gradient may have been searched instead."""
    if not isinstance(optimizer.direction, Adam):
        return True
    second_moment = "max_exp_avg_sq" if optimizer.direction.amsgrad else "exp_avg_sq"
    moments = optimizer.state
    return sum(float((p.grad * moments[p]["exp_avg"] / moments[p][second_moment].sqrt()).sum()) for p in moments) > 0


def test_slope_of_adam_is_the_derivative_of_the_loss_along_its_step() -> None:
    model = Network()
    optimizer = published("adam_sls", model.parameters(), search_direction="momentum", init_step_size=1e-7)
    for closure in model.closures(5):
        optimizer.step(closure)
        report = optimizer.last_report
        assert report.loss_decrease / report.step_size == pytest.approx(report.slope, rel=1e-4)


def test_gradient_search_tests_the_gradient_and_applies_adam() -> None:
    """Kenneweg 2023: after the first step the point taken is not the point tested."""
    model = Network()
    optimizer = published("adam_sls", model.parameters(), init_step_size=1e-3)
    first, second = model.closures(2)
    optimizer.step(first)
    before = snapshot(model)
    state = {p: {name: value.clone() for name, value in moments.items()} for p, moments in optimizer.state.items()}
    optimizer.step(second)
    report = optimizer.last_report
    for parameter, old in zip(model.parameters(), before):
        gradient = parameter.grad
        exp_avg = 0.9 * state[parameter]["exp_avg"] + 0.1 * gradient
        exp_avg_sq = 0.999 * state[parameter]["exp_avg_sq"] + 0.001 * gradient**2
        denominator = (exp_avg_sq / (1 - 0.999**2)).sqrt() + 1e-8
        expected = old - report.step_size * exp_avg / (1 - 0.9**2) / denominator
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize(("credit", "rate"), [(0.0, 0.1), (5.0, 0.25), (12.0, 0.1)])
def test_budget_bounds_the_trials_at_every_step(credit: float, rate: float) -> None:
    cadence, trials = Budget(credit, rate), 0
    memory = cadence.new_memory()
    for step in range(1, 200):
        allowed = credit + rate * step
        assert cadence.due(memory) == (trials < allowed)
        if cadence.due(memory):
            trials += 3
            memory = cadence.update(memory, Searched(2.0, 1.0, SearchResult(0.1, 1.0, 3, "accepted")))
        else:
            memory = cadence.update(memory, NotSearched())
        assert trials < allowed + 3
    assert trials >= credit + rate * 200 - 3


@pytest.mark.parametrize("name", ["adagrad_sls", "plasls", "sgd_sls"])
@pytest.mark.parametrize("broken", [False, True])
def test_the_budget_holds_for_all_layers_together_and_whatever_the_loss_does(name: str, broken: bool) -> None:
    model = Network()
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    optimizer = create_optimizer(name, groups, search_rate=0.1, search_credit=8.0)
    for step, closure in enumerate(model.closures(200)):
        factor = math.nan if broken and step > 40 else 1.0
        optimizer.step(lambda closure=closure, factor=factor: closure() * factor)
    most = 20  # of one search
    assert optimizer.counts["trials"] <= 8 + 0.1 * 200 + most
    assert optimizer.counts["trials"] > 10


def found(rule: LookBack, step_size: float) -> dict[str, float]:
    """Return the memory after a first search that has found `step_size`."""
    return rule.update(rule.new_memory(), searched(step_size))


def searched(step_size: float, trials: int = 1, loss: float = 2.0, slope: float = 5.0) -> Searched:
    """Return a search that has accepted its last trial."""
    return Searched(loss, slope, SearchResult(step_size, loss / 2, trials, "accepted"))


def looked_back(step_size: float, signal: float, curvature: float, own: float = 5.0) -> LookedBack:
    """Return what a batch sees of which the loss is a parabola, of slope `own * signal` where the step began."""
    start, end = own * signal, own * (signal - curvature * step_size)
    return LookedBack(step_size, own, end, (start + end) / 2 * step_size)


@given(curvature=curvatures, signal=st.floats(0.01, 1.0), start=st.floats(0.01, 2.0))
def test_where_all_batches_agree_the_step_goes_to_the_minimum_of_the_parabola(
    curvature: float, signal: float, start: float
) -> None:
    """Of n batches alike, the one of no signal leaves `1 - 2.75^2 / n^2` of the certainty.

    With the slope `signal * own` at the start of a step, the loss of a batch is lowest at `signal / curvature`.
    """
    minimum = signal / curvature
    rule = LookBack(init_step_size=max(start, 1.0) * minimum, batches=40)
    memory, n = found(rule, start * minimum), 0
    while not rule.settled(memory):
        n, before = n + 1, memory["step_size"]
        memory = rule.update(memory, looked_back(before, signal, curvature))
        certainty = max(1 - 2.75**2 / n**2, 0)
        expected = min(max(certainty * minimum, before / 2**certainty), before * 2**certainty)
        assert memory["step_size"] == pytest.approx(expected, rel=1e-6)
        reached = before / 2**certainty <= certainty * minimum <= before and certainty >= 0.5
        if before != pytest.approx(certainty * minimum):
            assert rule.settled(memory) == (reached or n == 40)
    assert memory["step_size"] == pytest.approx(certainty * minimum, rel=1e-6)
    for event in (looked_back(1.0, 1.0, 0.0), searched(1.0), NotSearched()):
        assert rule.update(memory, event) == memory
    assert rule.update(memory, Worsened(0.25))["step_size"] == memory["step_size"] / 4


@given(share=st.floats(0.01, 0.99), largest=st.floats(1e-4, 10.0))
def test_where_no_batch_sees_a_minimum_the_step_goes_to_the_largest(share: float, largest: float) -> None:
    """As where a loss nears zero: it falls at any step size."""
    rule = LookBack(init_step_size=largest)
    memory, n = found(rule, share * largest), 0
    while not rule.settled(memory):
        n, before = n + 1, memory["step_size"]
        memory = rule.update(memory, looked_back(before, 1.0, 0.0))
        assert memory["step_size"] == pytest.approx(min(before * 2 ** max(1 - 2.75**2 / n**2, 0), largest))
    assert memory["step_size"] == largest
    assert n < 30
    assert before == pytest.approx(largest)


def test_where_the_batches_disagree_the_search_goes_on_after_every_interval() -> None:
    """Random signs for thirty batches, then the same slope for all: a mean that is certain takes a hundred of those."""
    rule = LookBack(init_step_size=1.0, interval=5)
    memory, batches, steps = found(rule, 1e-3), 0, 0
    while not rule.settled(memory):
        if rule.looks_back(memory):
            assert rule.due(memory)
            batches += 1
            signal = (-1.0) ** batches if batches <= 30 else 1.0
            memory = rule.update(memory, looked_back(memory["step_size"], signal, 0.0))
            assert memory["steps_since"] == 0
        else:
            assert batches >= 30
            assert not rule.due(memory)
            steps += 1
            assert rule.update(memory, SearchedElsewhere(1, True)) == memory
            memory = rule.update(memory, NotSearched() if steps % 2 else searched(1e-3))
            assert rule.looks_back(memory) == (memory["steps_since"] == 5)
        assert rule.uncertain(memory) == (batches >= 30 and memory["step_size"] == 1e-3)
    assert steps == 5 * (batches - 30)
    assert memory["step_size"] == 1.0
    assert not rule.due(memory)
    assert not rule.uncertain(memory)


@example(seen=[(-1e-200, 0.0), (1e-200, 0.0)], own=1.0, start=0.01)
@example(seen=[(-0.3, -0.2), (0.3, 0.2)] * 5, own=1.0, start=10.0)  # settles at the eighth batch
@given(
    seen=st.lists(st.tuples(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0)), min_size=2, max_size=12),
    own=st.floats(1e-3, 1e3),
    start=st.floats(1e-3, 10.0),
)
def test_the_step_goes_by_the_certainty_of_the_signal_to_the_minimum_it_allows(
    seen: list[tuple[float, float]], own: float, start: float
) -> None:
    """The docstring's formulas, from all batches at once; the unbiased variance of a mean is numpy's."""
    rule = LookBack(init_step_size=1e5, batches=99)
    memory, steps = found(rule, start), [start]
    for signal, curvature in seen:
        memory = rule.update(memory, looked_back(steps[-1], signal, curvature, own * (-1) ** len(steps)))
        steps.append(memory["step_size"])
        if rule.settled(memory):
            break
    directions = np.array([(-1) ** k for k in range(1, len(steps))])  # where the own batch ascends, |s| counts
    slopes = np.array(seen)[: len(directions)] * directions[:, None]
    for k in range(1, len(steps)):
        starts, ends = slopes[:k, 0], slopes[:k, 0] - slopes[:k, 1] * steps[:k]
        starts = np.maximum(starts, ends)  # a parabola that opens downward counts as straight
        largest = np.max([np.abs(starts), np.abs(ends), np.ones(k)], axis=0)
        kept = (starts - ends) / largest
        starts = np.array([0.0, *starts / largest])
        mean = starts.mean()
        fitted = np.linalg.lstsq(np.array(steps[:k])[:, None], kept, rcond=None)[0].item()
        curvature = max((kept / steps[:k]).mean(), fitted)
        counts = (starts**2).any() and mean > 2.75 * starts.std(ddof=1) / math.sqrt(k + 1)
        certainty = 1 - 2.75**2 * starts.var(ddof=1) / (k + 1) / mean**2 if counts else 0.0
        minimum = 0.0
        if counts:
            minimum = starts[1:].mean() / curvature if curvature > 0 else math.inf
        best, stride = certainty * minimum, 2**certainty
        assert steps[k] == pytest.approx(min(max(best, steps[k - 1] / stride), steps[k - 1] * stride), rel=1e-6)
        reached = certainty >= 0.5 and steps[k - 1] / stride <= best <= steps[k - 1]
        assert (k == len(steps) - 1 and rule.settled(memory)) == reached


def test_a_faint_signal_counts_as_much_as_a_loud_one_and_noise_hardly() -> None:
    def after(signals: list[float]) -> float:
        rule = LookBack()
        memory = found(rule, 1e-6)
        for signal in signals:
            memory = rule.update(memory, looked_back(memory["step_size"], signal, 1e-3))
        return memory["step_size"]

    assert after([0.01] * 8) == pytest.approx(after([1.0] * 8))
    assert after([0.9, -1.0] * 4) == 1e-6
    draws = np.random.default_rng(0).standard_normal((500, 8)).clip(-1, 1)
    assert np.exp(np.mean([math.log(after(list(row)) / 1e-6) for row in draws])) < 1.3


def test_the_first_search_finds_how_far_the_first_gradient_is_good_for() -> None:
    rule = LookBack(init_step_size=1.0)
    assert rule.start(rule.new_memory()) == 0.0
    assert rule.start(rule.new_memory(), 2.0, 5.0) == 1.0
    assert rule.taken(rule.new_memory(), 1.0) == pytest.approx(0.02)
    assert rule.taken(rule.new_memory(), 0.01) == pytest.approx(0.002)
    assert rule.taken(rule.new_memory(), 1e-4) == 1e-4
    assert not rule.looks_back(rule.new_memory())
    failed = Searched(2.0, 5.0, SearchResult(0.01, 3.0, 4, "exhausted"))
    assert rule.update(rule.new_memory(), failed) == rule.new_memory()
    memory = found(rule, 0.1)
    assert (rule.start(memory), rule.taken(memory, 0.5), rule.settled(memory)) == (0.1, 0.5, False)
    assert rule.looks_back(memory)
    for event in (LookedBack(0.1, 0.0, 0.0, 0.0), LookedBack(0.1, 1.0, 1.0, math.inf)):
        assert rule.update(memory, event) == memory  # they say nothing


def test_until_it_settles_a_step_follows_the_schedule_below_its_peak_alone() -> None:
    """While a schedule rises the steps are whole; AdamW's linear warm-up and decay, in a run that never settles."""
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = create_optimizer("adam_sls", [w], init_step_size=1e-6)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 4, (12 - step) / 9))
    for step in range(10):
        optimizer.step(lambda: (w - 1e3).square().sum())
        found = optimizer.found_step_sizes[0]
        assert optimizer.search_due
        fraction = 1.0 if step < 4 else (12 - step) / 9
        assert optimizer.param_groups[0]["step_size"] == pytest.approx(fraction * found)
        scheduler.step()


def test_a_search_rate_of_infinity_searches_every_step_after_settling_and_holds_the_step_size_found() -> None:
    runs = []
    for search in ({}, {"search_rate": math.inf}):
        model = Network()
        optimizer = create_optimizer("adam_sls", model.parameters(), **search)
        for closure in model.closures(60):
            optimizer.step(closure)
        looked_back = optimizer.param_groups[0]["line_search"]["initial_step"]["batches"]
        runs.append((optimizer.counts["searches"] + looked_back, optimizer.found_step_sizes))
    assert runs[0][0] < runs[1][0] == 60
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("search_direction", ["momentum", "gradient"])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_what_a_batch_sees_when_it_looks_back(search_direction: str, factor: float) -> None:
    """Against the definitions: the update is the difference of two points, gradients and losses are autograd's."""
    model, heard = Network(), []

    class Listening(LookBack):
        def update(self, memory: dict[str, float], event: Event) -> dict[str, float]:
            if isinstance(event, LookedBack):
                heard.append((event.step_size, event.own_slope, event.slope, event.decrease))
            return super().update(memory, event)

    body, head = list(model.parameters())[:2], list(model.parameters())[2:]
    groups = [{"params": body, "lr": 1.0}, {"params": head, "lr": factor}]
    optimizer = LineSearchOptimizer(groups, direction=Adam(search=search_direction), initial_step=Listening())
    expected, last, before = [], None, snapshot(model)
    for closure in model.closures(8):
        loss = closure()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        if last is not None:
            step_size, own, update = last
            slope = sum(float((g * u).sum()) for g, u in zip(gradients, update))
            here = snapshot(model)
            for parameter, value in zip(model.parameters(), before):
                parameter.data.copy_(value)
            decrease = closure().item() - loss.item()
            for parameter, value in zip(model.parameters(), here):
                parameter.data.copy_(value)
            expected.append((step_size, own, slope, decrease))
        before = snapshot(model)
        optimizer.step(closure)
        step_size = optimizer.last_report.step_size
        update = [(old - new.detach()) / step_size for old, new in zip(before, model.parameters())]
        last = (step_size, sum(float((g * u).sum()) for g, u in zip(gradients, update)), update)
    assert len(heard) == 7
    for seen, wanted in zip(heard, expected):
        assert seen == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_steps_are_whole_until_the_step_size_is_settled_and_a_fraction_of_it_after() -> None:
    """Whatever a schedule asks for; what one group takes of the other's step stays."""
    w, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    optimizer = create_optimizer("adam_sls", [{"params": [w], "lr": 0.2}, {"params": [v], "lr": 0.1}])
    generator = torch.Generator().manual_seed(0)
    settled = []
    for _ in range(60):
        noise = torch.randn(3, generator=generator)
        due = optimizer.search_due
        optimizer.step(lambda noise=noise: (w - noise[:2]).square().sum() + (v - noise[2]).square().sum())
        taken = [group["step_size"] for group in optimizer.param_groups]
        found = optimizer.param_groups[0]["line_search"]["initial_step"]["step_size"]
        if due:
            assert taken[1] == pytest.approx(0.5 * taken[0])
        else:
            assert taken == pytest.approx([0.2 * found, 0.1 * found])
        settled.append(not due)
    assert settled == sorted(settled)
    assert settled[-1]


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("init_step_size", [1e-3, 1e-2, 1.0])
def test_the_first_step_is_a_part_of_the_geometric_mean_of_armijos_and_the_largest(
    beta1: float, init_step_size: float
) -> None:
    """Brute force finds how far the first batch may go; its mean with `init_step_size` is taken, times the part."""
    generator = torch.Generator().manual_seed(0)
    start, targets = 0.01 * torch.randn(2, 100, generator=generator, dtype=torch.float64)
    w = start.clone().requires_grad_()
    settings = {"betas": (beta1, 0.999), "init_step_size": init_step_size, "interpolate": False, "shrink": 0.5}
    optimizer = create_optimizer("adam_sls", [w], **settings)
    optimizer.step(lambda: 100 * (w - targets).square().mean())

    gradient = 2 * (start - targets)
    direction = gradient / (gradient.abs() + 1e-8)
    loss, slope = 100 * float((start - targets).square().mean()), float((gradient * direction).sum())

    def decrease(step_size: float) -> float:
        return loss - 100 * float((start - step_size * direction - targets).square().mean())

    tried = [init_step_size * 0.5**power for power in range(20)]
    far = next(each for each in tried if decrease(each) >= 0.1 * each * slope - loss / 256)
    report = optimizer.last_report
    taken = min(0.02 * math.sqrt(init_step_size * far), far)
    assert report.step_size == pytest.approx(taken)
    assert report.loss_decrease == pytest.approx(decrease(report.step_size))
    assert report.backtracks == tried.index(far)
    assert report.trials == report.backtracks + (2 if taken < far else 1)
    assert decrease(far) > 0


def test_rounding_that_hides_what_a_short_step_does_does_not_shorten_the_first_step() -> None:
    """A loss that is one per cent too high close to its start, as a model in bf16 hardly answers to a short step."""
    start = torch.ones(4, dtype=torch.float64)
    w = start.clone().requires_grad_()

    def closure() -> torch.Tensor:
        loss = w.square().sum()
        return 1.01 * loss if 0 < float((w.detach() - start).abs().max()) < 1e-3 else loss

    closure.rounding = 2**-8  # as hf_sls.LossClosure has it
    optimizer = create_optimizer("adam_sls", [w])
    loss = closure()
    loss.backward()
    optimizer.step(closure, loss=loss)
    report = optimizer.last_report
    assert report.step_size == pytest.approx(0.02 * 1e-2)
    assert (report.trials, report.backtracks) == (2, 0)
    assert report.loss_decrease == pytest.approx(4 - 1.01 * 4 * (1 - 2e-4) ** 2)
    assert torch.allclose(w.detach(), start - 2e-4, atol=1e-10, rtol=0)


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=64, max_size=64))
def test_the_watch_compares_two_windows_as_scipy_does(losses: list[float]) -> None:
    """By Student's test of two samples that both have the larger of their standard deviations."""
    watch = Watch(window=32, deviations=3.0, rise=0.0)
    memory = watch.seen(losses[:32], watch.new_memory())
    assert not watch.got_worse(memory)
    memory = watch.seen([math.nan, *losses[32:50]], watch.looked(memory))
    assert not watch.got_worse(memory)
    assert watch.looked(memory) == memory
    memory = watch.seen(losses[50:], memory)
    first, second = losses[:32], losses[32:]
    deviation = max(statistics.stdev(first), statistics.stdev(second))
    if max(map(abs, losses)) > 1e-3 and deviation > 1e-6:
        means = statistics.mean(second), statistics.mean(first)
        statistic = ttest_ind_from_stats(means[0], deviation, 32, means[1], deviation, 32).statistic
        if abs(statistic - 3.0) > 1e-6:
            assert watch.got_worse(memory) == (statistic > 3.0)


def windows_of(watch: Watch, losses: list[float]) -> tuple[list[int], list[int]]:
    """Return after which loss a window was complete, and after which one the run was said to get worse."""
    memory, complete, worse = watch.new_memory(), [], []
    for end in range(watch.window, len(losses) + 1, watch.window):
        memory = watch.seen(losses[end - watch.window : end], memory)
        if watch.got_worse(memory):
            worse.append(end)
        memory = watch.looked(memory)
        if not memory["steps"]:
            complete.append(end)
    return complete, worse


def test_windows_of_the_watch_grow_with_the_run() -> None:
    """Each is a quarter of the run at its end, and 32 at least: 128 = 4 * 32, 192 = 4/3 * 128 rounded up, ..."""
    complete, worse = windows_of(Watch(), [1.0] * 800)
    assert complete == [32, 64, 96, 128, 192, 256, 352, 480, 640]
    assert not worse


def test_the_watch_hears_a_small_rise_and_makes_no_alarm_of_noise() -> None:
    """As with a fifth of the labels wrong, from what can be learnt, 0.5, back to chance, 0.69, with batches of 8."""
    generator = np.random.default_rng(0)
    heard, alarms = 0, 0
    for _ in range(50):
        learnt, chance = generator.normal(0.5, 0.25, 600), generator.normal(0.69, 0.25, 900)
        heard += bool(windows_of(Watch(), [*learnt, *chance])[1])
    for sample in (generator.normal, generator.exponential, partial(generator.lognormal, sigma=1.5)):
        alarms += sum(bool(windows_of(Watch(), list(sample(size=5000)))[1]) for _ in range(20))
    rare = [list(0.001 + 3.0 * (generator.random(5000) < 0.02)) for _ in range(20)]
    alarms += sum(bool(windows_of(Watch(), losses)[1]) for losses in rare)
    assert heard >= 48
    assert alarms <= 1


@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
@pytest.mark.parametrize("problem", [Network, Transformer])
def test_a_gradient_of_another_function_is_noticed_at_the_first_search(problem: Any, factor: float) -> None:
    model = problem()
    optimizer = create_optimizer("adam_sls", model.parameters())
    closure = next(model.closures(1))
    loss = closure()
    loss.backward()
    for parameter in model.parameters():
        parameter.grad *= factor
    with pytest.warns(UserWarning, match=r"gradient in \.grad is not that of the loss.*a factor"):
        optimizer.step(closure, loss=loss)
    assert optimizer.last_report.checks == 2


def test_a_curved_loss_is_not_taken_for_another_function() -> None:
    """The minimum of the first batch is 30 away, and its loss far from zero."""
    w = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = create_optimizer("adam_sls", [w])
    optimizer.step(lambda: 1000.0 + (w - 2.0 - 60.0 / 2).square().sum() * 0.5)
    report = optimizer.last_report
    assert report.outcome == "accepted"
    assert report.checks <= 2


def test_a_loss_that_needs_gradients_is_evaluated_with_them() -> None:
    """A gradient penalty, and a module that goes another way without gradients."""
    for name, evaluate in (
        ("penalty", lambda w, x: torch.autograd.grad(w(x).sum(), x, create_graph=True)[0].square().sum()),
        ("other way", lambda w, x: w(x).square().sum() * (1.0 if torch.is_grad_enabled() else 2.0)),
    ):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
        inputs = torch.randn(16, 2, dtype=torch.float64, requires_grad=True)
        optimizer = create_optimizer("adam_sls", network.parameters())
        losses = [float(optimizer.step(lambda: evaluate(network, inputs))) for _ in range(40)]  # noqa: B023
        assert losses[-1] < 0.5 * losses[0], name
        assert optimizer.counts["checks"] == 3, name  # the fifth batch that looks back checks too


def test_parameters_that_come_late_start_a_search_of_their_own() -> None:
    """At the step that finds them they stay, as no trial can be made; from the next one on all are searched anew."""
    torch.manual_seed(0)
    body, head = torch.nn.Linear(4, 4).double().requires_grad_(False), torch.nn.Linear(4, 1).double()
    optimizer = create_optimizer("adam_sls", [*body.parameters(), *head.parameters()])

    def step() -> None:
        inputs = torch.randn(8, 4, dtype=torch.float64)
        optimizer.step(lambda: (head(torch.tanh(body(inputs))) - inputs.sum(1, True)).square().mean())

    for _ in range(60):
        step()
    assert not optimizer.search_due
    settled, before = optimizer.param_groups[0]["step_size"], snapshot(body)
    body.requires_grad_(True)
    step()
    assert all(torch.equal(now, then) for now, then in zip(body.parameters(), before))
    assert optimizer.search_due
    step()
    assert not any(torch.equal(now, then) for now, then in zip(body.parameters(), before))
    assert optimizer.param_groups[0]["step_size"] < 0.5 * settled


@pytest.mark.parametrize("name", ["adam_sls", "adam_salsa", "adagrad_sls"])
def test_the_others_go_on_by_their_step_size_when_parameters_come_late(name: str) -> None:
    """Not by the one that a search would start from, which nobody has tried."""
    torch.manual_seed(0)
    body, head = torch.nn.Linear(4, 4).double().requires_grad_(False), torch.nn.Linear(4, 1).double()
    optimizer = create_optimizer(name, [*body.parameters(), *head.parameters()])

    def step() -> None:
        inputs = torch.randn(8, 4, dtype=torch.float64)
        optimizer.step(lambda: (head(torch.tanh(body(inputs))) - inputs.sum(1, True)).square().mean())

    for _ in range(40):
        step()
    while optimizer.search_due:
        step()
    found = optimizer.param_groups[0]["step_size"]
    body.requires_grad_(True)
    step()
    assert optimizer.last_report.outcome == "not_searched"
    assert optimizer.last_report.step_size == found
    assert optimizer.search_due


def test_a_learning_rate_in_the_groups_is_warned_of() -> None:
    w, v = (torch.tensor([2.0], requires_grad=True) for _ in range(2))
    optimizer = create_optimizer("adam_sls", [{"params": [w], "lr": 5e-5}, {"params": [v], "lr": 5e-4}])
    with pytest.warns(UserWarning, match=r"lr=0.0005 in the parameter groups is not a learning rate"):
        optimizer.step(lambda: w.square().sum() + v.square().sum())


@pytest.mark.parametrize(
    ("rates", "warned"), [((1.0, 1e-3), True), ((1.0, 0.5, 5e-5), True), ((1.0, 0.02, 0.005), False)]
)
def test_a_group_whose_rate_is_far_below_the_others_is_warned_of(rates: tuple[float, ...], warned: bool) -> None:
    weights = [torch.tensor([2.0], requires_grad=True) for _ in rates]
    optimizer = create_optimizer("adam_sls", [{"params": [w], "lr": lr} for w, lr in zip(weights, rates)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step(lambda: torch.cat(weights).square().sum())
    assert any(f"lr={rates[-1]:.3g} in the parameter groups" in str(each.message) for each in caught) == warned


def test_a_run_that_gets_worse_says_so_and_takes_shorter_steps() -> None:
    """After it has settled, the loss is made forty higher, for one window and again: it is told of once."""
    w = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = create_optimizer("adam_sls", [w])
    generator = torch.Generator().manual_seed(0)

    def steps(count: int, level: float) -> None:
        for _ in range(count):
            noise = torch.randn(2, generator=generator)
            optimizer.step(lambda noise=noise: (w - noise).square().sum() + level)

    steps(64, 0.0)
    assert not optimizer.search_due
    before = optimizer.param_groups[0]["line_search"]["initial_step"]["step_size"]
    with pytest.warns(UserWarning, match=r"loss of the last 32 steps.*is above the .* are a quarter of that"):
        steps(32, 40.0)
    for level in (0.0, 40.0, 0.0, 40.0):
        steps(32, level)
    assert not optimizer.search_due
    assert optimizer.param_groups[0]["step_size"] == pytest.approx(before / 4)


@pytest.mark.parametrize(("watch", "forgets"), [(False, False), (True, True)])
def test_a_loss_that_is_to_rise_and_that_of_other_data_shorten_no_step(watch: bool, forgets: bool) -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = create_optimizer("adam_sls", [w], watch=watch)
    for level in (0.0, 40.0):
        for _ in range(64):
            optimizer.step(lambda level=level: (w - 1).square().sum() + w.sum() + level)
        if forgets:
            optimizer.forget_losses()
        found = optimizer.param_groups[0]["line_search"]["initial_step"]["step_size"]
        assert optimizer.param_groups[0]["step_size"] == found


def test_losses_that_are_never_finite_are_told_of() -> None:
    w = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = create_optimizer("adam_sls", [w])
    for _ in range(31):
        optimizer.step(lambda: (w * float("nan")).sum())
    with pytest.warns(UserWarning, match=r"None of the last 32 losses is finite"):
        optimizer.step(lambda: (w * float("nan")).sum())


def test_the_next_batch_counts_each_group_by_the_fraction_of_the_step_that_it_took() -> None:
    """A group that does not move says nothing of the step: the step sizes are those of the other group alone."""

    def step_sizes(groups: list[dict[str, object]], w: torch.Tensor, v: torch.Tensor) -> list[float]:
        optimizer = create_optimizer("adam_sls", groups)
        generator = torch.Generator().manual_seed(0)
        sizes = []
        for _ in range(40):
            noise = torch.randn(2, generator=generator)
            optimizer.step(lambda noise=noise: (w - noise).square().sum() + 1e-6 * (v - 3.0).square().sum())
            sizes.append(optimizer.param_groups[0]["step_size"])
        return sizes

    w, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1e-3], requires_grad=True)
    both = step_sizes([{"params": [w]}, {"params": [v], "lr": 0.0}], w, v)
    w, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1e-3])
    assert both == pytest.approx(step_sizes([{"params": [w]}], w, v), rel=1e-3)


def test_a_direction_that_forgets_its_last_update_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the last update when the next batch comes"):
        LineSearchOptimizer([torch.nn.Parameter(torch.ones(2))], direction=Gradient(), initial_step=LookBack())


@pytest.mark.parametrize("last", [1e-7, 1.0])
def test_a_start_far_above_the_last_step_is_as_exact_as_any(last: float) -> None:
    """Extrapolating from a step that single precision can hardly resolve would move along rounding errors."""
    model = Network(dtype=torch.float32)
    optimizer = published("ponos", model.parameters(), c_p=10.0)
    optimizer.param_groups[0]["step_size"] = last
    before = snapshot(model)
    optimizer.step(next(model.closures(1)))
    step_size = optimizer.last_report.step_size
    assert step_size > 1e-3
    for parameter, old in zip(model.parameters(), before):
        torch.testing.assert_close(parameter.detach(), old - step_size * parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_parabola_that_never_meets_the_line_shrinks_the_step_all_the_same() -> None:
    """Under an averaged rise the line of `Smoothed` starts below the loss; `1 - eta + 50 eta^2` stays above it."""
    line = Smoothed(c=0.5, smoothing=0.9).line(1.0, 1.0, {"decrease": -0.01, "slope": 0.0})
    assert line.intercept < 1.0
    rule, tried = Backtracking(shrink=0.5, max_trials=5, interpolate=True), []

    def phi(step_size: float) -> float:
        tried.append(step_size)
        return 1 - step_size + 50 * step_size**2

    result = rule.search(phi, line, loss=1.0, slope=1.0, step_size=1.0)
    assert result.outcome == "exhausted"
    assert all(0.1 * last <= step <= 0.5 * last for last, step in itertools.pairwise(tried))
