"""Where a search starts, and how large a step is between two searches."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from typing import ClassVar

from ._validation import LARGEST, check_range
from .events import Event, NextSlope, Searched, SearchedElsewhere, Worsened

Memory = dict[str, float]


class InitialStep:
    """Picks the first step size that a search tries. A frozen rule; its memory is plain numbers.

    The memory has a key `"step_size"`: the size of a step without a search. A rule of your own sets `init_step_size`,
    the step size before any search, and overrides what it does otherwise.
    """

    init_step_size: float

    needs_next_slope: ClassVar[bool] = False
    """Whether to `update` the rule with the `NextSlope` of each step but the first."""

    whole_steps: ClassVar[bool] = False
    """Whether to take steps whole until the rule has settled, as long as a schedule has not passed its peak."""

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        return {"step_size": self.init_step_size}

    def start(self, memory: Memory, loss: float = nan, slope: float = nan) -> float:
        """Return the first step size to try.

        Args:
            memory: of the rule.
            loss: the loss before the step; NaN while nobody has read it. The parameters then go ahead to the step size
                returned, so that the first trial need not move them; a rule that needs the loss returns 0.
            slope: `s = -<g, p>`; NaN while nobody has read it.
        """
        return memory["step_size"]

    def part_taken(self, memory: Memory) -> float:
        """Return the part of the step size found that is taken, in (0, 1]."""
        return 1.0

    def settled(self, memory: Memory) -> bool:
        """Whether the step size is found, so that no step needs a search any more."""
        return False

    def update(self, memory: Memory, event: Event) -> Memory:
        """Return the memory after an event. By default the step size that a search has ended with is kept."""
        match event:
            case Searched(result=result) if result.outcome != "unresolvable":
                return {**memory, "step_size": result.step_size}
            case Worsened(factor=factor):
                return {**memory, "step_size": factor * memory["step_size"]}
        return memory


@dataclass(frozen=True)
class LastStep(InitialStep):
    """The step last taken, grown a little: `eta_k = growth * eta_{k-1}` (SLS, arXiv 1905.09997, algorithm 2, option 1).

    Args:
        init_step_size: where the first search starts, positive. Too high costs a few trials once; too low is grown
            from.
        growth: factor from one search to the next, at least 1. The papers' `gamma^(1/n)` is `2 ** (1 / 500)`.
    """

    init_step_size: float = 0.1
    growth: float = 2 ** (1 / 500)

    def __post_init__(self) -> None:
        check_range("init_step_size", self.init_step_size, low=0.0, high=LARGEST, include_low=False)
        check_range("growth", self.growth, low=1.0, high=LARGEST)

    def new_memory(self) -> Memory:
        return {**super().new_memory(), "searches": 0}

    def start(self, memory: Memory, loss: float = nan, slope: float = nan) -> float:
        return memory["step_size"] * self.growth if memory["searches"] else memory["step_size"]

    def update(self, memory: Memory, event: Event) -> Memory:
        match event:
            case Searched():
                return {**super().update(memory, event), "searches": memory["searches"] + 1}
            case SearchedElsewhere():
                return {**memory, "step_size": self.start(memory)}
        return super().update(memory, event)


@dataclass(frozen=True)
class Polyak(InitialStep):
    """Polyak's step for a loss that can reach zero, as PoNoS takes it (arXiv 2306.12747, equations 4 and 5).

    `eta = f(w) / (c_p s) * delta^l`, between `smallest` and `largest`; the memory `l := max(l + backtracks - 1, 0)`
    starts a search lower where the ones before had to backtrack.

    Args:
        c_p: positive; larger starts lower.
        delta: the factor of a backtrack, in (0, 1).
        smallest: least step to start from, positive.
        largest: largest step to start from, positive (eta_max); also the step size before any search.
    """

    c_p: float = 0.1
    delta: float = 0.5
    smallest: float = 1e-6
    largest: float = 10.0

    def __post_init__(self) -> None:
        check_range("c_p", self.c_p, low=0.0, include_low=False)
        check_range("delta", self.delta, low=0.0, high=1.0, include_low=False, include_high=False)
        check_range("smallest", self.smallest, low=0.0, include_low=False)
        check_range("largest", self.largest, low=self.smallest)

    @property
    def init_step_size(self) -> float:  # type: ignore[override]
        return self.largest

    def new_memory(self) -> Memory:
        return {**super().new_memory(), "backtracks": 0}

    def start(self, memory: Memory, loss: float = nan, slope: float = nan) -> float:
        if isnan(slope):
            return 0.0
        if slope <= 0:
            return self.largest
        step_size = loss / (self.c_p * slope) * self.delta ** memory["backtracks"]
        return min(max(step_size, self.smallest), self.largest)

    def update(self, memory: Memory, event: Event) -> Memory:
        memory = super().update(memory, event)
        if isinstance(event, Searched):
            return {**memory, "backtracks": max(memory["backtracks"] + event.result.backtracks - 1, 0)}
        return memory


@dataclass(frozen=True)
class Wolfe(InitialStep):
    r"""Grow the step while it is too short for the next batches, and keep it once it is not.

    The two conditions of Wolfe (1969) bracket a step: sufficient decrease says when it is too long, the slope at the
    point that it leads to says when it is too short. Here the second one is asked of the *next* mini-batch, whose
    gradient there is at hand anyway. Along the update u_k of the last step, let `F = <g_{k+1}, u_k>` be the slope that
    the next batch sees, and s the slope that the batch of the step saw itself. Wolfe's second condition compares
    `F / s` with a constant. Here its average over the last few batches is compared with its size::

        x = F / s, between -1 and 1
        A := smoothing A + (1 - smoothing) x
        V := smoothing V + (1 - smoothing) x^2
        r = A / sqrt(V)
        eta := eta * growth^(r |r|)

    r is near 1 where every batch says that the step is too short, however little each says, and within 1/3 of zero
    where noise decides. The step size is settled, and held for the rest of the run,

    - by `A <= 0`: the next batches find it too long;
    - by a step that its own batch rejects. The edge is between the step rejected and the one accepted instead; their
      geometric mean is held. In the first `1 / (1 - momentum)` steps, in which the momentum repeats the first gradient,
      the search goes on after either of the two;
    - by a search that finds no step at all: half of it is held;
    - by an accepted step from which the slope predicts that a large part, `enough_decrease`, of the loss goes: as a
      loss nears zero its slope keeps its sign at any step size, and no batch refuses.

    A schedule may scale it from then on, and no step is searched any more. Until then every step is searched, and taken
    whole while a schedule warms up, so the search is a warm-up as well.

    The momentum repeats the first gradient in the steps that follow, `1 / (1 - momentum)` times in all. So the first
    search finds how far Armijo's condition lets it go, from `init_step_size` down, and the step is `1 - momentum` of
    that: all the repetitions together go as far as the first batch allows.

    The slope needs no forward pass and is no difference of two losses, so it says the same in any precision. Where
    noise alone decides its sign, r stays near zero and the search ends near its start. It fails where that start is far
    too low, as where the gradient of the first batch is noise along which its loss is steep: a factor of a hundred
    takes some 18 steps where the batches agree, and is not found where they do not. And it fails with a loss that
    starts near zero and can fall far below, as of a policy gradient: the end is a part of the loss.

    Args:
        init_step_size: where the first search starts (eta_0), positive. 1e-2 suits directions whose elements are about
            one, and a momentum of 0.9 then makes the first step 1e-3 at most, the default of `torch.optim.Adam`.
        growth: the largest factor from one step to the next, above 1.
        smoothing: weight of the past in the averages, in [0, 1). At 0.8 they look back over about five batches, and
            noise alone makes r 1/3 on average (`sqrt((1 - smoothing) / (1 + smoothing))`).
        enough_decrease: the predicted decrease of a step that is long enough, as a fraction of the loss, positive. At 1
            it is Polyak's step for a loss that can reach zero, at 2 the minimum of a parabola that touches zero.
        momentum: how much of the last update is left in the next, in [0, 1): `beta_1` of Adam.

    References:
        P. Wolfe, Convergence conditions for ascent methods, SIAM Review 11 (1969). Nocedal and Wright, Numerical
        Optimization, section 3.1. The slope of the next batch along the last update is the hypergradient of Baydin et
        al., arXiv 1703.04782. docs/results/one-default.md has the evidence for the values.
    """

    init_step_size: float = 1e-2
    growth: float = 1.4
    smoothing: float = 0.8
    enough_decrease: float = 0.5
    momentum: float = 0.9
    needs_next_slope: ClassVar[bool] = True
    whole_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("init_step_size", self.init_step_size, low=0.0, high=LARGEST, include_low=False)
        check_range("growth", self.growth, low=1.0, high=LARGEST, include_low=False)
        check_range("smoothing", self.smoothing, low=0.0, high=1.0, include_high=False)
        check_range("enough_decrease", self.enough_decrease, low=0.0, include_low=False)
        check_range("momentum", self.momentum, low=0.0, high=1.0, include_high=False)

    def new_memory(self) -> Memory:
        averages = {"slope": 0.0, "average": 0.0, "squares": 0.0}
        return {"step_size": 0.0, "searches": 0, "settled": False, **averages}

    def start(self, memory: Memory, loss: float = nan, slope: float = nan) -> float:
        if isnan(slope):
            return 0.0
        return memory["step_size"] if memory["searches"] else self.init_step_size

    def part_taken(self, memory: Memory) -> float:
        return 1.0 if memory["searches"] else 1 - self.momentum

    def settled(self, memory: Memory) -> bool:
        return bool(memory["settled"])

    def update(self, memory: Memory, event: Event) -> Memory:
        if isinstance(event, Worsened):
            return super().update(memory, event)
        if self.settled(memory):
            return memory
        match event:
            case NextSlope(slope=slope) if memory["searches"]:
                return self._judged_by_next_batch(memory, slope)
            case Searched() if memory["searches"]:
                return self._judged_by_own_batch(memory, event)
            case Searched(slope=slope, result=result) if event.accepted:
                return {**memory, "searches": 1, "slope": slope, "step_size": result.step_size}
        return memory

    def _judged_by_next_batch(self, memory: Memory, slope: float) -> Memory:
        """Return the memory after the batch that follows a step; `slope` is F."""
        own, fresh = memory["slope"], 1 - self.smoothing
        ratio = max(-1.0, min(slope / own, 1.0)) if own > 0 else float((slope > 0) - (slope < 0))
        average = self.smoothing * memory["average"] + fresh * ratio
        squares = self.smoothing * memory["squares"] + fresh * ratio * ratio
        agreement = average / squares**0.5 if squares > 0 else 0.0
        return {
            **memory,
            "average": average,
            "squares": squares,
            "step_size": memory["step_size"] * self.growth ** (agreement * abs(agreement)),
            "settled": average <= 0 and self._ends_the_search(memory),
        }

    def _judged_by_own_batch(self, memory: Memory, event: Searched) -> Memory:
        """Return the memory after a search."""
        found, is_last = event.result.step_size, self._ends_the_search(memory)
        memory = {**memory, "searches": memory["searches"] + event.accepted, "slope": event.slope}
        if not event.accepted:
            return {**memory, "step_size": memory["step_size"] / 2, "settled": True}
        if event.result.backtracks:
            return {**memory, "step_size": (memory["step_size"] * found) ** 0.5, "settled": is_last}
        return {**memory, "settled": found * event.slope >= self.enough_decrease * abs(event.loss)}

    def _ends_the_search(self, memory: Memory) -> bool:
        """Whether a step found too long settles the step size: the momentum repeats the first gradient no more."""
        return memory["searches"] >= round(1 / (1 - self.momentum))
