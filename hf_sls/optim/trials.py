"""Looking at the loss along a search direction, and leaving no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from ._tensors import dot_difference, pieces, total
from .random_state import RandomState
from .sharding import ShardGroups, sum_over_shards

Closure: TypeAlias = Callable[[], Tensor | float]


class Trials:
    """The loss of the mini-batch as a function of the step size, `phi(eta) = f(w - eta * u)`.

    Inside the `with` block the parameters move: the caller moves them to a first point `w - eta * u` and names its
    `eta` in `step_size`; smaller steps are then interpolated between that point and `w`, so that the update itself
    need not be kept. On leaving the block they are where they were, to the bit, unless `take` was called and no
    exception passes through; the global random state is always what it was on entry.

    Args:
        closure: evaluates the loss.
        parameters: the tensors to move.
        random_state: restored before every evaluation; `None` when the closure sees to that itself.
        shard_groups: of each parameter, the process groups that hold its other parts.

    Attributes:
        step_size: where the parameters are along the search.
    """

    def __init__(
        self,
        closure: Closure,
        parameters: Sequence[Tensor],
        random_state: RandomState | None,
        shard_groups: Sequence[ShardGroups],
    ) -> None:
        self.step_size = 0.0
        self._closure = closure
        self._parameters = list(parameters)
        self._random_state = random_state
        self._shard_groups = shard_groups
        self._taken = False

    def __enter__(self) -> Trials:
        self._random_state_on_entry = RandomState.capture({parameter.device for parameter in self._parameters})
        owned = [(owner, x) for owner, p in enumerate(self._parameters) for x in pieces(p.detach(), like=p)]
        self._owners, self._pieces = [owner for owner, _ in owned], [piece for _, piece in owned]
        self._originals = [piece.clone() for piece in self._pieces]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None or not self._taken:
            self.undo()
        self._random_state_on_entry.restore()

    def undo(self) -> None:
        """Put the parameters back to where they were on entry."""
        torch._foreach_copy_(self._pieces, self._originals)
        self.step_size = 0.0

    def slope(self, gradients: list[Tensor]) -> Tensor:
        """Return `s = <g, u>`, from the displacement of the parameters, as a 0-dim tensor."""
        parts = [piece for g, p in zip(gradients, self._parameters) for piece in pieces(g, like=p)]
        slopes = []
        for groups in dict.fromkeys(self._shard_groups):
            indices = [i for i, owner in enumerate(self._owners) if self._shard_groups[owner] == groups]
            lists = ([tensors[i] for i in indices] for tensors in (parts, self._originals, self._pieces))
            slopes.append(sum_over_shards(dot_difference(*lists), groups))
        return total(slopes) / self.step_size

    def loss_at(self, step_size: float) -> float:
        """Return `phi(step_size)`, for a step size at most the present one."""
        if step_size != self.step_size:
            torch._foreach_lerp_(self._pieces, self._originals, 1 - step_size / self.step_size)
            self.step_size = step_size
        return float(self.evaluate())

    def evaluate(self) -> Tensor | float:
        """Return the loss where the parameters are, unread by the host."""
        if self._random_state is not None:
            self._random_state.restore()
        return self._closure()

    def take(self, shares_and_decays: Sequence[tuple[float, float]]) -> None:
        """Keep a share of the present step, with weight decay, `share * (step - step_size * weight_decay * w)`.

        Args:
            shares_and_decays: share and weight decay of each parameter.
        """
        for share, weight_decay in set(shares_and_decays) - {(1.0, 0.0)}:
            indices = [i for i, owner in enumerate(self._owners) if shares_and_decays[owner] == (share, weight_decay)]
            moved, originals = [self._pieces[i] for i in indices], [self._originals[i] for i in indices]
            torch._foreach_lerp_(moved, originals, 1 - share)
            torch._foreach_add_(moved, originals, alpha=-share * self.step_size * weight_decay)
        self._taken = True
