"""The loss closure: evaluate again what a training step has evaluated, under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from .optim import RandomState
from .optim.sharding import local, mean_over_processes

_LARGEST_INTEGER_BUFFER = 2**20
"""Elements of an integer buffer that may be a count; more are packed weights."""


class LossClosure:
    """The loss of one optimizer step, summed over its micro-batches and averaged over the processes.

    Record each micro-batch as it is evaluated for the gradient; calling the closure evaluates all of them again with
    the parameters of that moment, each from the random state and the buffers it had the first time, and leaves buffers
    (BatchNorm statistics) and moving averages of the parameters as they were.

        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
        >>> inputs = torch.randn(4, 3)
        >>> closure = LossClosure(model)
        >>> loss = closure.record(lambda: model(inputs).square().mean())
        >>> loss.backward()
        >>> bool(closure() == loss)
        True

    Hand it to the `step` of the optimizer, which then neither evaluates the loss for the gradient nor runs backward.

    Args:
        model: the model as it is called in training, wrapped or not.
        divisor: divides the sum over the micro-batches, positive. Pass what the loop divides each loss by before
            backward: under Accelerate `accelerator.gradient_accumulation_steps`, for a shorter last window too.
        trials: whether there will be any; `search_due` of the line-search optimizer says so. If not, only the loss is
            kept.

    Attributes:
        trials: whether it can be evaluated again.
        gradient_scale: true gradient over `.grad`, above 1 when the gradient was clipped; see `clipped`.

    Raises:
        ValueError: `divisor` is not positive.
        RuntimeError: it is called, and was made with `trials=False`.
    """

    def __init__(self, model: nn.Module, divisor: float = 1.0, *, trials: bool = True) -> None:
        if not divisor > 0:
            raise ValueError(f"divisor={divisor!r} is not allowed: a positive number is needed.")
        self.gradient_scale: Tensor | float = 1.0
        self._model = model
        self._divisor = divisor
        self.trials = trials
        self._devices = {parameter.device for parameter in model.parameters()} if trials else set()
        self._micro_batches: list[tuple[Callable[[], Tensor], RandomState, list[_Kept]]] = []
        self._losses: list[Tensor] = []
        self._loss: Tensor | None = None

    def record(self, evaluate: Callable[[], Tensor], replay: Callable[[], Tensor] | None = None) -> Tensor:
        """Evaluate one micro-batch and remember it.

        Args:
            evaluate: returns the loss of the micro-batch, a scalar. It is called again after the loop has moved on, so
                bind the batch to it: `functools.partial(compute_loss, batch)`.
            replay: what a trial calls instead of `evaluate`, if they differ; it has to return the same loss.

        Returns:
            What `evaluate` returned.
        """
        if not self.trials:
            loss = evaluate()
        else:
            random_state, kept = RandomState.capture(self._devices), _kept(self._model)
            with _noticing_what_changes(self._model):
                loss = evaluate()
            self._micro_batches.append((replay or evaluate, random_state, kept))
        self._losses.append(loss.detach().clone())
        self._loss = None
        return loss

    @property
    def loss(self) -> Tensor:
        """The recorded loss, what the closure returned at the parameters it was recorded at. A collective call."""
        if self._loss is None:
            self._loss = self._total(self._losses)
        return self._loss

    def clipped(self, gradient_norm: Tensor | float, max_norm: float) -> None:
        """Say that the gradients were clipped, so that the slope is that of the gradient before.

        Args:
            gradient_norm: what `clip_grad_norm_` returned, the norm before the clipping.
            max_norm: what the gradients were clipped to, positive.

        Raises:
            ValueError: `max_norm` is not positive.
        """
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm!r} is not allowed: a positive number is needed.")
        norm = gradient_norm.full_tensor() if isinstance(gradient_norm, DTensor) else gradient_norm
        self.gradient_scale = torch.clamp((torch.as_tensor(norm) + 1e-6) / max_norm, min=1.0)

    def __call__(self) -> Tensor:
        """Return the loss at the present parameters. A collective call: every process has to make it."""
        if not self.trials:
            raise RuntimeError("This LossClosure cannot be evaluated again: it was made with trials=False.")
        modules = list(self._model.modules())
        with _put_back(_kept(self._model)), _buffers_not_broadcast(modules), _resharded(modules):
            losses = []
            for replay, random_state, kept in self._micro_batches:
                random_state.restore()
                for each in kept:
                    each.restore()
                losses.append(replay().detach().clone())
        return self._total(losses)

    def _total(self, losses: list[Tensor]) -> Tensor:
        """Sum over the micro-batches, in at least fp32, and average over the processes."""
        total = sum(loss.to(torch.promote_types(loss.dtype, torch.float32)) for loss in losses) / self._divisor
        return torch.as_tensor(mean_over_processes(total, losses[0].device))


@dataclass(frozen=True)
class _Kept:
    """A buffer, or a parameter that is not trained, as it was."""

    owner: dict[str, Tensor | None]
    name: str
    tensor: Tensor
    value: Tensor

    def restore(self) -> None:
        self.tensor.copy_(self.value)
        self.owner[self.name] = self.tensor


_CHANGING: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, str]]] = WeakKeyDictionary()
"""By model, its frozen parameters that an evaluation has changed, those of a moving average for one."""


@torch.no_grad()
def _kept(model: nn.Module) -> list[_Kept]:
    """Return what an evaluation may change: buffers, but for packed weights, and parameters that it has changed."""
    buffers = [
        (module._buffers, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and (buffer.is_floating_point() or buffer.numel() <= _LARGEST_INTEGER_BUFFER)
    ]
    frozen = [(module._parameters, name, module._parameters[name]) for module, name in _CHANGING.get(model, [])]
    return [
        _Kept(owner, name, tensor, tensor.detach().clone())  # type: ignore[arg-type]
        for owner, name, tensor in buffers + frozen
        if tensor is not None
    ]


@contextmanager
def _put_back(kept: list[_Kept]) -> Iterator[None]:
    try:
        yield
    finally:
        for each in kept:
            each.restore()


@contextmanager
def _noticing_what_changes(model: nn.Module) -> Iterator[None]:
    """Look once, at the first evaluation of a model, which frozen parameters it changes; by some of their values."""
    if model in _CHANGING:
        yield
        return
    frozen = [
        (module, name, parameter, _some_values(parameter))
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and not parameter.requires_grad
    ]
    yield
    _CHANGING[model] = [
        (module, name) for module, name, parameter, values in frozen if not torch.equal(_some_values(parameter), values)
    ]


def _some_values(parameter: Tensor) -> Tensor:
    flat = local(parameter).detach().reshape(-1)
    return flat[:: max(1, flat.numel() // 16)].clone()


@contextmanager
def _buffers_not_broadcast(modules: list[nn.Module]) -> Iterator[None]:
    """Keep DDP's broadcast of buffers for the next training forward; a forward without gradients would use it up."""
    wrappers = [module for module in modules if isinstance(module, DistributedDataParallel)]
    flags = [wrapper.require_forward_param_sync for wrapper in wrappers]
    for wrapper in wrappers:
        wrapper.require_forward_param_sync = False
    try:
        yield
    finally:
        for wrapper, flag in zip(wrappers, flags):
            wrapper.require_forward_param_sync = flag


@contextmanager
def _resharded(modules: list[nn.Module]) -> Iterator[None]:
    """Drop what FSDP2 has gathered; a forward without gradients would leave it to the next one, which has moved on."""
    try:
        yield
    finally:
        for module in modules:
            if isinstance(module, FSDPModule):
                module.reshard()
