"""One search: direction, line, trials, accept or shrink, take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan
from typing import Any, Literal

from ._tensors import to_floats
from .backtracking import Backtracking
from .cadence import Cadence
from .checks import check_replay, check_slope, replay_is_due
from .criterion import Criterion, Line
from .direction import Direction
from .events import NotSearched, Searched, SearchResult
from .initial_step import InitialStep
from .partition import Partition
from .path import Part, Path
from .trials import Batch, FinishedSearch, Observer, Trials

Memory = dict[str, Any]
StepOutcome = Literal["accepted", "exhausted", "unresolvable", "no_slope", "non_finite", "not_searched"]


@dataclass(frozen=True)
class SearchReport:
    """What one optimizer step did.

    Attributes:
        outcome: `"accepted"`: the step was searched and taken. `"not_searched"`: the step was taken with the step size
            at hand, which the batch may have changed by looking back at the last step (`LookBack`). The rest took no
            step: `"exhausted"` (every trial was rejected), `"unresolvable"` (the predicted decrease is below the
            rounding of the loss), `"no_slope"` (the gradient is zero or missing), `"non_finite"` (loss or gradient is
            NaN or infinite).
        step_size: the step size taken, 0 where no step was.
        trials: forward passes of the search or of the look back, beyond the one that gave the gradient.
        checks: forward passes that check loss and gradient, mostly of the first search.
        backtracks: rejected trials.
        loss: the loss before the step, `f(w)`.
        loss_decrease: `f(w) - f(w + eta p)` at the accepted trial; NaN where there is none.
        slope: `s = -<g, p>`; NaN on steps without a search.
        expected_decrease: `eta s`, the decrease that the slope predicts; NaN where no step was accepted.
        criterion_ratio: the decrease from the intercept of the criterion's line, over the one that the line asks for;
            at least 1, but for the first step of `LookBack`, which is not judged. NaN where no step was accepted.
    """

    outcome: StepOutcome
    step_size: float
    trials: int = 0
    backtracks: int = 0
    loss: float = nan
    loss_decrease: float = nan
    slope: float = nan
    expected_decrease: float = nan
    criterion_ratio: float = nan
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


@dataclass(frozen=True)
class Move:
    """The parameters that one step size moves, as this process holds them: one group, or several searched together.

    Attributes:
        groups: the parameter groups.
        fractions: of the step size found, what each group takes.
        parts: those of their parameters that have a gradient.
    """

    groups: list[dict[str, Any]]
    fractions: list[float]
    parts: list[Part] = field(default_factory=list)

    @property
    def memory(self) -> Memory:
        """What the rules remember of the groups."""
        return self.groups[0]["line_search"]

    def remember(self, memory: Memory, step_size: float) -> None:
        """Write the memory and the step size taken into the groups."""
        for group, fraction in zip(self.groups, self.fractions):
            group.update(step_size=fraction * step_size, line_search=memory)


_NO_LINE = Line(nan, 0.0)
_NO_LAST_STEP = {"last_step_size": 0.0, "last_slope": 0.0}


@dataclass(frozen=True)
class _Start:
    """Where a search starts.

    Attributes:
        loss: `f(w)`.
        slope: `s = -<g, p>`.
        line: of acceptance.
        step_size: the first one to try.
        is_applied: whether the step is taken along the update that is searched.
        outcome: why there is nothing to search, or `None`.
    """

    loss: float
    slope: float
    line: Line = _NO_LINE
    step_size: float = 0.0
    is_applied: bool = False
    outcome: StepOutcome | None = None


_CHANGES_GRADIENTS = (
    "closure() has changed the gradients in a trial, in which the search still needs them. Leave zero_grad() and "
    "backward() out of it."
)


def search(rules: Rules, move: Move, batch: Batch, observer: Observer | None = None) -> SearchReport:
    """Search a step size for the parameters of `move`, take the step, and let the rules learn from it.

    Args:
        rules: those of the optimizer.
        move: the parameters, with their gradients, moments and memory.
        batch: the mini-batch.
        observer: called before the step is taken.
    """
    if not move.parts:
        return cannot_search("non_finite" if batch.skip else "no_slope", rules, move)
    path = Path(rules.direction, move.parts)
    with Trials(batch, path) as trials:
        versions = _gradient_versions(move)
        checks = check_replay(trials) if replay_is_due(move.memory["counts"]) else 0
        if _gradient_versions(move) != versions:
            raise RuntimeError(_CHANGES_GRADIENTS)
        start = _start(rules, move, batch, path)
        if start.outcome is not None:
            return cannot_search(start.outcome, rules, move, start.loss, start.slope, checks)
        resolution = 0.0 if getattr(rules.criterion, "tolerance", 0.0) else batch.rounding * abs(start.loss)
        result = rules.backtracking.search(
            trials.loss_at, start.line, start.loss, start.slope, start.step_size, resolution=resolution
        )
        taken = rules.initial_step.taken(move.memory["initial_step"], result.step_size)
        if result.outcome == "accepted" and taken < result.step_size:
            # Not judged: rounding may hide what so short a step does, and backtracking from it would end anywhere.
            loss = trials.loss_at(taken)
            outcome = result.outcome if isfinite(loss) else "exhausted"
            result = SearchResult(taken, loss, result.trials + 1, outcome, accepted_before=1)
        if observer is not None:
            show(observer, move, path, trials, start.loss, start.slope, start.line, result)
        last = _NO_LAST_STEP
        if not move.memory["has_found_a_step"]:
            checks += check_slope(trials, start.loss, start.slope, result)
        if result.outcome == "accepted":
            if not start.is_applied:
                path.follow(rules.direction.applied_update, result.step_size)
            if rules.initial_step.needs_last_update:
                last = last_step(move, path, batch, result.step_size)
            trials.take()
    return _learn(rules, move, start, result, checks, last)


def _gradient_versions(move: Move) -> list[int]:
    """Return how often each gradient was changed in place."""
    return [gradient._version for part in move.parts for gradient in part.gradients]


def show(
    observer: Observer,
    move: Move,
    path: Path,
    trials: Trials,
    loss: float,
    slope: float,
    line: Line,
    result: SearchResult,
) -> None:
    """Show a step to the observer before it is taken; its evaluations leave no trace."""
    step, tried = move.memory["counts"]["steps"] + 1, list(trials.tried)
    with path.excursion():
        observer(FinishedSearch(step, loss, slope, line, tried, result, trials.loss_at))


def last_step(move: Move, path: Path, batch: Batch, step_size: float) -> Memory:
    """Return what is remembered of a step, before it is taken, for the next batch, which may look back at it."""
    (slope,) = to_floats(path.last_slope() * batch.gradient_scale)
    return {"last_step_size": step_size if any(move.fractions) else 0.0, "last_slope": slope}


def _start(rules: Rules, move: Move, batch: Batch, path: Path) -> _Start:
    """Fold the gradients into the moments, go ahead along the direction, and read loss and slopes in one go."""
    rule, memory = rules.initial_step, move.memory["initial_step"]
    ahead = min(rule.start(memory), path.longest_without_copy or inf)
    slope_ahead = path.advance(ahead, batch.skip) * batch.gradient_scale
    loss, slope, skipped = to_floats(batch.loss, slope_ahead, batch.skip)
    path.confirm(bool(skipped))
    if skipped or not isfinite(slope):
        return _Start(loss, slope, outcome="non_finite")
    line = rules.criterion.line(loss, slope, move.memory["criterion"])
    is_applied = rules.direction.searches_applied and line.rate > 0
    if not line.rate > 0:
        (slope,) = to_floats(path.follow(rules.direction.steepest, ahead) * batch.gradient_scale)
        line = rules.criterion.line(loss, slope, move.memory["criterion"])
    if not line.rate > 0:
        return _Start(loss, slope, outcome="no_slope")
    return _Start(loss, slope, line, rule.start(memory, loss, slope), is_applied)


def cannot_search(
    outcome: StepOutcome, rules: Rules, move: Move, loss: float = nan, slope: float = nan, checks: int = 0
) -> SearchReport:
    """Let the cadence count the step, and report that there was nothing to try; NaN leaves the moments as they are."""
    cadence = rules.cadence.update(move.memory["cadence"], NotSearched())
    last = {} if outcome == "non_finite" else _NO_LAST_STEP
    move.remember({**move.memory, **last, "cadence": cadence}, 0.0)
    return SearchReport(outcome, 0.0, loss=loss, slope=slope, checks=checks)


def _learn(rules: Rules, move: Move, start: _Start, result: SearchResult, checks: int, last: Memory) -> SearchReport:
    """Let every rule learn from the search, and report it."""
    event = Searched(start.loss, start.slope, result)
    memory = {
        **move.memory,
        **last,
        "criterion": rules.criterion.update(move.memory["criterion"], event),
        "initial_step": rules.initial_step.update(move.memory["initial_step"], event),
        "cadence": rules.cadence.update(move.memory["cadence"], event),
    }
    move.remember(memory, result.step_size if event.accepted else 0.0)
    report = SearchReport(
        outcome=result.outcome,
        step_size=move.groups[0]["step_size"],
        trials=result.trials,
        backtracks=result.backtracks,
        loss=start.loss,
        slope=start.slope,
        checks=checks,
    )
    if not event.accepted:
        return report
    return replace(
        report,
        loss_decrease=start.loss - result.loss,
        expected_decrease=result.step_size * start.slope,
        criterion_ratio=start.line.ratio(result.step_size, result.loss),
    )
