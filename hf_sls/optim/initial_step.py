"""Where a search starts, and how large a step is between two searches."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from ._validation import check_integer, check_range
from .backtracking import SearchResult

Memory = dict[str, float]

_PROBE = 1e-3
"""A step at which a slope can be read where nothing is known of the scale."""


class InitialStep:
    """Picks the first step size that a search tries. A frozen rule; its memory is plain numbers.

    A rule of your own has a field `first`, the step size before any search, and overrides what it does otherwise.
    """

    first: float
    needs_slope: ClassVar[bool] = False
    """Whether `start` changes what was proposed after the first search too; then a trial waits for loss and slope."""

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        return {}

    def propose(self, step_size: float, memory: Memory) -> float:
        """Return the first step size to try, given the step size last taken."""
        return step_size

    def start(self, proposed: float, loss: float, slope: float, memory: Memory) -> float:
        """Return the first step size to try, once loss and slope of the batch are known."""
        return proposed

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        """Return the memory after a search from `loss` with the given `slope`; the step size is that to go on with."""
        return memory

    def failed(self, step_size: float, result: SearchResult, memory: Memory) -> float:
        """Return the step size to go on with after a search without a step, given the step size last taken."""
        return step_size if result.outcome == "unresolvable" else result.step_size

    def unsearched(self, step_size: float, memory: Memory) -> float:
        """Return the step size of a step without a search, given the step size last taken."""
        return step_size

    def skipped(self, memory: Memory) -> Memory:
        """Return the memory after a step without a search."""
        return memory


@dataclass(frozen=True)
class LastStep(InitialStep):
    """The step last taken, grown a little: `eta_k = growth * eta_{k-1}` (SLS, arXiv 1905.09997, algorithm 2, option 1).

    Args:
        first: where the first search starts, positive. Too high costs a few trials once; too low is grown from.
        growth: factor from one search to the next, at least 1. The papers' `gamma^(1/n)` is `2 ** (1 / 500)`.
    """

    first: float = 0.1
    growth: float = 2 ** (1 / 500)

    def __post_init__(self) -> None:
        check_range("init_step_size", self.first, low=0.0, include_low=False)
        check_range("growth", self.growth, low=1.0)

    def new_memory(self) -> Memory:
        return {"searches": 0}

    def propose(self, step_size: float, memory: Memory) -> float:
        return step_size * self.growth if memory["searches"] else step_size

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        return {"searches": memory["searches"] + 1}


@dataclass(frozen=True)
class Polyak(InitialStep):
    """Polyak's step for a loss that can reach zero, as PoNoS takes it (arXiv 2306.12747, equations 4 and 5).

    `eta = f(w) / (c_p s) * delta^l`, between `smallest` and `largest`; the memory `l := max(l + backtracks - 1, 0)`
    starts a search lower where the ones before had to backtrack.

    Args:
        share: c_p, positive.
        delta: the factor of a backtrack, in (0, 1).
        smallest: least step to start from, positive.
        largest: largest step to start from, positive (eta_max); also the step size before any search.
    """

    share: float = 0.1
    delta: float = 0.5
    smallest: float = 1e-6
    largest: float = 10.0
    needs_slope: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("share", self.share, low=0.0, include_low=False)
        check_range("delta", self.delta, low=0.0, high=1.0, include_low=False, include_high=False)
        check_range("smallest", self.smallest, low=0.0, include_low=False)
        check_range("largest", self.largest, low=self.smallest)

    @property
    def first(self) -> float:  # type: ignore[override]
        return self.largest

    def new_memory(self) -> Memory:
        return {"backtracks": 0}

    def start(self, proposed: float, loss: float, slope: float, memory: Memory) -> float:
        if not slope > 0:
            return self.largest
        step_size = loss / (self.share * slope) * self.delta ** memory["backtracks"]
        return min(max(step_size, self.smallest), self.largest)

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        return {"backtracks": max(memory["backtracks"] + result.backtracks - 1, 0)}


@dataclass(frozen=True)
class ParabolaMinimum(InitialStep):
    r"""A share of the step that minimises the parabola through the searches so far.

    An accepted trial at `eta` shows the curvature of the loss along the direction,
    `q = (f(w + eta p) - f(w) + eta s) / eta^2`. With averages over the n accepted trials, from zero::

        S := B S + (1 - B) s        Q := B Q + (1 - B) q        aim = share * S / (2 Q / (1 - B^n))

    The next step is the aim, but at most `growth` times the last, on the first `reach - 1` steps after a search too,
    and never above `2 f / s` of a first search with a positive loss, the lowest point of a parabola that touches zero:
    where gradients vanish, Adam's updates do, and a step that has grown to make up for it is far too long for the next
    gradient that does not. It is at least `shrink` times that of the last search, also where every trial was rejected,
    and stays where there was none to judge: one batch that cannot be searched does not cost the step size. One trial a
    search says in which direction the step size is wrong, and by how much; where c is at most `1 - share / 2` the
    criterion is met on average, and only guards.

    The first search starts where the slope promises to take a tenth (`promise`) off a positive loss, or at `first`
    where that is less; where it finds no step, none is taken until a later one does, from there again. The step size
    then warms up: the second step is at most `1 - B` times the first, slow growth takes it from there, and `S` is not
    corrected for its start from zero, as `Q` is, so that no descent is counted on before it was seen. Early batches
    promise more than they keep, as most of the slope along a young average of gradients is that of the batch's own
    gradient.

    Args:
        first: the largest step that the first search starts from, positive.
        share: how far to the minimum, in (0, 2).
        smoothing: B, in [0, 1).
        growth: the largest factor from one step to the next, above 1.
        reach: number of steps over which the step size may grow on what one search has seen, at least 1.
        shrink: the smallest factor from one search to the next, in (0, 1).
        promise: the share of the loss that the first trial promises to take off, positive.
    """

    first: float = 0.1
    share: float = 0.5
    smoothing: float = 0.7
    growth: float = 1.1
    reach: int = 3
    shrink: float = 0.5
    promise: float = 0.1

    def __post_init__(self) -> None:
        check_range("init_step_size", self.first, low=0.0, include_low=False)
        check_range("promise", self.promise, low=0.0, include_low=False)
        check_range("share", self.share, low=0.0, high=2.0, include_low=False, include_high=False)
        check_range("smoothing", self.smoothing, low=0.0, high=1.0, include_high=False)
        check_range("growth", self.growth, low=1.0, include_low=False)
        check_integer("reach", self.reach, low=1)
        check_range("shrink", self.shrink, low=0.0, high=1.0, include_low=False, include_high=False)

    def new_memory(self) -> Memory:
        return {"searches": 0, "slope": 0.0, "curvature": 0.0, "longest": inf, "aim": self.first, "next": self.first}

    def propose(self, step_size: float, memory: Memory) -> float:
        return memory["next"] if memory["searches"] else min(memory["next"], _PROBE)

    def start(self, proposed: float, loss: float, slope: float, memory: Memory) -> float:
        if memory["searches"]:
            return proposed
        return min(memory["next"], self.promise * loss / slope) if loss > 0 else memory["next"]

    def failed(self, step_size: float, result: SearchResult, memory: Memory) -> float:
        if not (result.trials and memory["searches"]):
            return step_size
        return max(result.step_size, self.shrink * memory["next"])

    def unsearched(self, step_size: float, memory: Memory) -> float:
        return memory["next"] if memory["searches"] else 0.0

    def skipped(self, memory: Memory) -> Memory:
        return {**memory, "next": min(memory["aim"], self.growth * memory["next"])}

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        step_size = result.step_size
        if result.outcome != "accepted":
            judged = result.trials and memory["searches"]
            return {**memory, "aim": step_size, "next": step_size} if judged else memory
        searches, fresh = memory["searches"] + 1, 1 - self.smoothing
        average_slope = self.smoothing * memory["slope"] + fresh * slope
        curvature = (result.loss - loss + step_size * slope) / step_size**2
        average_curvature = self.smoothing * memory["curvature"] + fresh * curvature
        corrected_curvature = average_curvature / (1 - self.smoothing**searches)
        aim = self.share * average_slope / (2 * corrected_curvature) if corrected_curvature > 0 else inf
        first = searches == 1
        longest = 2 * loss / slope if first and loss > 0 else memory["longest"]
        growth, shrink = (fresh, fresh * self.shrink) if first else (self.growth, self.shrink)
        aim = max(min(aim, longest, growth * self.growth ** (self.reach - 1) * step_size), shrink * step_size)
        return {
            "searches": searches,
            "slope": average_slope,
            "curvature": average_curvature,
            "longest": longest,
            "aim": aim,
            "next": min(aim, growth * step_size),
        }
