"""`LossClosure`: evaluate the loss of a training step again, under the conditions of the first evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from .optim import RandomState
from .optim._tensors import coarsest_spacing
from .optim._validation import check_range
from .optim.sharding import local, mean_of_evaluations, mean_over_processes
from .snapshots import Attributes, is_writeable, storages

_LARGEST_INTEGER_BUFFER = 2**20
"""Number of elements above which an integer buffer is taken for packed weights, which no forward pass changes."""


class LossClosure:
    """The loss of one optimizer step, summed over its micro-batches and averaged over the processes.

    Record each micro-batch as you evaluate it for the gradient. Calling the closure then evaluates all of them again at
    the current parameters, each from the random state, the buffers and the attributes of modules that its first
    evaluation started from, under the same autocast. Afterwards these and frozen parameters that a forward pass updates
    (an EMA teacher) are as they were before the call. `hf_sls.snapshots` says which attributes count.

        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.5))
        >>> inputs = torch.randn(4, 3)
        >>> closure = LossClosure(model)
        >>> loss = closure.record(lambda: model(inputs).square().mean())
        >>> loss.backward()
        >>> bool(closure() == loss)
        True

    Pass it to `optimizer.step`, which then leaves the evaluation for the gradient and backward to you.

    Args:
        model: the model as it is called in training, wrapped or not.
        divisor: divides the sum over the micro-batches; positive. Pass what the loop divides each loss by before
            backward: under Accelerate `accelerator.gradient_accumulation_steps`, for a shorter last window too.
        trials: whether the step will search, which `search_due` of the optimizer says. If `False`, only the loss is
            kept, and calling the closure raises `RuntimeError`.

    Attributes:
        trials: whether the closure can be called.
        gradient_scale: norm of the gradient over that of `.grad`; above 1 when the gradient was clipped, see `clipped`.

    Raises:
        ValueError: `divisor` is not a positive number.
        TypeError: `model` is not a module.
    """

    def __init__(self, model: nn.Module, divisor: float = 1.0, *, trials: bool = True) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model of type {type(model).__name__} is not allowed: an nn.Module is needed.")
        divisor = divisor.item() if hasattr(divisor, "item") else divisor  # of numpy or torch
        check_range("divisor", divisor, low=0.0, include_low=False)
        self.gradient_scale: Tensor | float = 1.0
        self._model = model
        self._others: list[nn.Module] = []
        self._storages = storages(map(local, model.parameters())) if trials else frozenset[int]()
        self._divisor = divisor
        self.trials = trials
        self._devices = {parameter.device for parameter in model.parameters()} if trials else set()
        self._micro_batches: list[_MicroBatch] = []
        self._losses: list[Tensor] = []
        self._loss: Tensor | None = None
        self._versions: dict[int, int] = {}

    def record(self, evaluate: Callable[[], Tensor], replay: Callable[[], Tensor] | None = None) -> Tensor:
        """Evaluate one micro-batch, and remember how to evaluate it again.

        Args:
            evaluate: returns the loss of the micro-batch, a scalar. It is called again after the loop has moved on, so
                bind the batch to it: `functools.partial(compute_loss, batch)`.
            replay: called in trials instead of `evaluate`; has to return the same loss. Default: `evaluate`.

        Returns:
            What `evaluate` returned.

        Raises:
            TypeError: `evaluate` is not a function, or does not return a scalar tensor.
            RuntimeError: a search has moved the parameters since the last micro-batch, so a step has used the closure.
        """
        if not callable(evaluate):
            raise TypeError(f"record({evaluate!r}) is not allowed: a function that returns the loss is needed.")
        if self._losses:
            self._check_unmoved()
        if not self.trials:
            loss = _checked(evaluate())
        else:
            random_state, saved = RandomState.capture(self._devices), self._saved()
            autocast = _present_autocast({device.type for device in self._devices} | {"cpu"})
            with _detecting_updated_parameters(self._model):
                loss = _checked(evaluate())
            saved = _without_set_up(saved)
            self._micro_batches.append(_MicroBatch(replay or evaluate, random_state, saved, autocast))
        self._versions = _versions(self._model)
        self._losses.append(loss.detach().clone())
        self._loss = None
        return loss

    def _check_unmoved(self) -> None:
        """Raise `RuntimeError` if a parameter has been written to since the last micro-batch."""
        now = _versions(self._model)
        if any(now.get(each, version) != version for each, version in self._versions.items()):
            raise RuntimeError(
                "record() was called after the parameters had moved. A LossClosure serves one step: make a new one for "
                "each, before its first micro-batch."
            )

    def close(self) -> None:
        """Free the micro-batches after the step; calling the closure then raises `RuntimeError`."""
        self.trials = False
        self._micro_batches.clear()

    @property
    def loss(self) -> Tensor:
        """The recorded loss: what the closure returns at the parameters it was recorded at. A collective call."""
        if not self._losses:
            raise RuntimeError("This LossClosure has no micro-batch: call record() before the step.")
        if self._loss is None:
            total = self._sum(self._losses)
            self._loss = torch.as_tensor(mean_over_processes(total, total.device))
        return self._loss

    @property
    def rounding(self) -> float:
        """The relative spacing of the numbers in which the model keeps its coarsest parameter, frozen or not."""
        return coarsest_spacing(self._model.parameters())

    def clipped(self, gradient_norm: Tensor | float, max_norm: float) -> None:
        """Tell the search that the gradients were clipped, so that it scales the slope back.

        Args:
            gradient_norm: the norm before clipping, as `clip_grad_norm_` returns it.
            max_norm: the norm that the gradients were clipped to; positive.

        Raises:
            ValueError: `max_norm` is not positive.
        """
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm!r} is not allowed: a positive number is needed.")
        norm = gradient_norm.full_tensor() if isinstance(gradient_norm, DTensor) else gradient_norm
        self.gradient_scale = torch.clamp((torch.as_tensor(norm) + 1e-6) / max_norm, min=1.0)

    def __call__(self) -> Tensor:
        """Return the loss at the current parameters. A collective call: every process has to make it.

        An exception on one process is raised on all of them.
        """
        if not self.trials:
            raise RuntimeError("This LossClosure cannot be evaluated again: made with trials=False, or closed.")
        return torch.as_tensor(mean_of_evaluations(self._replayed, like=self._sum(self._losses)))

    def _replayed(self) -> Tensor:
        """Return the loss of this process at the current parameters."""
        modules = list(self._model.modules())
        with _restored_afterwards(self._saved()), _buffers_not_broadcast(modules), _resharded(modules):
            return self._sum([micro_batch.loss() for micro_batch in self._micro_batches])

    @torch.no_grad()
    def _saved(self) -> list[_Saved | Attributes]:
        """Save what an evaluation may change in the model and in modules beside it; not what DDP itself counts."""
        modules = {id(module): module for root in (self._model, *self._others) for module in root.modules()}
        attributes = [
            Attributes(vars(module), _OF_EVERY_MODULE, self._storages)
            for module in modules.values()
            if not isinstance(module, DistributedDataParallel)
        ]
        return [*_saved_tensors(list(modules.values()), self._model), *attributes]

    def _sum(self, losses: list[Tensor]) -> Tensor:
        """Return the sum over the micro-batches, divided by `divisor`, in fp32 or higher precision."""
        total = sum(loss.to(torch.promote_types(loss.dtype, torch.float32)) for loss in losses) / self._divisor
        return torch.as_tensor(total)


def _checked(loss: Any) -> Tensor:
    """Return the loss; raise `TypeError` if it is no scalar tensor."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"The function given to record() returned a {type(loss).__name__}, not the loss, a tensor.")
    if loss.dim():
        raise TypeError(f"The function given to record() returned a tensor of shape {tuple(loss.shape)}, not a scalar.")
    return loss


