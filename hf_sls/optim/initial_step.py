"""Where a search starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ._validation import check_range

Memory = dict[str, float]


class InitialStep(Protocol):
    """Picks the first step size that a search tries. A frozen rule; its memory is plain numbers."""

    @property
    def first(self) -> float:
        """The step size before any search."""
        ...

    def new_memory(self) -> Memory:
        """Return the memory before the first search."""
        ...

    def start(self, loss: float, slope: float, step_size: float, memory: Memory) -> float:
        """Return the first step size to try, given the step size last taken."""
        ...

    def searched(self, backtracks: int, memory: Memory) -> Memory:
        """Return the memory after a search that shrank the step `backtracks` times."""
        ...


@dataclass(frozen=True)
class LastStep:
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

    def start(self, loss: float, slope: float, step_size: float, memory: Memory) -> float:
        return step_size * self.growth if memory["searches"] else step_size

    def searched(self, backtracks: int, memory: Memory) -> Memory:
        return {"searches": memory["searches"] + 1}
