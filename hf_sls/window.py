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

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from .closure import LossClosure
from .optim.sharding import local
from .refusals import MOVED, NOT_RECORDED, OWN_BACKWARD
from .snapshots import Attributes, copied, storages

_MISSING = object()


class StepWindow(LossClosure):
    """The loss of one optimizer step of a Trainer, over all its micro-batches.

    A replay calls the Trainer's own `training_step` with backward turned off, so that gradient accumulation, label
    smoothing, autocast and every other scaling rule of the installed version apply to a trial as they did to the step.
    The batch is the one that the step got, before anything changed it, and what the Trainer counts is put back before
    and after.

    Args:
        trainer: the Trainer that is training.
        model: the model as `training_step` gets it, wrapped or not.
        trials: whether the step will search; if not, only the loss is kept.

    Attributes:
        replaying: whether a trial is evaluating the window now.
    """

    def __init__(self, trainer: Trainer, model: nn.Module, *, trials: bool) -> None:
        super().__init__(model, trials=trials)
        if trials:
            groups = trainer.line_search_optimizer.param_groups
            self._storages |= storages(local(parameter) for group in groups for parameter in group["params"])
            modules = (value for value in vars(trainer).values() if isinstance(value, nn.Module))
            self._others = [module for module in modules if module.training]
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
        batch, prepared, attributes = copied(inputs), list[Any](), self._attributes()
        accumulation_steps = self._trainer.current_gradient_accumulation_steps

        def evaluate() -> Tensor:
            with _temporarily(self, "_prepared", prepared), self._refusing_own_backward(model):
                return training_step(model, inputs, *args, **kwargs)

        def replay() -> Tensor:
            with self._replay(model, prepared, attributes, accumulation_steps):
                return training_step(model, copied(batch), *args, **kwargs)

        return self.record(evaluate, replay)

    def _check_unmoved(self) -> None:
        """Raise `ValueError` if a parameter has been written to since the last micro-batch."""
        try:
            super()._check_unmoved()
        except RuntimeError:
            raise MOVED.error() from None

    @torch.no_grad()
    def _attributes(self) -> Attributes:
        """Save what the trainer counts and keeps; but for its datasets, which no evaluation changes."""
        own = vars(self._trainer)
        return Attributes(own, {name for name in own if name.endswith("dataset")}, self._storages)

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
    def _replay(
        self, model: nn.Module, prepared: list[Any], attributes: Attributes, accumulation_steps: int
    ) -> Iterator[None]:
        """Set the trainer up for a replay of one micro-batch, as it was before, and put it back afterwards."""
        trainer = self._trainer
        before = _gradient_versions(model) if torch.is_grad_enabled() else None
        with ExitStack() as stack:
            stack.callback(self._attributes().restore)
            attributes.restore()
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
