"""Whether a run gets worse, by the training losses of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from ._validation import check_integer, check_range

Memory = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """Compare the average loss of the last steps with the least one so far.

    Windows of `window` steps follow each other. A run gets worse where the mean of one is above the least mean of those
    before by more than `deviations` standard errors of the difference (Welch), and by more than `rise` of it. From then
    on windows are compared with the one that said so: a lasting rise, or one that comes and goes with the order of the
    data, is told of once.

    A frozen rule; its memory is plain numbers. It hears nothing of a run that never learns: its loss does not rise.

    Args:
        window: number of steps, at least 2.
        deviations: standard errors of the difference that are taken for chance, positive.
        rise: the relative rise that is let pass, at least 0.
    """

    window: int = 32
    deviations: float = 6.0
    rise: float = 0.1

    def __post_init__(self) -> None:
        check_integer("window", self.window, low=2)
        check_range("deviations", self.deviations, low=0.0, include_low=False)
        check_range("rise", self.rise, low=0.0)

    def new_memory(self) -> Memory:
        """Return the memory before the first step."""
        return {"steps": 0, "mean": 0.0, "squares": 0.0, "least": inf, "variance": 0.0, "alarms": 0}

    def seen(self, losses: Sequence[float], memory: Memory) -> Memory:
        """Return the memory after some more losses of the present window; those that are not finite do not count."""
        steps, mean, squares = memory["steps"], memory["mean"], memory["squares"]
        for loss in filter(isfinite, losses):
            steps += 1
            distance = loss - mean
            mean += distance / steps
            squares += distance * (loss - mean)
        return {**memory, "steps": steps, "mean": mean, "squares": squares}

    def complete(self, memory: Memory) -> bool:
        """Whether the present window is complete."""
        return memory["steps"] >= self.window

    def got_worse(self, memory: Memory) -> bool:
        """Whether the present window, a complete one, is worse than the best so far."""
        variance = self._variance_of_mean(memory)
        rise = memory["mean"] - memory["least"]
        return rise > max(self.deviations * (variance + memory["variance"]) ** 0.5, self.rise * abs(memory["least"]))

    def next_window(self, memory: Memory) -> Memory:
        """Return the memory at the start of the next window."""
        worse = self.got_worse(memory)
        better = memory["mean"] < memory["least"] and not memory["alarms"]
        compared = {"least": memory["mean"], "variance": self._variance_of_mean(memory)} if better or worse else {}
        alarms = memory["alarms"] + worse
        return {**memory, **compared, "steps": 0, "mean": 0.0, "squares": 0.0, "alarms": alarms}

    @staticmethod
    def _variance_of_mean(memory: Memory) -> float:
        return memory["squares"] / (memory["steps"] - 1) / memory["steps"]
