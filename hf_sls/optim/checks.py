"""Whether the optimizer is used as it has to be: its closure, its groups, and the loss that a first search sees.

| what differs | what is done |
|---|---|
| the closure calls `backward`, clears gradients in place, or returns no scalar with a graph | a `RuntimeError` |
| a group has a setting that counts for the whole optimizer only | a `ValueError` |
| the `lr` of the groups is a learning rate | a warning |
| only with gradients on the closure works, or gives the recorded loss | trials keep gradients on |
| the loss, evaluated again at the same parameters | a warning |
| the decrease of the loss, from what the slope of its gradient predicts | a warning |

The first search of a run checks the last three. That costs one forward pass, and a second one where the decrease is
odd: along a step that is to lower the loss by a five-hundredth, over which it is straight, or along a quarter of the
first one. Searches number 100, 1,000 and so on evaluate the loss again too, and so does the fifth batch that looks
back, because a model or a batch may change in a run, and state of their own may be empty at first.
"""

from __future__ import annotations

import warnings
from inspect import signature
from itertools import pairwise
from math import inf, isfinite
from typing import Any

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from .events import SearchResult
from .trials import Trials

_LEAST_LR = 0.01
"""A base `lr` up to it is taken for a learning rate."""

_FAR = 1000.0
"""The ratio of two neighbouring `lr` of groups that no layer-wise decay has."""

_SAME = 2.0**-7
"""Relative difference of two evaluations that the arithmetic of a device in bfloat16 may make."""

_STRAIGHT = 0.002
"""Fraction of the loss up to which a decrease counts as straight."""

_VISIBLE = 32.0
"""How many roundings of the loss a decrease has to be, so that a quarter of it can be told from none."""

_CHECKED = [10**power - 1 for power in range(2, 10)]
"""The searches before those that evaluate the loss again."""

_ALIKE = 1.5
"""The largest ratio of measured to predicted decrease that curvature explains; on sixteen tasks it was 0.73 to 1.07."""


def check_learning_rates(groups: list[dict[str, Any]], last: float | None, largest_so_far: float) -> bool:
    """Warn of an `lr` in the groups that is one of AdamW's rather than a fraction of the step.

    That of the first step counts, or the base and the peak that a scheduler keeps, and that of a group which is far
    below the others. A loop or a callback may write other values into the groups and warm up: of these the peak counts,
    once they begin to fall.

    Args:
        groups: the parameter groups.
        last: the largest `lr` in the last step, `None` if that is not known.
        largest_so_far: the largest `lr` in all steps so far, 0 in the first one.

    Returns:
        Whether it has warned.
    """
    present, suspect = max(float(group["lr"]) for group in groups), inf
    if last is None and largest_so_far == 0:
        kept = [float(group[name]) for group in groups for name in ("initial_lr", "max_lr") if name in group]
        rates = sorted(float(group["lr"] if present else group.get("initial_lr", 0.0)) for group in groups)
        far_below = [low for low, high in pairwise(rates) if 0 < low <= high / _FAR]
        suspect = min([max(kept, default=present) if present else inf, *far_below])
    elif last is not None and present < last == largest_so_far:
        suspect = last
    if not 0 < suspect <= _LEAST_LR:
        return False
    warnings.warn(
        f"lr={suspect:.3g} in the parameter groups is not a learning rate here: it is the fraction of the step "
        "size found that is taken, 1 for all of it, so these parameters will hardly move. Leave it at 1, or divide "
        "the lr of all groups by the largest, which keeps their ratios; a schedule starts from 1.",
        stacklevel=3,
    )
    return True


def check_settings_of_group(group: dict[str, Any], optimizer_class: type[Optimizer]) -> None:
    """Raise `ValueError` for a setting in a parameter group that could count for the whole optimizer only."""
    own = {name for each in optimizer_class.__mro__ for name in signature(each).parameters}
    of_torch = {*signature(AdamW).parameters, *signature(SGD).parameters}
    for name in sorted((own | of_torch) & group.keys() - {"params", "lr", "weight_decay"}):
        if group[name] is not None and group[name] is not False:
            has_it = f"Pass it to {optimizer_class.__name__}" if name in own else f"{optimizer_class.__name__} has none"
            raise ValueError(
                f"{name}={group[name]!r} in a parameter group would have no effect: a group may have its own lr, which "
                f"is a fraction of the step, and weight_decay. {has_it}."
            )


