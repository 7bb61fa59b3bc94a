"""One number for a training curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def mean_log_loss(losses: Sequence[float]) -> float:
    """Return `L = (1/T) sum_t log l_t` over the training losses `l_t`: lower is better.

    It is an area under the curve in which every halving of the loss counts equally, however late it comes. The talk
    "Stochastic Line Search" (Kenneweg, Galli, Kenneweg, Hammer) uses this measure.

        >>> round(mean_log_loss([1.0, 0.5, 0.25]), 4)
        -0.6931

    Args:
        losses: the loss of every step, at least one.

    Returns:
        L, without unit; `-inf` if a loss is zero, `inf` if one is infinite, NaN if one is NaN or if both occur.

    Raises:
        ValueError: `losses` is empty, or a loss is negative.
    """
    if len(losses) == 0:
        raise ValueError("losses=[] is not allowed: at least one loss is needed.")
    if any(loss < 0 for loss in losses):
        raise ValueError(f"losses has {min(losses)}, which is not allowed: every loss must be at least 0.")
    return sum(math.log(loss) if loss else -math.inf for loss in losses) / len(losses)


def final_loss(losses: Sequence[float]) -> float:
    """Return the mean over the last twentieth of the training losses, but at least one: the last 4 of 80.

        >>> final_loss([2.0] * 39 + [1.0])
        1.5

    Args:
        losses: the loss of every step.

    Returns:
        The mean; NaN if there is no loss.
    """
    return fmean(losses[-max(1, len(losses) // 20) :]) if losses else math.nan
