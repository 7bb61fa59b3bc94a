"""Whether the training losses of a run get worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from ._validation import check_integer, check_range

Memory = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """Compare the average loss of the last steps with the least one so far.

    Windows of losses follow each other, each of `window` losses or of a quarter of the run so far, whichever is more: a
    sudden rise is seen in a few steps, a small one as soon as it is certain. A run gets worse if the mean of a window
    exceeds the least mean before it by more than `deviations` standard errors of the difference, and by more than the
    fraction `rise`. Both windows get the larger of their two variances, so that a window of little variance gives no
    alarm. After an alarm the window that raised it becomes the one to compare with: a rise that lasts, or comes and
    goes with the order of the data, raises one alarm.

    A frozen rule; its memory is plain numbers. It cannot notice a run that never learns, whose loss does not rise.

    Args:
        window: number of losses after which the watch looks, at least 2.
        deviations: how many standard errors of the difference count as chance, positive.
        rise: the relative rise to tolerate, at least 0.
    """

    window: int = 32
    deviations: float = 4.0
    rise: float = 0.1

    def __post_init__(self) -> None:
        check_integer("window", self.window, low=2)
        check_range("deviations", self.deviations, low=0.0, include_low=False)
        check_range("rise", self.rise, low=0.0)

    def new_memory(self) -> Memory:
        """Return the memory before the first step; `least...` is of the best window."""
        window = {"steps": 0, "mean": 0.0, "squares": 0.0}
        return {**window, "before": 0, "least": inf, "least_steps": 1, "least_variance": 0.0, "alarms": 0}

    def seen(self, losses: Sequence[float], memory: Memory) -> Memory:
        """Return the memory after more losses of the present window; those that are not finite do not count."""
        steps, mean, squares = memory["steps"], memory["mean"], memory["squares"]
        for loss in filter(isfinite, losses):
            steps += 1
            distance = loss - mean
            mean += distance / steps
            squares += distance * (loss - mean)
        return {**memory, "steps": steps, "mean": mean, "squares": squares}

    def got_worse(self, memory: Memory) -> bool:
        """Whether the present window, of `window` losses at least, is worse than the best so far."""
        if memory["steps"] < self.window:
            return False
        variance = max(memory["squares"] / (memory["steps"] - 1), memory["least_variance"])
        error = (variance * (1 / memory["steps"] + 1 / memory["least_steps"])) ** 0.5
        return memory["mean"] - memory["least"] > max(self.deviations * error, self.rise * abs(memory["least"]))

    def looked(self, memory: Memory) -> Memory:
        """Return the memory after a look: at the start of the next window where the present one is complete."""
        worse = self.got_worse(memory)
        total = memory["before"] + memory["steps"]
        if memory["steps"] < self.window or not (worse or 4 * memory["steps"] >= total):
            return memory
        best = {
            "least": memory["mean"],
            "least_steps": memory["steps"],
            "least_variance": memory["squares"] / (memory["steps"] - 1),
        }
        better = memory["mean"] < memory["least"] and not memory["alarms"]
        return {
            **memory,
            **(best if better or worse else {}),
            **{"steps": 0, "mean": 0.0, "squares": 0.0, "before": total, "alarms": memory["alarms"] + worse},
        }
