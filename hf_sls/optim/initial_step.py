"""Where a search starts, and how large a step is between two searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._validation import LARGEST, check_integer, check_range
from .backtracking import SearchResult

Memory = dict[str, float]

_COUNTED = 10
"""Of so many rejected steps in a row the first counts: the memory of a momentum that decays by 0.9, 1 / (1 - 0.9)."""

_PROBE = 1e-3
"""A step at which a slope can be read where nothing is known of the scale."""


class InitialStep:
    """Picks the first step size that a search tries. A frozen rule; its memory is plain numbers.

    A rule of your own has a field `first`, the step size before any search, and overrides what it does otherwise.
    """

    first: float
    needs_slope: ClassVar[bool] = False
    """Whether `start` changes what was proposed after the first search too; then a trial waits for loss and slope."""

    needs_next_slope: ClassVar[bool] = False
    """Whether `judged` is to hear, before each search but the first, what the present batch says of the last step."""

    whole_steps: ClassVar[bool] = False
    """Whether steps are taken whole until the rule has settled, whatever share of them a schedule asks for."""

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        return {}

    def propose(self, step_size: float, memory: Memory) -> float:
        """Return the first step size to try, given the step size last taken."""
        return step_size

    def start(self, proposed: float, loss: float, slope: float, memory: Memory) -> float:
        """Return the first step size to try, once loss and slope of the batch are known."""
        return proposed

    def judged(self, next_slope: float, memory: Memory) -> Memory:
        """Return the memory once the next batch has judged the last step.

        Args:
            next_slope: the slope of the present batch along the last update, `<g_{k+1}, u_k>`, at the point that the
                last step has led to. Above 0 the loss of this batch still falls along it.
            memory: that of before.
        """
        return memory

    def settled(self, memory: Memory) -> bool:
        """Whether the step size is found, so that no step needs a search any more."""
        return False

    def shortened(self, factor: float, memory: Memory) -> Memory:
        """Return the memory after the step size was multiplied by `factor`, below 1, as the run gets worse."""
        return memory

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        """Return the memory after a search from `loss` with the given `slope`; the step size is that to go on with."""
        return memory

    def failed(self, step_size: float, result: SearchResult, memory: Memory) -> float:
        """Return the step size to go on with after a search without a step, given the step size last taken."""
        return step_size if result.outcome == "unresolvable" else result.step_size

    def unsearched(self, step_size: float, memory: Memory) -> float:
        """Return the step size of a step without a search, given the step size last taken."""
        return step_size


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
        check_range("init_step_size", self.first, low=0.0, high=LARGEST, include_low=False)
        check_range("growth", self.growth, low=1.0, high=LARGEST)

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
class Wolfe(InitialStep):
    r"""Grow the step while it is too short for the next batches and shrink it where it is too long, in smaller strides.

    The two conditions of Wolfe (1969) bracket a step: sufficient decrease says when it is too long, the slope at the
    point that it leads to says when it is too short. Here the second one is asked of the *next* mini-batch, whose
    gradient there is at hand anyway: along the update u_k of the last step, `F = <g_{k+1}, u_k>`. With its average
    `A := (A + F) / 2` over the last few batches, and n refusals so far::

        A > 0:        eta := eta * growth^(narrowing^n)                 too short for the next batches
        A <= 0:       eta := eta / growth^(narrowing^n), n := n + 1     too long for them
        rejected:     eta := max(accepted step, eta / 2), n := n + 1    too long for its own batch

    Of ten rejected steps in a row the first counts, as the momentum goes on along the direction that was too steep for
    about as long. The next batch does not judge them, as they were not steps of eta. After `refusals` refusals, and a
    step that was not rejected, the step size is settled: it is held, a schedule may scale it, and no step is searched
    any more. Until then every step is searched and taken whole, so the search is a warm-up as well. The first search
    starts where the slope promises to take a small part, `first_decrease`, off the loss.

    The slope needs no forward pass and is no difference of two losses, so it says the same in any precision. Where
    noise alone decides its sign, growth and shrinking balance and the search ends near its start. It fails where that
    start is far too low for a short run: at `growth` a step, a factor of a hundred takes 18 steps.

    Args:
        first: the largest step that the first search starts from, positive.
        growth: the factor from one step to the next before any refusal, above 1.
        narrowing: what a refusal leaves of the exponent of growth, in [0, 1].
        refusals: how many settle the step size, at least 1.
        first_decrease: the part of the loss that the slope of the first trial promises to take off, in (0, 1].

    References:
        P. Wolfe, Convergence conditions for ascent methods, SIAM Review 11 (1969). Nocedal and Wright, Numerical
        Optimization, section 3.1. Strides that shrink as the signs change: Kesten, Annals of Mathematical Statistics
        29 (1958). docs/results/one-default.md has the evidence for the values.
    """

    first: float = 0.1
    growth: float = 1.3
    narrowing: float = 0.5
    refusals: int = 5
    first_decrease: float = 0.03
    needs_slope: ClassVar[bool] = True
    needs_next_slope: ClassVar[bool] = True
    whole_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("init_step_size", self.first, low=0.0, high=LARGEST, include_low=False)
        check_range("growth", self.growth, low=1.0, high=LARGEST, include_low=False)
        check_range("narrowing", self.narrowing, low=0.0, high=1.0)
        check_integer("refusals", self.refusals, low=1)
        check_range("first_decrease", self.first_decrease, low=0.0, high=1.0, include_low=False)

    def new_memory(self) -> Memory:
        return {"searches": 0, "refusals": 0, "rejected": 0, "next_slope": 0.0, "step_size": self.first}

    def judged(self, next_slope: float, memory: Memory) -> Memory:
        if memory["rejected"] or not memory["searches"]:
            return memory
        average = (memory["next_slope"] + next_slope) / 2
        stride = self.growth ** (self.narrowing ** memory["refusals"])
        if average > 0:
            return {**memory, "next_slope": average, "step_size": memory["step_size"] * stride}
        shorter, refusals = memory["step_size"] / stride, memory["refusals"] + 1
        return {**memory, "next_slope": average, "step_size": shorter, "refusals": refusals}

    def settled(self, memory: Memory) -> bool:
        return memory["refusals"] >= self.refusals and not memory["rejected"]

    def shortened(self, factor: float, memory: Memory) -> Memory:
        return {**memory, "step_size": factor * memory["step_size"]}

    def propose(self, step_size: float, memory: Memory) -> float:
        return memory["step_size"] if memory["searches"] else min(self.first, _PROBE)

    def start(self, proposed: float, loss: float, slope: float, memory: Memory) -> float:
        if memory["searches"]:
            return memory["step_size"]
        return min(self.first, self.first_decrease * abs(loss) / slope) if loss else self.first

    def searched(self, loss: float, slope: float, result: SearchResult, memory: Memory) -> Memory:
        if not memory["searches"]:
            return {**memory, "searches": 1, "step_size": result.step_size} if result.outcome == "accepted" else memory
        tried, rejected = memory["step_size"], result.backtracks > 0
        refused = rejected and memory["rejected"] % _COUNTED == 0
        return {
            **memory,
            "searches": memory["searches"] + (result.outcome == "accepted"),
            "refusals": memory["refusals"] + refused,
            "rejected": memory["rejected"] + 1 if rejected else 0,
            "step_size": max(result.step_size, tried / 2) if refused else tried,
        }

    def failed(self, step_size: float, result: SearchResult, memory: Memory) -> float:
        return max(result.step_size, memory["step_size"] / 2) if memory["searches"] else step_size

    def unsearched(self, step_size: float, memory: Memory) -> float:
        return memory["step_size"] if memory["searches"] else 0.0