def _versions(model: nn.Module) -> dict[int, int]:
    """Return how often each trainable parameter was written to, by its id."""
    return {id(parameter): parameter._version for parameter in model.parameters() if parameter.requires_grad}


@dataclass(frozen=True)
class _Saved:
    """A buffer or frozen parameter of a module, and its value at one moment.

    Without a copy the name is bound to the same tensor again, and what was written into that stays.
    """

    owner: dict[str, Any]
    name: str
    held: Any
    copy: Tensor | None = None

    def restore(self) -> None:
        if self.copy is not None:
            self.held.copy_(self.copy)
        self.owner[self.name] = self.held


@dataclass(frozen=True)
class _MicroBatch:
    """How to evaluate a micro-batch again, and the state that its first evaluation started from."""

    replay: Callable[[], Tensor]
    random_state: RandomState
    saved: list[_Saved | Attributes]
    autocast: list[torch.autocast]

    def loss(self) -> Tensor:
        self.random_state.restore()
        for each in self.saved:
            each.restore()
        with ExitStack() as stack:
            for context in self.autocast:
                stack.enter_context(context)
            return self.replay().detach().clone()


def _present_autocast(device_types: set[str]) -> list[torch.autocast]:
    """Return context managers that set autocast to what it is now."""
    return [
        torch.autocast(
            device_type,
            dtype=torch.get_autocast_dtype(device_type),
            enabled=torch.is_autocast_enabled(device_type),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        for device_type in sorted(device_types - {"meta"})
    ]


_UPDATED_PARAMETERS: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()
"""By model, the names of the frozen parameters that a forward pass updates: those of an EMA teacher, for example."""


_OF_EVERY_MODULE = vars(nn.Module()).keys()
"""The attributes that hold parameters, buffers, modules and hooks, or say whether the module trains."""


def _saved_tensors(modules: list[nn.Module], model: nn.Module) -> list[_Saved]:
    """Save the buffers of the modules, except packed weights, and `_UPDATED_PARAMETERS` of the model."""
    owners: list[tuple[dict[str, Any], str, Tensor | None]] = [
        (module._buffers, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None and (buffer.is_floating_point() or buffer.numel() <= _LARGEST_INTEGER_BUFFER)
    ]
    paths = _UPDATED_PARAMETERS.get(model, [])
    by_name = dict(model.named_modules()) if paths else {}
    for path in paths:
        module_path, _, name = path.rpartition(".")
        if module_path in by_name and name in by_name[module_path]._parameters:
            owners.append((by_name[module_path]._parameters, name, by_name[module_path]._parameters[name]))
    return [_Saved(owner, name, value, _copy(value)) for owner, name, value in owners if value is not None]


def _without_set_up(saved: list[_Saved | Attributes]) -> list[_Saved | Attributes]:
    """Leave out the modules that the evaluation has set up, which a flag of theirs says: they stay as it left them."""
    owners = [each.owner for each in saved if isinstance(each, Attributes) and each.is_set_up()]
    left_out = {id(owner) for owner in owners} | {id(owner["_buffers"]) for owner in owners}
    return [each for each in saved if id(each.owner) not in left_out]


def _copy(tensor: Tensor) -> Tensor | None:
    return tensor.detach().clone() if is_writeable(tensor) else None


@contextmanager
def _restored_afterwards(saved: list[_Saved | Attributes]) -> Iterator[None]:
    try:
        yield
    finally:
        for each in saved:
            each.restore()


@contextmanager
def _detecting_updated_parameters(model: nn.Module) -> Iterator[None]:
    """At the first evaluation of a model, find the frozen parameters that it updates, by a sample of their values."""
    if model in _UPDATED_PARAMETERS:
        yield
        return
    before = {name: (p, _sample(p)) for name, p in model.named_parameters() if not p.requires_grad}
    yield
    _UPDATED_PARAMETERS[model] = [name for name, (p, sample) in before.items() if not torch.equal(_sample(p), sample)]


def _sample(parameter: Tensor) -> Tensor:
    flat = local(parameter).detach().reshape(-1)
    return flat[:: max(1, flat.numel() // 16)].clone()


@contextmanager
def _buffers_not_broadcast(modules: list[nn.Module]) -> Iterator[None]:
    """Leave DDP's broadcast of buffers to the next training forward; a forward without gradients would use it up."""
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
    """Reshard FSDP2 modules afterwards, as the next forward would use the parameters gathered for this one."""
    try:
        yield
    finally:
        for module in modules:
            if isinstance(module, FSDPModule):
                module.reshard()
