"""The window of one optimizer step: what the Trainer evaluated for it, and how a trial evaluates it again.

A window covers the micro-batches of one optimizer step. It is recorded while the Trainer trains on them, and handed to
the optimizer as its closure::

    training_step          window = StepWindow(trainer, model, trials=optimizer.search_due), at the first micro-batch
                           window.training_step(super().training_step, model, inputs, ...)
    clip_grad_norm_        window.clipped(norm, max_norm)
    on_pre_optimizer_step  optimizer.closure = window
    on_optimizer_step      optimizer.count_if_left_out(); window.close()

The first micro-batch opens the window, not `on_step_begin`: where the end of an epoch cuts a window short, the Trainer
carries its gradient over into the next step, and calls `on_step_begin` in between.
"""

from __future__ import annotations

import copy
from collections import UserDict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from .closure import LossClosure, is_writeable
from .refusals import MOVED, NOT_RECORDED, OWN_BACKWARD

_MISSING = object()
_COUNTS = (bool, int, float, str, tuple, type(None), np.generic)
_MAPPINGS = (dict, UserDict)
_CONTAINERS = (*_MAPPINGS, list, deque, set)
_ARRAYS = (Tensor, np.ndarray)
_LARGEST = 10_000
"""Number of entries above which a container or array of a trainer is taken for data, which no evaluation changes."""


