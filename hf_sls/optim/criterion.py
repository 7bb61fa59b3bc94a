"""Which steps are acceptable.

Every published criterion is a straight line over the step size: `eta` is accepted when `f(w + eta p) <= a - b * eta`.
A criterion draws that line; backtracking, interpolation and pictures are written once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ._validation import check_range

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

    def reach(self, loss: float) -> float:
        """Return the largest step size at which `loss` is accepted."""
        return (self.intercept - loss) / self.rate if self.rate > 0 else float("inf")


class Criterion(Protocol):
    """Draws the line for one search. A frozen rule; its memory goes in and comes out as plain numbers."""

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        ...

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        """Return the line of acceptance for a search from `loss` with the given positive `slope`."""
        ...

    def accepted(self, loss: float, slope: float, accepted_loss: float, memory: Memory) -> Memory:
        """Return the memory after a step that brought `loss` to `accepted_loss`."""
        ...


@dataclass(frozen=True)
class Armijo:
    """Sufficient decrease: `f(w + eta p) <= f(w) - c * eta * s` (Armijo 1966; SLS, arXiv 1905.09997, eq. 1).

    Args:
        c: the share of the decrease promised by the slope that a step must reach, in (0, 1). Larger is stricter.
    """

    c: float = 0.1

    def __post_init__(self) -> None:
        check_range("c", self.c, low=0.0, high=1.0, include_low=False, include_high=False)

    def new_memory(self) -> Memory:
        return {}

    def line(self, loss: float, slope: float, memory: Memory) -> Line:
        return Line(intercept=loss, rate=self.c * slope)

    def accepted(self, loss: float, slope: float, accepted_loss: float, memory: Memory) -> Memory:
        return memory
