"""One search: direction, line, trials, accept or shrink, take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Any, Literal

import torch
from torch import Tensor

from ._tensors import to_floats
from .backtracking import Backtracking, SearchResult
from .cadence import Cadence
from .checks import check_replay, check_slope
from .criterion import Criterion, Line
from .direction import Direction
from .initial_step import InitialStep
from .partition import Partition
from .path import Kind, Path
from .random_state import RandomState
from .trials import Closure, FinishedSearch, Observer, Trials

Memory = dict[str, Any]
StepOutcome = Literal["accepted", "exhausted", "unresolvable", "no_slope", "non_finite", "not_searched"]


@dataclass(frozen=True)
class SearchReport:
    """What one optimizer step did.

    Attributes:
        outcome: `"accepted"`: the step was searched and taken. `"not_searched"`: the cadence asked for no search and
            the step was taken with the last step size. The rest took no step: `"exhausted"` (every trial was
            rejected), `"unresolvable"` (the promised decrease is below the rounding of the loss), `"no_slope"` (the
            gradient is zero or missing), `"non_finite"` (loss or gradient is NaN or infinite).
        step_size: the step size taken, or the one that the next search starts from.
        trials: forward passes of the search, beyond the one that gave the gradient.
        checks: forward passes that check loss and gradient (`checks`), of the first searches only.
        backtracks: rejected trials.
        loss: the loss before the step, `f(w)`.
        loss_decrease: `f(w) - f(w + eta p)` at the accepted trial; NaN where there is none.
        slope: `s = -<g, p>`; NaN on steps without a search.
        expected_decrease: `eta s`, the decrease if the loss fell on as at the start; NaN where no step was accepted.
        criterion_ratio: the decrease over the one that the criterion asked for, at least 1; NaN where no step was
            accepted.
    """

    outcome: StepOutcome
    step_size: float
    trials: int = 0
    backtracks: int = 0
    loss: float = float("nan")
    loss_decrease: float = float("nan")
    slope: float = float("nan")
    expected_decrease: float = float("nan")
    criterion_ratio: float = float("nan")
    checks: int = 0


@dataclass(frozen=True)
class Rules:
    """What an optimizer is composed of."""

    direction: Direction
    criterion: Criterion
    initial_step: InitialStep
    backtracking: Backtracking
    cadence: Cadence
    partition: Partition


@dataclass
class Batch:
    """What a step knows of its mini-batch.

    Attributes:
        closure: evaluates the loss again.
        loss: the loss at the current parameters, whose gradients are in `.grad`.
        gradient_scale: true gradient over `.grad`.
        random_state: restored before every evaluation; `None` when the closure sees to that itself.
        with_gradients: whether the closure has to be evaluated with gradients on; the first search finds out.
        skip: 0-dim tensor, 1.0 where the loss or a gradient is not finite, else 0.0.
    """

    closure: Closure
    loss: Tensor | float
    gradient_scale: Tensor | float = 1.0
    random_state: RandomState | None = None
    with_gradients: bool = False
    skip: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def rounding(self) -> float:
        """The relative spacing of the floating-point numbers that the loss is one of."""
        dtype = self.loss.dtype if isinstance(self.loss, Tensor) and self.loss.is_floating_point() else torch.float64
        return torch.finfo(dtype).eps


@dataclass(frozen=True)
class Move:
    """The parameters that one step size moves, as this process holds them: one group, or several searched together."""

    groups: list[dict[str, Any]]
    shares: list[float]
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)

    @property
    def step_size(self) -> float:
        """The step size last found, of which a share was taken."""
        return self.memory["step_size"]

    @property
    def memory(self) -> dict[str, Any]:
        return self.groups[0]["line_search"]

    def remember(self, memory: dict[str, Any]) -> None:
        for group, share in zip(self.groups, self.shares):
            group.update(step_size=share * memory["step_size"], line_search=memory)


@dataclass(frozen=True)
class _Slopes:
    """Loss and slopes at the present parameters, read by the host in one go."""

    loss: float
    slope: float
    next_slope: float
    finite: bool


def search(
    rules: Rules, move: Move, batch: Batch, has_found_a_step: bool, observer: Observer | None = None
) -> SearchReport:
    """Search a step size for the parameters of `move`, take the step, and remember what was found.

    Args:
        rules: those of the optimizer.
        move: the parameters, with their gradients, moments and memory.
        batch: the mini-batch.
        has_found_a_step: whether a search of this run has found a step before.
        observer: called before the step is taken.
    """
    if not move.parameters:
        return _without_result("no_slope", rules, move)
    memory, rule = move.memory, rules.initial_step
    proposed = rule.propose(move.step_size, memory["initial_step"])
    path = Path(rules.direction, move.parameters, move.gradients, move.states, move.kinds)
    devices = {parameter.device for parameter in move.parameters}
    with Trials(batch.closure, path, devices, batch.random_state, batch.with_gradients) as trials:
        checks = 0
        if not memory["counts"]["searches"] and isfinite(loss := float(batch.loss)):
            checks = check_replay(trials, loss)
            batch.with_gradients = trials.with_gradients
        hears_next = rule.needs_next_slope and has_found_a_step and any(group["step_size"] for group in move.groups)
        at_start = _advance(path, batch, proposed, hears_next)
        if not at_start.finite:
            return _without_result("non_finite", rules, move, at_start.loss, at_start.slope, checks)
        if hears_next:
            memory = {**memory, "initial_step": rule.judged(at_start.next_slope, memory["initial_step"])}
        slope, line = at_start.slope, rules.criterion.line(at_start.loss, at_start.slope, memory["criterion"])
        follows_applied = rules.direction.searches_applied and line.rate > 0
        if not line.rate > 0:
            (slope,) = to_floats(path.follow(rules.direction.steepest, proposed) * batch.gradient_scale)
            line = rules.criterion.line(at_start.loss, slope, memory["criterion"])
        if not line.rate > 0:
            return _without_result("no_slope", rules, move, at_start.loss, slope, checks)

        result = rules.backtracking.search(
            phi=trials.loss_at,
            line=line,
            loss=at_start.loss,
            slope=slope,
            step_size=rule.start(proposed, at_start.loss, slope, memory["initial_step"]),
            resolution=0.0 if getattr(rules.criterion, "tolerance", 0.0) else batch.rounding * abs(at_start.loss),
        )
        if observer is not None:
            step, tried = memory["counts"]["steps"] + 1, list(trials.tried)
            with path.excursion():
                observer(FinishedSearch(step, at_start.loss, slope, line, tried, result, trials.loss_at))
        if not has_found_a_step:
            checks += check_slope(trials, at_start.loss, slope, result)
        if result.outcome == "accepted":
            if not follows_applied:
                path.follow(rules.direction.applied, result.step_size)
            trials.take()
    report = _remembered(rules, move, memory, line, at_start.loss, slope, result, has_found_a_step)
    return replace(report, checks=checks)


def _advance(path: Path, batch: Batch, proposed: float, hears_next: bool) -> _Slopes:
    """Fold the gradients into the moments, go ahead along the direction, and read loss and slopes."""
    first = min(proposed, path.longest_without_copy or proposed)
    last_slope = path.last_slope() * batch.gradient_scale if hears_next else nan
    slope_ahead = path.advance(first, batch.skip) * batch.gradient_scale
    loss, slope, skipped, next_slope = to_floats(batch.loss, slope_ahead, batch.skip, last_slope)
    path.confirm(bool(skipped))
    return _Slopes(loss, slope, next_slope, finite=not skipped and isfinite(slope))


def _without_result(
    outcome: StepOutcome, rules: Rules, move: Move, loss: float = nan, slope: float = nan, checks: int = 0
) -> SearchReport:
    """Count the step for the cadence, and report that nothing could be tried."""
    nothing = SearchResult(move.step_size, nan, 0, "unresolvable")
    move.remember({**move.memory, "cadence": rules.cadence.searched(nothing, move.memory["cadence"])})
    return SearchReport(outcome, move.groups[0]["step_size"], loss=loss, slope=slope, checks=checks)


def _remembered(
    rules: Rules,
    move: Move,
    memory: Memory,
    line: Line,
    loss: float,
    slope: float,
    result: SearchResult,
    has_found_a_step: bool,
) -> SearchReport:
    """Let every rule learn from the result, and report it. A search before the first that finds a step is free."""
    accepted = result.outcome == "accepted"
    if not accepted:
        result = replace(result, step_size=rules.initial_step.failed(move.step_size, result, memory["initial_step"]))
    charged = replace(result, trials=result.trials if accepted or has_found_a_step else 0)
    memory = {
        **memory,
        "step_size": result.step_size,
        "initial_step": rules.initial_step.searched(loss, slope, result, memory["initial_step"]),
        "cadence": rules.cadence.searched(charged, memory["cadence"]),
    }
    if accepted:
        memory["criterion"] = rules.criterion.accepted(loss, slope, result.loss, memory["criterion"])
    move.remember(memory)
    report = SearchReport(
        outcome=result.outcome,
        step_size=move.groups[0]["step_size"],
        trials=result.trials,
        backtracks=result.backtracks,
        loss=loss,
        slope=slope,
    )
    if not accepted:
        return report
    return replace(
        report,
        loss_decrease=loss - result.loss,
        expected_decrease=result.step_size * slope,
        criterion_ratio=line.ratio(result.step_size, result.loss),
    )