class StepWindow(LossClosure):
    """The loss of one optimizer step of a Trainer, over all its micro-batches.

    A replay calls the Trainer's own `training_step` with backward turned off, so that gradient accumulation, label
    smoothing, autocast and every other scaling rule of the installed version apply to a trial as they did to the step.
    The batch is the one that the step got, before anything changed it, and what the Trainer counts is put back.

    Args:
        trainer: the Trainer that is training.
        model: the model as `training_step` gets it, wrapped or not.
        trials: whether the step will search; if not, only the loss is kept.

    Attributes:
        replaying: whether a trial is evaluating the window now.
    """

    def __init__(self, trainer: Trainer, model: nn.Module, *, trials: bool) -> None:
        super().__init__(model, trials=trials)
        self.replaying = False
        self._trainer = trainer
        self._prepared: list[Any] | Iterator[Any] | None = None

    def training_step(
        self, training_step: Callable[..., Tensor], model: nn.Module, inputs: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run `training_step` on a micro-batch, and record it.

        Args:
            training_step: the Trainer's.
            model: the model to train.
            inputs: the micro-batch.
            *args: passed on to `training_step`, in a replay too.
            **kwargs: passed on likewise.

        Returns:
            What `training_step` returned: the detached loss, a scalar.

        Raises:
            ValueError: `training_step` runs backward itself, not through Accelerate.
        """
        if not self.trials:
            return self.record(lambda: training_step(model, inputs, *args, **kwargs))
        batch, prepared = copied(inputs), list[Any]()
        accumulation_steps = self._trainer.current_gradient_accumulation_steps

        def evaluate() -> Tensor:
            with _temporarily(self, "_prepared", prepared), self._refusing_own_backward(model):
                return training_step(model, inputs, *args, **kwargs)

        def replay() -> Tensor:
            with self._replay(model, prepared, accumulation_steps):
                return training_step(model, copied(batch), *args, **kwargs)

        return self.record(evaluate, replay)

    def _check_unmoved(self) -> None:
        """Raise `ValueError` if a parameter has been written to since the last micro-batch."""
        try:
            super()._check_unmoved()
        except RuntimeError:
            raise MOVED.error() from None

    def record_nothing(self) -> None:
        """Record a loss of NaN, with which the optimizer leaves the step out and counts it as skipped.

        A `training_step` may have left all batches of the step out, those that do not fit into memory for example.
        """
        self._losses.append(torch.full((), float("nan"), device=self._trainer.args.device))

    @property
    def is_empty(self) -> bool:
        """Whether no micro-batch was recorded."""
        return not self._losses

    def prepare_inputs(self, prepare_inputs: Callable[[Any], Any], inputs: Any) -> Any:
        """Return what `_prepare_inputs` returns; in a replay, what it returned when the window was recorded."""
        if self.replaying:
            return copied(next(self._prepared))  # type: ignore[arg-type]
        prepared = prepare_inputs(inputs)
        if isinstance(self._prepared, list):
            self._prepared.append(copied(prepared))
        return prepared

    @contextmanager
    def _refusing_own_backward(self, model: nn.Module) -> Iterator[None]:
        """Refuse a `training_step` that makes the first gradients of the window without Accelerate's backward."""
        accelerator, called = self._trainer.accelerator, list[bool]()
        backward = accelerator.backward

        def noted(loss: Tensor, **kwargs: Any) -> None:
            called.append(True)
            backward(loss, **kwargs)

        with _temporarily(accelerator, "backward", noted):
            yield
        if not called and not self._losses and _gradient_versions(model):
            raise OWN_BACKWARD.error()

    @contextmanager
    def _replay(self, model: nn.Module, prepared: list[Any], accumulation_steps: int) -> Iterator[None]:
        """Set the trainer up for a replay of one micro-batch, and put it back afterwards."""
        trainer = self._trainer
        before = _gradient_versions(model) if torch.is_grad_enabled() else None
        with ExitStack() as stack:
            stack.enter_context(_counts_put_back(trainer))
            stack.enter_context(_temporarily(trainer, "window", self))
            stack.enter_context(_temporarily(trainer, "current_gradient_accumulation_steps", accumulation_steps))
            stack.enter_context(_temporarily(trainer.accelerator, "backward", lambda loss, **kwargs: None))
            stack.enter_context(_temporarily(self, "_prepared", iter(prepared)))
            stack.enter_context(_temporarily(self, "replaying", True))
            yield
        if before is not None and _gradient_versions(model) != before:
            raise OWN_BACKWARD.error()


class WindowCallback(TrainerCallback):
    """Hands the window to the optimizer before its step, and closes it after the step.

    Args:
        trainer: one with `LineSearchTrainerMixin`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        optimizer = self._trainer.line_search_optimizer
        if optimizer is not None:
            if self._trainer.window is None:
                if not optimizer.counts["steps"] or _gradient_versions(self._trainer.model):
                    raise NOT_RECORDED.error()
                self._trainer.window = StepWindow(self._trainer, self._trainer.model_wrapped, trials=False)
            if self._trainer.window.is_empty:
                self._trainer.window.record_nothing()
            optimizer.closure = self._trainer.window
            if self._trainer.is_deepspeed_enabled:
                engine = self._trainer.model_wrapped
                engine.optimizer.optimizer.search(engine, self._trainer.window)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        optimizer = self._trainer.line_search_optimizer
        if optimizer is not None:
            optimizer.count_if_left_out()
        self._trainer._close_window()


def _gradient_versions(model: nn.Module) -> list[tuple[int, int]]:
    """Return which gradients there are, and how often each was changed in place."""
    gradients = (parameter.grad for parameter in model.parameters())
    return [(id(gradient), gradient._version) for gradient in gradients if gradient is not None]


class _Array:
    """A tensor or array and its values now."""

    def __init__(self, array: Tensor | np.ndarray) -> None:
        self._array = array
        self._values: Any = array.clone() if isinstance(array, Tensor) else array.copy()

    def restore(self) -> Any:
        """Put the values back into the array, if it can be written to; return it."""
        if isinstance(self._array, np.ndarray):
            if self._array.flags.writeable:
                self._array[...] = self._values
        elif is_writeable(self._array):
            self._array.data.copy_(self._values)
        return self._array

    def copy(self) -> Any:
        """Return a copy of the values."""
        return self._values


class _Snapshot:
    """A container and what it holds now, nested containers, tensors and arrays included."""

    def __init__(self, container: Any) -> None:
        self._container = container
        mapping = isinstance(container, _MAPPINGS)
        entries = container.items() if mapping else enumerate(container)
        self._entries = [(key, _snapshot(value)) for key, value in entries]

    def restore(self) -> Any:
        """Put the same objects back into the same containers; return the container."""
        held = {key: value.restore() if _is_snapshot(value) else value for key, value in self._entries}
        now = self._container
        if isinstance(now, tuple):
            return now
        present = dict(now.items() if isinstance(now, _MAPPINGS) else enumerate(now))
        if present.keys() != held.keys() or any(present[key] is not value for key, value in held.items()):
            _fill(now, held)
        return now

    def copy(self) -> Any:
        """Return a copy that shares no container and no tensor with the original."""
        held = {key: value.copy() if _is_snapshot(value) else value for key, value in self._entries}
        if isinstance(self._container, tuple):
            make = getattr(self._container, "_make", type(self._container))
            return make(list(held.values()))
        duplicate = copy.copy(self._container)
        _fill(duplicate, held)
        return duplicate


def _snapshot(value: Any) -> Any:
    """Return a snapshot of what can change in place, and anything else as it is."""
    if isinstance(value, (*_CONTAINERS, tuple)):
        return _Snapshot(value)
    return _Array(value) if isinstance(value, _ARRAYS) else value


def _is_snapshot(value: Any) -> bool:
    return isinstance(value, (_Snapshot, _Array))


def _fill(container: Any, held: dict[Any, Any]) -> None:
    container = container.data if isinstance(container, UserDict) else container
    container.clear()
    if isinstance(container, dict):
        for key, value in held.items():
            container[key] = value
    elif isinstance(container, set):
        container.update(held.values())
    else:
        container.extend(held.values())


def copied(value: Any) -> Any:
    """Return a copy of nested inputs, of their containers, tensors and arrays; anything else in them is shared."""
    snapshot = _snapshot(value)
    return snapshot.copy() if _is_snapshot(snapshot) else value


def _is_small(value: Any) -> bool:
    """Whether a container or array has at most `_LARGEST` entries, those of nested ones included."""
    entries, inside = 0, [value]
    while inside:
        each = inside.pop()
        if isinstance(each, _ARRAYS):
            entries += each.size if isinstance(each, np.ndarray) else each.numel()
        else:
            entries += len(each)
        if entries > _LARGEST:
            return False
        if isinstance(each, (*_CONTAINERS, tuple)):
            values = each.values() if isinstance(each, _MAPPINGS) else each
            inside += [value for value in values if isinstance(value, (*_CONTAINERS, *_ARRAYS, tuple))]
    return True


@contextmanager
def _counts_put_back(trainer: Trainer) -> Iterator[None]:
    """Put back the attributes of a trainer that are numbers, containers or arrays, and what these hold.

    What large ones hold is left out, and datasets, which may be lists: no evaluation changes it.
    """
    attributes = {name: value for name, value in vars(trainer).items() if not name.endswith("dataset")}
    held = {
        name: _snapshot(value)
        for name, value in attributes.items()
        if isinstance(value, (*_CONTAINERS, *_ARRAYS)) and _is_small(value)
    }
    counts = {
        name: value for name, value in attributes.items() if isinstance(value, (*_COUNTS, *_CONTAINERS, *_ARRAYS))
    }
    try:
        yield
    finally:
        for snapshot in held.values():
            snapshot.restore()
        for name, value in counts.items():
            setattr(trainer, name, value)


@contextmanager
def _temporarily(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance for the length of the block."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
