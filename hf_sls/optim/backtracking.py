"""The search itself: floats and a function of the step size, no tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._validation import check_choice, check_integer, check_range
from .criterion import Line
from .events import SearchResult


@dataclass(frozen=True)
class Backtracking:
    """Shrink the step until the line of acceptance is met.

    Without interpolation a rejected step is multiplied by `shrink`, as published. With interpolation the next step is
    where the parabola through `f(w)`, the slope and the rejected loss meets the line of acceptance (Nocedal and Wright,
    Numerical Optimization, section 3.5), times `safety`, and between `max_shrink` and `shrink` times the rejected step.

    The search ends without a step when `max_trials` steps were rejected, or when the decrease that slope and line still
    predict is below `resolution`, the rounding of the loss: noise would decide there. It tries no step that only a loss
    below `lower_bound` could pass.

    Args:
        shrink: the mildest reduction of a rejected step, in (0, 1).
        max_trials: the most step sizes to try in one search, at least 1.
        interpolate: whether to shrink by interpolation.
        max_shrink: the strongest reduction by interpolation, in (0, shrink].
        safety: fraction of the interpolated step to try, in (0, 1]; below 1 so that rounding does not decide.
        lower_bound: the least value that the loss can take, 0 for cross-entropy or a squared error; `-inf` if unknown.
    """

    shrink: float = 0.9
    max_trials: int = 100
    interpolate: bool = False
    max_shrink: float = 0.1
    safety: float = 0.9
    lower_bound: float = float("-inf")

    def __post_init__(self) -> None:
        check_range("shrink", self.shrink, low=0.0, high=1.0, include_low=False, include_high=False)
        check_integer("max_trials", self.max_trials, low=1)
        check_choice("interpolate", self.interpolate, (False, True))
        check_range("lower_bound", self.lower_bound, low=float("-inf"))
        check_range("max_shrink", self.max_shrink, low=0.0, high=self.shrink, include_low=False)
        check_range("safety", self.safety, low=0.0, high=1.0, include_low=False)

    def search(
        self,
        phi: Callable[[float], float],
        line: Line,
        loss: float,
        slope: float,
        step_size: float,
        resolution: float = 0.0,
    ) -> SearchResult:
        """Find an acceptable step size from `step_size` down.

        Args:
            phi: the loss of the mini-batch as a function of the step size.
            line: the line of acceptance.
            loss: `phi(0)`.
            slope: `-phi'(0)`.
            step_size: the first step size to try.
            resolution: the smallest difference of two losses that means anything.
        """
        max_step_size = line.max_step_size(self.lower_bound) if loss >= self.lower_bound else float("inf")
        if max_step_size <= 0:
            return SearchResult(step_size, float("nan"), 0, "unresolvable")
        step_size = min(step_size, max_step_size)
        trial_loss = float("nan")
        for trials in range(self.max_trials):
            if step_size * max(slope, line.rate) <= resolution:
                return SearchResult(step_size, trial_loss, trials, "unresolvable")
            trial_loss = phi(step_size)
            if line.accepts(step_size, trial_loss):
                return SearchResult(step_size, trial_loss, trials + 1, "accepted")
            rejected = step_size
            step_size = min(self._shrunk(rejected, trial_loss, line, loss, slope), max_step_size)
        return SearchResult(rejected, trial_loss, self.max_trials, "exhausted")

    def _shrunk(self, step_size: float, trial_loss: float, line: Line, loss: float, slope: float) -> float:
        if not self.interpolate:
            return self.shrink * step_size
        crossing = _parabola_crossing(step_size, trial_loss, line, loss, slope)
        return min(max(self.safety * crossing, self.max_shrink * step_size), self.shrink * step_size)


def _parabola_crossing(step_size: float, trial_loss: float, line: Line, loss: float, slope: float) -> float:
    """Return where `f - s eta + q eta^2`, `q` such that it passes the rejected trial, meets the line `a - b eta`."""
    curvature = (trial_loss - loss + slope * step_size) / step_size / step_size
    if not 0 < curvature < float("inf"):
        return 0.0
    excess_rate = slope - line.rate
    margin = line.intercept - loss
    discriminant = max(excess_rate * excess_rate + 4 * curvature * margin, 0.0)  # below 0 they do not meet
    return (excess_rate + discriminant**0.5) / (2 * curvature)
