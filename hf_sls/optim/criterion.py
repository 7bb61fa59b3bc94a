"""Which steps are acceptable.

Every published criterion is a straight line over the step size: `eta` is accepted when `f(w + eta p) <= a - b * eta`.
A criterion draws that line; backtracking, interpolation and pictures are written once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ._validation import SMALLEST, check_range
from .events import Event, Searched

Memory = dict[str, float]


@dataclass(frozen=True)
class Line:
    """The highest acceptable loss as a function of the step size, `intercept - rate * step_size`."""

    intercept: float
    rate: float

    def __call__(self, step_size: float) -> float:
        return self.intercept - self.rate * step_size

    def accepts(self, step_size: float, loss: float) -> bool:
        """Whether `loss` at `step_size` is on or below the line; a NaN loss never is."""
        return loss <= self(step_size)

    def ratio(self, step_size: float, loss: float) -> float:
        """Return the decrease from the intercept to `loss` over the one asked for, at least 1 where it is accepted."""
        return (self.intercept - loss) / (self.rate * step_size)

    def max_step_size(self, loss: float) -> float:
        """Return the largest step size at which `loss` is accepted."""
        return (self.intercept - loss) / self.rate if self.rate > 0 else float("inf")


class Criterion(Protocol):
    """Draws the line for one search. A frozen rule; its memory goes in and comes out as plain numbers.

    It may have an attribute `tolerance`, see `Armijo`. Where that is not 0, a search goes on below the rounding of the
    loss, which would end it.
    """

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        ...

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        """Return the line of acceptance for a search from `loss` with the given positive `slope`."""
        ...

    def update(self, memory: Memory, event: Event) -> Memory:
        """Return the memory after a search, `Searched`; only one that was accepted counts."""
        ...


@dataclass(frozen=True)
class Armijo:
    """Sufficient decrease: `f(w + eta p) <= f(w) - c * eta * s` (Armijo 1966; SLS, arXiv 1905.09997, eq. 1).

    With a tolerance `t` a loss may be higher by `t * |f(w)|`, as in the approximate Wolfe conditions of Hager and Zhang
    (SIAM J. Optim. 16, 2005): two losses that differ by less than their rounding do not say which one is lower.

    Args:
        c: the fraction of the decrease predicted by the slope that a step has to reach, in (0, 1). Larger is stricter.
        tolerance: the relative difference of two losses that counts as rounding, in [0, 1); 2^-8 is the spacing of
            bfloat16.
    """

    c: float = 0.1
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_range("c", self.c, low=SMALLEST, high=1.0, include_high=False)
        check_range("tolerance", self.tolerance, low=0.0, high=1.0, include_high=False)

    def new_memory(self) -> Memory:
        return {}

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        return Line(intercept=loss + self.tolerance * abs(loss), rate=self.c * slope)

    def update(self, memory: Memory, event: Event) -> Memory:
        return memory


@dataclass(frozen=True)
class Smoothed:
    r"""Sufficient decrease on the average over the batches (SaLSa, arXiv 2407.20650).

    With the decrease `h(eta) = f(w) - f(w + eta p)` of this batch and averages over the accepted steps before it,
    `eta` is accepted when `hs >= c * eta * ss`, where::

        hs_k = B hs_{k-1} + (1 - B) h_k(eta)        ss_k = B ss_{k-1} + (1 - B) s_k

    A single batch that disagrees with the others then cannot throw the step size over; and a batch along which the
    direction ascends is tested like any other, as long as the averaged slope is positive. The averages start at the
    first accepted step, which therefore is Armijo's.

    Args:
        c: as in `Armijo`.
        smoothing: B, in [0, 1); 0 is Armijo.
    """

    c: float = 0.5
    smoothing: float = 0.9

    def __post_init__(self) -> None:
        check_range("c", self.c, low=SMALLEST, high=1.0, include_high=False)
        check_range("smoothing", self.smoothing, low=0.0, high=1.0, include_high=False)

    def new_memory(self) -> Memory:
        return {"decrease": 0.0, "slope": 0.0}

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        fresh = 1 - self.smoothing
        return Line(
            intercept=loss + self.smoothing * memory["decrease"] / fresh,
            rate=self.c * (self.smoothing * memory["slope"] / fresh + slope),
        )

    def update(self, memory: Memory, event: Event) -> Memory:
        if not (isinstance(event, Searched) and event.accepted):
            return memory

        def average(past: float, present: float) -> float:
            return self.smoothing * past + (1 - self.smoothing) * present

        return {
            "decrease": average(memory["decrease"], event.loss - event.result.loss),
            "slope": average(memory["slope"], event.slope),
        }


@dataclass(frozen=True)
class NonMonotone:
    """Sufficient decrease below an average of the losses so far (PoNoS, arXiv 2306.12747; Zhang and Hager 2004).

    `f(w + eta p) <= max(C, f(w)) - c * eta * s`, with `C := (xi Q C + f(w)) / (xi Q + 1)`, `Q := xi Q + 1` before each
    test, from `Q = 0`.

    Args:
        c: as in `Armijo`.
        xi: weight of the past, in [0, 1]; 0 is Armijo, 1 the mean of all losses.
    """

    c: float = 0.5
    xi: float = 1.0

    def __post_init__(self) -> None:
        check_range("c", self.c, low=SMALLEST, high=1.0, include_high=False)
        check_range("xi", self.xi, low=0.0, high=1.0)

    def new_memory(self) -> Memory:
        return {"C": 0.0, "Q": 0.0}

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        return Line(intercept=max(self._average(loss, memory)["C"], loss), rate=self.c * slope)

    def update(self, memory: Memory, event: Event) -> Memory:
        if not (isinstance(event, Searched) and event.accepted):
            return memory
        return self._average(event.loss, memory)

    def _average(self, loss: float, memory: Memory) -> Memory:
        past = self.xi * memory["Q"]
        return {"C": (past * memory["C"] + loss) / (past + 1), "Q": past + 1}