def check_loss(loss: Any, has_gradients: bool) -> None:
    """Raise `RuntimeError` for what a closure must not do, with what to do instead."""
    instead = "closure() has to return the loss of the mini-batch, a scalar with its graph, and nothing else."
    if has_gradients:
        raise RuntimeError(
            "closure() has called backward() itself, as torch.optim.LBFGS and Lightning want it. Here step() does: "
            "leave zero_grad() and backward() out. " + instead
        )
    if not isinstance(loss, Tensor):
        raise RuntimeError(f"closure() returned {loss!r}. {instead}")
    if loss.dim():
        raise RuntimeError(f"closure() returned a tensor of the shape {tuple(loss.shape)}, not a scalar. {instead}")
    if loss.is_complex():
        raise RuntimeError(f"closure() returned a complex loss, {loss.detach()}. {instead}")
    if not loss.requires_grad:
        raise RuntimeError(f"closure() returned a loss without a graph. {instead} Leave out detach() and item().")


def replay_is_due(counts: dict[str, float]) -> bool:
    """Whether a search is the first of a run, or one of those that evaluate the loss again."""
    return not counts["checks"] or counts["searches"] in _CHECKED


def check_replay(trials: Trials) -> int:
    """Evaluate the loss again where it was evaluated, and warn if a trial does not repeat the recorded loss.

    Args:
        trials: at the start of the search.

    Returns:
        How many evaluations it took: none if the loss is not finite, one, or two if the first one failed or was not the
        loss.
    """
    if not isfinite(loss := float(trials.batch.loss)):
        return 0
    with_gradients = trials.batch.with_gradients
    replayed = trials.loss_here()
    if _same(replayed, loss):
        return 1 if trials.batch.with_gradients == with_gradients else 2
    if not trials.batch.with_gradients:
        trials.batch.with_gradients = True
        if _same(trials.loss_here(), loss):
            return 2
        trials.batch.with_gradients = False
    warnings.warn(
        f"The loss of this batch is {loss:.6g}, and {replayed:.6g} when it is evaluated again with the same "
        "parameters. The line search compares the two, so it cannot work. Look for what changes from one "
        "evaluation to the next: random numbers from a generator of your own, state of the model or of the loss "
        "beside its buffers, a batch that is changed in place.",
        stacklevel=2,
    )
    return 1 if with_gradients else 2


def check_slope(trials: Trials, loss: float, slope: float, result: SearchResult) -> int:
    """Warn if the gradient is not that of the loss, by the first step of a run.

    A shorter step has less of the error that curvature makes. So one is tried where the decrease is not the predicted
    one: if the mismatch stays, the gradient is wrong.

    Returns:
        How many evaluations it took, 0 or 1. The parameters are at the step that was found.
    """
    if result.outcome != "accepted" or _alike(loss - result.loss, result.step_size * slope):
        return 0
    step_size = min(result.step_size / 4, _STRAIGHT * abs(loss) / slope)
    predicted = step_size * slope
    if predicted <= _VISIBLE * trials.rounding * abs(loss):
        return 0
    decrease = loss - trials.loss_at(step_size)
    trials.go_to(result.step_size)
    if not _alike(decrease, predicted):
        warnings.warn(
            f"The first search tried a step that should have lowered the loss of its batch, {loss:.4g}, by "
            f"{predicted:.2g} according to its gradient, and lowered it by {decrease:.2g}. So the gradient in .grad is "
            "not that of the loss that the closure returns: look for a factor on one of them, a second backward, "
            "gradients that are clipped or made noisy elsewhere, a detach() in the loss, random numbers from a "
            "generator of your own, or a loss computed outside of the closure. If the model computes in low "
            "precision, its rounding may hide so small a change.",
            stacklevel=2,
        )
    return 1


def _alike(decrease: float, predicted: float) -> bool:
    return 1 / _ALIKE <= decrease / predicted <= _ALIKE


def _same(replayed: float, loss: float) -> bool:
    return abs(replayed - loss) <= _SAME * abs(loss)
