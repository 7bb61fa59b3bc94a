"""The loss along a search direction, evaluated without a trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from .criterion import Line
from .events import SearchResult
from .path import Path
from .random_state import RandomState

Closure: TypeAlias = Callable[[], Tensor | float]

_NOT_A_LOSS = (
    "In a trial closure() returned {}. It has to return the loss of the mini-batch, a scalar, whenever called."
)
_SECOND_TIME = (
    "The line search had called the closure again for the same mini-batch. If it fails only then, look for what the "
    'first call uses up, such as batch.pop("labels"), and let it work on a copy.'
)


@runtime_checkable
class RecordedLoss(Protocol):
    """A closure whose loss was already evaluated, with its gradients in `.grad`, such as `hf_sls.LossClosure`.

    It may have an attribute `rounding`, the relative spacing of the coarsest numbers that the model computes with. The
    first search then checks no decrease that this rounding can hide.
    """

    gradient_scale: Tensor | float
    """True gradient over `.grad`, above 1 when the gradient was clipped; it scales the slope back."""

    @property
    def loss(self) -> Tensor | float:
        """The loss that the gradients belong to."""
        ...

    def __call__(self) -> Tensor | float:
        """Return the loss at the present parameters."""
        ...


@dataclass
class Batch:
    """What a step knows of its mini-batch.

    Attributes:
        closure: evaluates the loss again.
        loss: the loss at the current parameters, whose gradients are in `.grad`.
        gradient_scale: true gradient over `.grad`.
        random_state: restored before every evaluation; `None` when the closure sees to that itself.
        with_gradients: whether the closure has to be evaluated with gradients on; found out where it fails without.
        skip: 0-dim tensor, 1.0 where the loss or a gradient is not finite, else 0.0.
    """

    closure: Closure
    loss: Tensor | float
    gradient_scale: Tensor | float = 1.0
    random_state: RandomState | None = None
    with_gradients: bool = False
    skip: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def rounding(self) -> float:
        """The relative spacing of the floating-point numbers that the loss is one of."""
        dtype = self.loss.dtype if isinstance(self.loss, Tensor) and self.loss.is_floating_point() else torch.float64
        return torch.finfo(dtype).eps


@dataclass(frozen=True)
class FinishedSearch:
    """A search whose step is not taken yet, or the step of a batch that has looked back (`LookBack`), for an observer.

    Attributes:
        step: number of the optimizer step, from 1.
        loss: the loss before the step, `f(w)`.
        slope: `s = -<g, p>`.
        line: the line of acceptance.
        tried: step size and loss of each trial, in order.
        result: how the search ended.
        loss_at: the loss of the mini-batch as a function of the step size; a forward pass, and a collective call.
    """

    step: int
    loss: float
    slope: float
    line: Line
    tried: list[tuple[float, float]]
    result: SearchResult
    loss_at: Callable[[float], float]


Observer: TypeAlias = Callable[[FinishedSearch], None]


class Trials:
    """The loss of the mini-batch as a function of the step size, `phi(eta) = f(w - eta * u)`.

    Inside the `with` block the parameters move. On leaving it they are back at w, unless `take` was called and no
    exception passes through; the global random state is always what it was on entry.

    Args:
        batch: evaluates the loss.
        path: moves the parameters.
    """

    def __init__(self, batch: Batch, path: Path) -> None:
        self.batch = batch
        self._path = path
        self._taken = False
        self.tried: list[tuple[float, float]] = []

    @property
    def rounding(self) -> float:
        """The relative spacing of the coarsest numbers among the loss, the parameters and those of the whole model."""
        of_model: float = getattr(self.batch.closure, "rounding", 0.0)
        return max(self.batch.rounding, self._path.rounding, of_model)

    def __enter__(self) -> Trials:
        self._random_state_on_entry = RandomState.capture(self._path.devices)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None or not self._taken:
                self._path.go_to(0.0)
        finally:
            torch.clear_autocast_cache()
            self._random_state_on_entry.restore()

    def loss_at(self, step_size: float) -> float:
        """Return `phi(step_size)`."""
        self._path.go_to(step_size)
        loss = self.loss_here()
        self.tried.append((step_size, loss))
        return loss

    def go_to(self, step_size: float) -> None:
        """Go to `w - step_size * u` without evaluating the loss."""
        self._path.go_to(step_size)

    def loss_here(self) -> float:
        """Return the loss where the parameters are.

        Under an autocast that the caller has open, its cache holds casts of the parameters where they were before.
        """
        try:
            loss = self._evaluate()
        except Exception as error:
            if self.batch.with_gradients or not re.search(r"\bgrad", str(error)):
                if hasattr(error, "add_note"):  # from Python 3.11
                    error.add_note(_SECOND_TIME)
                raise
            self.batch.with_gradients = True  # on other processes too, which raise the same message
        else:
            return _as_number(loss)
        return self.loss_here()

    def _evaluate(self) -> Any:
        torch.clear_autocast_cache()
        if self.batch.random_state is not None:
            self.batch.random_state.restore()
        with torch.set_grad_enabled(self.batch.with_gradients):
            return self.batch.closure()

    def take(self) -> None:
        """Take the present step."""
        self._path.take()
        self._taken = True


def _as_number(loss: Any) -> float:
    if isinstance(loss, Tensor):
        if loss.numel() != 1 or loss.is_complex() or loss.is_meta:
            raise RuntimeError(_NOT_A_LOSS.format(f"a {loss.dtype} tensor of the shape {tuple(loss.shape)}"))
        return float(loss.detach())
    if not isinstance(loss, Real):
        raise RuntimeError(_NOT_A_LOSS.format(repr(loss)))
    return float(loss)
