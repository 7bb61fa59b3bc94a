"""The step of a batch that looks back at the last one, as `LookBack` has it, in place of a search."""

from __future__ import annotations

from math import isfinite

from ._tensors import to_floats
from .checks import check_replay
from .events import LookedBack, SearchedElsewhere, SearchResult
from .path import Path
from .search import Move, Rules, SearchReport, cannot_search, last_step, show
from .trials import Batch, Observer, Trials

_VISIBLE = 2.0
"""How many times the rounding of the loss the decrease along a step has to be for its curvature to show."""


_CHECKED = 4
"""How many batches have looked back before the one that checks that a trial repeats the recorded loss."""


def look_back(rules: Rules, move: Move, batch: Batch, observer: Observer | None = None) -> SearchReport:
    """Let the batch look back at the last step, and take the next one at the step size that follows from it.

    In place of `search`, and with its arguments.
    """
    if not move.parts:
        return cannot_search("non_finite" if batch.skip else "no_slope", rules, move)
    path = Path(rules.direction, move.parts)
    with Trials(batch, path) as trials:
        loss, slope, skipped = to_floats(batch.loss, path.last_slope() * batch.gradient_scale, batch.skip)
        if skipped or not isfinite(slope):
            return cannot_search("non_finite", rules, move, loss)
        memory, passes, checks = move.memory["initial_step"], 0, 0
        last_step_size, last_slope = move.memory["last_step_size"], move.memory["last_slope"]
        if last_step_size > 0 and any(move.fractions):
            checks = check_replay(trials) if memory.get("batches") == _CHECKED else 0
            decrease = last_step_size * slope  # of a straight line, where rounding would hide the curvature
            if last_step_size * abs(last_slope) > _VISIBLE * trials.rounding * abs(loss):
                passes = 1
                with path.back(last_step_size):
                    decrease = trials.loss_here() - loss
            memory = rules.initial_step.update(memory, LookedBack(last_step_size, last_slope, slope, decrease))
        step_size = rules.initial_step.start(memory)
        path.advance(step_size, batch.skip)
        path.confirm(False)
        if not rules.direction.searches_applied:
            path.follow(rules.direction.applied_update, step_size)
        last = last_step(move, path, batch, step_size)
        if observer is not None:
            line = rules.criterion.line(loss, last["last_slope"], move.memory["criterion"])
            result = SearchResult(step_size, trials.loss_at(step_size), 1, "accepted")
            show(observer, move, path, trials, loss, last["last_slope"], line, result)
        trials.take()
    cadence = rules.cadence.update(move.memory["cadence"], SearchedElsewhere(passes, True))
    move.remember({**move.memory, **last, "initial_step": memory, "cadence": cadence}, step_size)
    return SearchReport("not_searched", move.groups[0]["step_size"], trials=passes, checks=checks, loss=loss)
