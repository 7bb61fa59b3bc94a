"""What the first search can tell of a loss that cannot be searched: which differences warn, and which are repaired.

| what differs | what is done |
|---|---|
| the closure cannot be evaluated without gradients, or only then gives the recorded loss | trials keep gradients on |
| the loss, evaluated again at the same parameters | a warning |
| the decrease of the loss, from what the slope of its gradient promises | a warning |

The first one costs a forward pass, once in a run, and the last one another where the first step is odd: it promises a
few per cent of the loss, over which the loss of most models is straight.
"""

from __future__ import annotations

import warnings

from .backtracking import SearchResult
from .trials import Trials

_SAME = 2.0**-7
"""Relative difference of two evaluations that the arithmetic of a device in bfloat16 may make."""

_STRAIGHT = 0.05
"""Share of the loss up to which a decrease may be taken for straight."""

_LIKE = 1.5
"""Factor between decrease and promise that curvature may make over so little; on eight tasks it was 0.85 to 1.02."""


def check_replay(trials: Trials, loss: float) -> int:
    """Evaluate a finite loss again where it was evaluated, and see to it that a trial sees what the step saw.

    Returns:
        How many evaluations it has taken: one, or two where the first one was not the loss.
    """
    without_gradients = _without_gradients(trials)
    if without_gradients is not None and _same(without_gradients, loss):
        return 1
    trials.with_gradients = True
    replayed = trials.loss_here()
    if _same(replayed, loss):
        return 2
    if without_gradients is not None:
        trials.with_gradients, replayed = False, without_gradients
    warnings.warn(
        f"The loss of the first batch is {loss:.6g}, and {replayed:.6g} when it is evaluated again with the same "
        "parameters. The line search compares the two, so it cannot work. Look for what changes from one "
        "evaluation to the next: random numbers from a generator of your own, state of the model or of the loss "
        "beside its buffers, a batch that is changed in place.",
        stacklevel=2,
    )
    return 2


def check_slope(trials: Trials, loss: float, slope: float, result: SearchResult) -> int:
    """Warn if the gradient is not that of the loss, by the first step of a run.

    Where the step itself lowers the loss by something else than promised, a quarter of it tells curvature, of which it
    has a quarter, from a gradient of another function.

    Returns:
        How many evaluations it has taken, 0 or 1. The parameters are at the step that was found.
    """
    promised = result.step_size * slope
    if result.outcome != "accepted" or promised > _STRAIGHT * abs(loss) or _alike(loss - result.loss, promised):
        return 0
    decrease, promised = loss - trials.loss_at(result.step_size / 4), promised / 4
    trials.go_to(result.step_size)
    if not _alike(decrease, promised):
        warnings.warn(
            f"The first search looked at a step that was to lower the loss of its batch, {loss:.4g}, by {promised:.2g} "
            f"according to its gradient, and lowered it by {decrease:.2g}. So the gradient in .grad is not that of the "
            "loss that the closure returns: look for a factor on one of them, for a second backward, for noise that is "
            "added to gradients, or for a detach() in the loss. If the model computes in low precision, its rounding "
            "may hide so small a change.",
            stacklevel=2,
        )
    return 1


def _alike(decrease: float, promised: float) -> bool:
    return 1 / _LIKE <= decrease / promised <= _LIKE


def _without_gradients(trials: Trials) -> float | None:
    """Return the loss at the start; `None` where it cannot be evaluated without gradients."""
    try:
        return trials.loss_here()
    except RuntimeError as error:
        if "grad" not in str(error):
            raise
        return None


def _same(replayed: float, loss: float) -> bool:
    return abs(replayed - loss) <= _SAME * abs(loss)
