"""What the first search can tell of a loss that cannot be searched: which differences warn, and which are repaired.

| what differs | what is done |
|---|---|
| the closure cannot be evaluated without gradients, or only then gives the recorded loss | trials keep gradients on |
| the loss, evaluated again at the same parameters | a warning |
| the decrease of the loss, from what the slope of its gradient promises | a warning |

The first one costs a forward pass, once in a run; the last one nothing, as the first step promises a few per cent of
the loss only, over which the loss is straight.
"""

from __future__ import annotations

import warnings
from math import isfinite

from .trials import Trials

_SAME = 2.0**-7
"""Relative difference of two evaluations that the arithmetic of a device in bfloat16 may make."""

_STRAIGHT = 0.05
"""Share of the loss up to which a decrease is taken for straight."""

_LIKE = 1.5
"""Factor between decrease and promise that curvature may make over so little: measured 0.85 to 1.02."""


def check_replay(trials: Trials, loss: float) -> None:
    """Evaluate the loss again where it was evaluated, and see to it that a trial sees what the step saw."""
    replayed = _replayed(trials)
    if replayed is None or not _same(replayed, loss):
        trials.with_gradients = True
        with_gradients = _replayed(trials)
        if with_gradients is not None and _same(with_gradients, loss):
            return
        if replayed is not None:
            trials.with_gradients = False
            replayed = with_gradients if with_gradients is not None else replayed
    if replayed is not None and not _same(replayed, loss):
        warnings.warn(
            f"The loss of the first batch is {loss:.6g}, and {replayed:.6g} when it is evaluated again with the same "
            "parameters. The line search compares the two, so it cannot work. Look for what changes from one "
            "evaluation to the next: random numbers from a generator of your own, state of the model or of the loss "
            "beside its buffers, a batch that is changed in place.",
            stacklevel=2,
        )


def check_slope(loss: float, decrease: float, promised: float) -> None:
    """Warn if the gradient is not that of the loss, by the first step of a run."""
    if promised > _STRAIGHT * abs(loss) or not promised > 0:
        return
    if not 1 / _LIKE <= decrease / promised <= _LIKE:
        warnings.warn(
            f"The first search took a step that was to lower the loss of its batch, {loss:.4g}, by {promised:.2g} "
            f"according to its gradient, and lowered it by {decrease:.2g}. So the gradient in .grad is not that of the "
            "loss that the closure returns: look for a factor on one of them, for a second backward, for noise that is "
            "added to gradients, or for a detach() in the loss. If the model computes in low precision, its rounding "
            "may hide so small a change.",
            stacklevel=2,
        )


def _replayed(trials: Trials) -> float | None:
    """Return the loss at the start; `None` where it cannot be evaluated without gradients."""
    try:
        return trials.loss_here()
    except RuntimeError as error:
        if trials.with_gradients or "grad" not in str(error):
            raise
        return None


def _same(replayed: float, loss: float) -> bool:
    return not isfinite(loss) or abs(replayed - loss) <= _SAME * abs(loss)
