"""The loss closure: evaluate again what a training step has evaluated, under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from .optim import RandomState


class LossClosure:
    """The loss of one optimizer step, summed over its micro-batches and averaged over the processes.

    Record each micro-batch as it is evaluated for the gradient; calling the closure evaluates all of them again with
    the parameters of that moment, each from the random state it had the first time, and leaves buffers (BatchNorm
    statistics) as they were.

        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
        >>> inputs = torch.randn(4, 3)
        >>> closure = LossClosure(model)
        >>> loss = closure.record(lambda: model(inputs).square().mean())
        >>> loss.backward()
        >>> bool(closure() == loss)
        True

    Args:
        model: the model as it is called in training, wrapped or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._devices = {parameter.device for parameter in model.parameters()}
        self._micro_batches: list[tuple[Callable[[], Tensor], RandomState]] = []
        self._losses: list[Tensor] = []
        self._loss: Tensor | None = None
        self._offset: Tensor | float = 0.0

    def record(self, evaluate: Callable[[], Tensor], replay: Callable[[], Tensor] | None = None) -> Tensor:
        """Evaluate one micro-batch and remember it.

        Args:
            evaluate: returns the loss of the micro-batch, a scalar, already divided by the number of micro-batches.
            replay: what a trial calls instead of `evaluate`, if they differ; it has to return the same loss.

        Returns:
            What `evaluate` returned.
        """
        random_state = RandomState.capture(self._devices)
        loss = evaluate()
        self._micro_batches.append((replay or evaluate, random_state))
        self._losses.append(loss.detach())
        self._loss = None
        return loss

    @property
    def loss(self) -> Tensor:
        """The recorded loss, what the closure returned at the parameters it was recorded at. A collective call."""
        if self._loss is None:
            self._loss = _total(self._losses)
        return self._loss

    def rebase(self) -> None:
        """Evaluate now, and from here on return the recorded loss plus the change since.

        For replays that evaluate a part of the batch only: what they say of the change is taken for the whole.
        """
        random_state = RandomState.capture(self._devices)
        self._offset = self.loss - self._evaluate()
        random_state.restore()

    def __call__(self) -> Tensor:
        """Return the loss at the present parameters. A collective call: every process has to make it."""
        return self._evaluate() + self._offset

    @torch.no_grad()
    def _evaluate(self) -> Tensor:
        with _buffers_kept(self._model), _buffers_not_broadcast(self._model), _resharded(self._model):
            losses = []
            for replay, random_state in self._micro_batches:
                random_state.restore()
                losses.append(replay().detach())
        return _total(losses)


def _total(losses: list[Tensor]) -> Tensor:
    """Sum over the micro-batches, in at least fp32, and average over the processes."""
    total = sum(loss.to(torch.promote_types(loss.dtype, torch.float32)) for loss in losses)
    assert isinstance(total, Tensor)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total = total.clone()
        torch.distributed.all_reduce(total)
        total /= torch.distributed.get_world_size()
    return total


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            buffer.copy_(value)
            module._buffers[name] = buffer


@contextmanager
def _buffers_not_broadcast(model: nn.Module) -> Iterator[None]:
    """Keep DDP's broadcast of buffers for the next training forward; a forward without gradients would use it up."""
    wrappers = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    flags = [wrapper.require_forward_param_sync for wrapper in wrappers]
    for wrapper in wrappers:
        wrapper.require_forward_param_sync = False
    try:
        yield
    finally:
        for wrapper, flag in zip(wrappers, flags):
            wrapper.require_forward_param_sync = flag


@contextmanager
def _resharded(model: nn.Module) -> Iterator[None]:
    """Drop what FSDP2 has gathered; a forward without gradients would leave it to the next one, which has moved on."""
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
