"""On which steps to search. The steps between two searches reuse the step size and cost no extra forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ._validation import check_integer, check_range
from .events import Event, NotSearched, Searched, SearchedElsewhere

Memory = dict[str, float]


class Cadence(Protocol):
    """Says when a search is due. A frozen rule; its memory goes in and comes out as plain numbers.

    It may have an attribute `after_settling`, whether to search where the initial step needs none; it counts as false.
    """

    def new_memory(self) -> Memory:
        """Return the memory before the first step."""
        ...

    def due(self, memory: Memory) -> bool:
        """Whether the next step has to search."""
        ...

    def update(self, memory: Memory, event: Event) -> Memory:
        """Return the memory after a step: `Searched`, `SearchedElsewhere` or `NotSearched`."""
        ...


@dataclass(frozen=True)
class EveryStep:
    """Search on every step (SLS, ADAMSLS) on which the initial step needs it: `LookBack` does until it has settled."""

    after_settling: ClassVar[bool] = False
    """Whether to search on the steps too on which the initial step needs no search."""

    def new_memory(self) -> Memory:
        return {}

    def due(self, memory: Memory) -> bool:
        return True

    def update(self, memory: Memory, event: Event) -> Memory:
        return memory


@dataclass(frozen=True)
class Always(EveryStep):
    """Search on every step, where the initial step needs no search too: after `LookBack` has settled.

    Each search then starts from the step size found, and shortens the step of a batch that rejects it, and no other.
    """

    after_settling: ClassVar[bool] = True


@dataclass(frozen=True)
class Adaptive:
    """Search as often as the step size moves (SaLSa, arXiv 2407.20650, section on speed-up).

    Two moving averages of the accepted step, slow and fast, measure by their ratio r (or 1/r, whichever is above 1)
    how much the step size moves; a search is due when `min(max_interval, 1 / (r - 1))` steps have passed since the
    last one. Both averages start at the first accepted step.

    Args:
        warmup: number of searches, from the start, that take place on every step; at least 1.
        max_interval: the most steps from one search to the next, at least 1.
        slow: decay rate of the slow average, in [0, 1).
        fast: decay rate of the fast average, in [0, 1).
    """

    warmup: int = 10
    max_interval: int = 10
    slow: float = 0.99
    fast: float = 0.9

    def __post_init__(self) -> None:
        check_integer("warmup", self.warmup, low=1)
        check_integer("max_interval", self.max_interval, low=1)
        check_range("slow", self.slow, low=0.0, high=1.0, include_high=False)
        check_range("fast", self.fast, low=0.0, high=1.0, include_high=False)

    def new_memory(self) -> Memory:
        return {"searches": 0, "steps_since_search": 0, "slow": 0.0, "fast": 0.0}

    def due(self, memory: Memory) -> bool:
        if memory["searches"] < self.warmup or not memory["slow"] > 0:
            return True
        ratio = memory["fast"] / memory["slow"]
        change = max(ratio, 1 / ratio) - 1
        interval = self.max_interval if change * self.max_interval <= 1 else 1 / change
        return memory["steps_since_search"] + 1 >= interval

    def update(self, memory: Memory, event: Event) -> Memory:
        match event:
            case Searched(result=result) if event.accepted:
                first = memory["searches"] == 0
                averages = {
                    name: result.step_size if first else decay * memory[name] + (1 - decay) * result.step_size
                    for name, decay in (("slow", self.slow), ("fast", self.fast))
                }
                return {"searches": memory["searches"] + 1, "steps_since_search": 0, **averages}
            case NotSearched():
                return {**memory, "steps_since_search": memory["steps_since_search"] + 1}
        return memory


@dataclass(frozen=True)
class Budget:
    """Search as often as a budget of trials allows: at most `credit + rate * steps`, and the trials of one search more.

    This bounds the cost of a run before it starts, whatever the loss does, and for all layers of a model together:
    `credit` pays for the first searches, which have to find the scale of the step, and every step earns `rate` trials.
    The searches before the first that finds a step are free.

    Args:
        credit: trials allowed beyond the rate, at least 0.
        rate: trials earned by each step, positive.
    """

    credit: float = 10.0
    rate: float = 0.1

    def __post_init__(self) -> None:
        check_range("credit", self.credit, low=0.0)
        check_range("rate", self.rate, low=0.0, include_low=False)

    def new_memory(self) -> Memory:
        return {"steps": 0, "trials": 0}

    def due(self, memory: Memory) -> bool:
        return memory["trials"] < self.credit + self.rate * (memory["steps"] + 1)

    def update(self, memory: Memory, event: Event) -> Memory:
        trials = memory["trials"]
        if isinstance(event, (Searched, SearchedElsewhere)) and (trials or event.accepted):
            trials += event.trials
        return {"steps": memory["steps"] + 1, "trials": trials}
