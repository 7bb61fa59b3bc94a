"""Looking at the loss along a search direction, and leaving no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from .random_state import RandomState

Closure: TypeAlias = Callable[[], Tensor | float]


class Trials:
    """The loss of the mini-batch as a function of the step size, `phi(eta) = f(w - eta * u)`.

    Inside the `with` block the parameters move. On leaving it they are where they were, to the bit, unless `keep` was
    set and no exception passes through; the global random state is always what it was on entry.

    Args:
        closure: evaluates the loss.
        parameters: the tensors to move.
        updates: what to move them along, uphill.
        random_state: restored before every evaluation; `None` when the closure sees to that itself.
    """

    def __init__(
        self,
        closure: Closure,
        parameters: Sequence[Tensor],
        updates: Sequence[Tensor],
        random_state: RandomState | None,
    ) -> None:
        self.keep = False
        self._closure = closure
        self._parameters = list(parameters)
        self._updates = list(updates)
        self._random_state = random_state

    def __enter__(self) -> Trials:
        self._random_state_on_entry = RandomState.capture({parameter.device for parameter in self._parameters})
        self._originals = [parameter.detach().clone() for parameter in self._parameters]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None or not self.keep:
            torch._foreach_copy_(self._parameters, self._originals)
        self._random_state_on_entry.restore()

    def loss_at(self, step_size: float) -> float:
        """Return `phi(step_size)`."""
        torch._foreach_copy_(self._parameters, self._originals)
        torch._foreach_add_(self._parameters, self._updates, alpha=-step_size)
        if self._random_state is not None:
            self._random_state.restore()
        return float(self._closure())
