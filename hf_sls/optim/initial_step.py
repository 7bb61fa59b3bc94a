"""Where a search starts, and how large a step is between two searches."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan, nan, sqrt
from typing import ClassVar

from ._validation import LARGEST, check_integer, check_range
from .events import Event, LookedBack, NotSearched, Searched, SearchedElsewhere, Worsened

Memory = dict[str, float]


class InitialStep:
    """Picks the first step size that a search tries. A frozen rule; its memory is plain numbers.

    The memory has a key `"step_size"`: the size of a step without a search. A rule of your own sets `init_step_size`,
    the step size before any search, and overrides what it does otherwise.
    """

    init_step_size: float

    needs_last_update: ClassVar[bool] = False
    """Whether the rule may look back, which needs the last update when the next batch comes."""

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

    def taken(self, memory: Memory, step_size: float) -> float:
        """Return the step size to take of `step_size`, which a search has found; at most that."""
        return step_size

    def looks_back(self, memory: Memory) -> bool:
        """Whether the next batch is to look back at the last step, and no search is needed before the next one.

        The step is then taken at `start`, after an `update` with `LookedBack`.
        """
        return False

    def due(self, memory: Memory) -> bool:
        """Whether the next step needs a search or a look back. A cadence may leave it out."""
        return not self.settled(memory)

    def warms_up(self, memory: Memory) -> bool:
        """Whether to take steps whole now, as long as a schedule has not passed its peak."""
        return False

    def settled(self, memory: Memory) -> bool:
        """Whether the step size is found, so that no step needs a search any more."""
        return False

    def uncertain(self, memory: Memory) -> bool:
        """Whether so many batches have not agreed on a step size that this is worth a warning."""
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
class LookBack(InitialStep):
    r"""Take the step to where the loss of the *next* batches is least along it, then keep it.

    The batch of a step is a poor judge of it: its gradient is mostly its own noise, and along that its own loss falls
    where no other falls. So the next batch looks back. Along the update u_k of the last step, of size eta_k, it knows
    its slope at the end, `F_end = <g_{k+1}, u_k>`, whose gradient there is at hand anyway; one forward pass gives its
    loss at the start, and so the decrease D of its loss. The parabola through them has at the start the slope::

        F = max(2 D / eta_k - F_end, F_end)     and the curvature     h = (F - F_end) / eta_k

    A parabola that opens downward has no least point, and counts as straight: in bf16, rounding can hide the decrease
    along a short step, so that the loss seems to curve downward, and F_end comes from no loss.

    Both are taken relative to the largest in size of F, F_end and the slope s_k that the batch of the step saw itself:
    the *signal* x of this batch, between -1 and 1, and its curvature h. The signal hardly depends on the step size, and
    the curvature has little noise. So both are averaged over all batches of the search. The curvature along short steps
    may be larger than along long ones, or smaller. So its mean is compared with its least-squares fit, which is a mean
    weighted by eta^2, and the larger one counts as H. The averaged parabola is at its least at `eta* = mean(x) / H`.

    The *certainty* t is the part of mean(x)^2 that 2.75 standard errors (`standard_errors`) cannot explain; for it a
    signal of 0 counts as one more batch. It shrinks the step, as noise shrinks the best step of stochastic gradient
    descent (Schaul et al. 2013), and says how far to go at once, up or down::

        t     = 1 - 2.75^2 variance of mean(x) / mean(x)^2         between 0 and 1
        eta*  = mean(x) / H              H = max(mean(h), mean(eta^2 h) / mean(eta^2))
        best  = min(t eta*, init_step_size)
        eta  := best, but at least eta / growth^t and at most eta growth^t

    The search ends at the first batch that asks for no longer step: `best` is between eta / growth^t and eta. That
    counts only if t is at least 1/2, so chance ends no search; if it is, batch number `batches` ends it in any case.
    Where the batches disagree until then, the search goes on at little cost: after every `interval` steps the next two
    are slower, and the second one's batch looks back at the first. So the averages gather evidence while the model
    moves on. The step size that comes out is held for the rest of the run, and a schedule may scale it. Until then, for
    `batches` of them at most, every step is taken whole while a schedule warms up: the search is a warm-up as well.

    The first search finds how far Armijo's condition lets the first batch go, from `init_step_size` down. One batch is
    little evidence, so the geometric mean of that and `init_step_size` counts, and a small part of it, `first_part`, is
    taken, at most Armijo's step: the momentum repeats the first gradient in later steps, the first update of Adam is
    longer than later ones, and a pretrained model forgets in a few steps that are too long what more steps do not bring
    back.

    A batch can look back only at a step that was searched or looked back itself, so use a cadence of every step.
    It fails where the first step is far too long or short and the batches hardly agree, as the step then stays near its
    start for long; and where a few steps that are too long ruin the model.

    Args:
        init_step_size: where the first search starts (eta_0), positive, and the largest step: as a loss nears zero, no
            batch finds a step too long. 1e-2 suits directions whose elements are about one; the first step is then 2e-4
            at most.
        growth: the largest factor from one step to the next, up or down, above 1.
        batches: how many look back on consecutive steps at most, at least 1.
        interval: how many steps pass without a search after these, from one look back to the next; at least 1.
        first_part: the first step over the geometric mean of `init_step_size` and Armijo's step, in (0, 1].
        standard_errors: how many of them the mean signal has to be away from zero to move the step, at least 0. Fewer
            climb faster where batches are small, and follow chance where labels are wrong.

    References:
        T. Schaul, S. Zhang, Y. LeCun, No more pesky learning rates, ICML 2013, arXiv 1206.1106. A line search on the
        loss of many batches: M. Mutschler, A. Zell, A straightforward line search approach on the expected empirical
        loss for stochastic deep learning problems, 2020. The slope of the next batch along the last update is the
        hypergradient of Baydin et al., arXiv 1703.04782. docs/results/one-default.md has the evidence for the values.
    """

    init_step_size: float = 1e-2
    growth: float = 2.0
    batches: int = 30
    interval: int = 16
    first_part: float = 0.02
    standard_errors: float = 2.75
    needs_last_update: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("init_step_size", self.init_step_size, low=0.0, high=LARGEST, include_low=False)
        check_range("growth", self.growth, low=1.0, high=LARGEST, include_low=False)
        check_integer("batches", self.batches, low=1)
        check_integer("interval", self.interval, low=1)
        check_range("first_part", self.first_part, low=0.0, high=1.0, include_low=False)
        check_range("standard_errors", self.standard_errors, low=0.0, high=LARGEST)

    def new_memory(self) -> Memory:
        averages = {"signal": 0.0, "squares": 0.0, "curvature": 0.0, "weight": 0.0, "weighted_curvature": 0.0}
        counts = {"batches": 0, "steps_since": 0}
        return {"step_size": 0.0, "found": False, "settled": False, **counts, **averages}

    def start(self, memory: Memory, loss: float = nan, slope: float = nan) -> float:
        if memory["found"]:
            return memory["step_size"]
        return 0.0 if isnan(slope) else self.init_step_size

    def taken(self, memory: Memory, step_size: float) -> float:
        if memory["found"]:
            return step_size
        return min(self.first_part * sqrt(self.init_step_size * step_size), step_size)

    def looks_back(self, memory: Memory) -> bool:
        is_turn = memory["batches"] < self.batches or memory["steps_since"] >= self.interval
        return bool(memory["found"] and not memory["settled"] and is_turn)

    def due(self, memory: Memory) -> bool:
        return not memory["found"] or self.looks_back(memory)

    def warms_up(self, memory: Memory) -> bool:
        return bool(not memory["settled"] and memory["batches"] < self.batches)

    def settled(self, memory: Memory) -> bool:
        return bool(memory["settled"])

    def uncertain(self, memory: Memory) -> bool:
        count = int(memory["batches"])
        return count >= self.batches and not self.settled(memory) and not self._minimum(memory, count)[0]

    def update(self, memory: Memory, event: Event) -> Memory:
        match event:
            case Worsened():
                return super().update(memory, event)
            case Searched(result=result) if event.accepted and not memory["found"]:
                return {**memory, "found": True, "step_size": result.step_size}
            case LookedBack() if self.looks_back(memory):
                return self._judged(memory, event)
            case Searched() | NotSearched() if memory["found"] and not memory["settled"]:
                return {**memory, "steps_since": memory["steps_since"] + 1}
        return memory

    def _judged(self, memory: Memory, event: LookedBack) -> Memory:
        """Return the memory after another batch has looked back."""
        at_end = event.slope
        at_start = max(2 * event.decrease / event.step_size - at_end, at_end)
        unit = max(abs(at_start), abs(at_end), abs(event.own_slope))
        if not 0 < unit < inf:
            return {**memory, "steps_since": 0}
        count, signal = int(memory["batches"]) + 1, at_start / unit
        curvature, weight = (at_start - at_end) / unit / event.step_size, event.step_size * event.step_size
        seen = {
            "signal": signal,
            "squares": signal * signal,
            "curvature": curvature,
            "weight": weight,
            "weighted_curvature": weight * curvature,
        }
        means = {name: memory[name] + (value - memory[name]) / count for name, value in seen.items()}
        certainty, minimum = self._minimum(means, count)
        best = min(certainty * minimum, self.init_step_size)
        before, stride = memory["step_size"], self.growth**certainty
        step_size = min(max(best, before / stride), before * stride)
        reached = before / stride <= best <= before
        settled = certainty >= 0.5 and (reached or count == self.batches)
        return {**memory, **means, "batches": count, "steps_since": 0, "step_size": step_size, "settled": settled}

    def _minimum(self, means: Memory, count: int) -> tuple[float, float]:
        """Return the certainty t of the signal, and where the averaged parabola is at its least, eta*."""
        signal, squares, weight = means["signal"], means["squares"], means["weight"]
        if signal <= 0 or squares == 0 or weight == 0:  # the square of a tiny number is rounded to 0
            return 0.0, 0.0
        # The variance of the signals over the square of their mean, one more signal, of 0, among them.
        relative_variance = (count + 1) / count * (squares / signal / signal) - 1
        certainty = 1 - self.standard_errors**2 * relative_variance / count
        if certainty <= 0:
            return 0.0, 0.0
        curvature = max(means["curvature"], means["weighted_curvature"] / weight)
        return certainty, signal / curvature if curvature > 0 else inf
