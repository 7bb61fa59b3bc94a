"""Several processes: the loss is their mean, and of sharded parameters (FSDP2) each has a part; scalars are summed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.tensor import DTensor

ShardGroups: TypeAlias = tuple[Any, ...]
"""The process groups that hold the shards of a parameter; empty for one that is whole."""


def local(tensor: Tensor) -> Tensor:
    """Return the part of `tensor` that this process holds, sharing its memory; `tensor` itself if it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_groups(tensor: Tensor) -> ShardGroups:
    """Return the process groups over which `tensor` is sharded.

    A tensor of another library that is a part of a larger one names them in an attribute `shard_groups`.
    """
    if not isinstance(tensor, DTensor):
        return getattr(tensor, "shard_groups", ())
    return tuple(
        tensor.device_mesh.get_group(axis) for axis, kind in enumerate(tensor.placements) if not kind.is_replicate()
    )


def are_several_processes() -> bool:
    """Whether this process is one of several."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def mean_over_processes(loss: Tensor | float, device: torch.device) -> Tensor | float:
    """Return the mean of a scalar over all processes; itself where there are not several. A collective call."""
    if not are_several_processes():
        return loss
    mean = torch.as_tensor(loss, device=device).detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


def mean_of_evaluations(evaluate: Callable[[], Tensor | float], like: Tensor) -> Tensor | float:
    """Return the mean over all processes of the scalar that `evaluate` returns. A collective call.

    An exception on one process is raised on all, so that none waits for it: the sum of the losses also counts the
    processes that failed. A process that failed waits for this sum one minute at most, as collective calls inside
    `evaluate` may keep the others from it.

    Args:
        evaluate: returns a scalar.
        like: a scalar of the data type and the device to sum on.

    Raises:
        RuntimeError: `evaluate` failed on another process; the message is that of the first that did.
    """
    if not are_several_processes():
        return evaluate()
    loss, failure = torch.zeros_like(like, requires_grad=False), None
    try:
        loss = torch.as_tensor(evaluate()).detach().to(like).reshape(())
    except Exception as error:
        failure = error
    total = torch.stack([loss, torch.full_like(loss, failure is not None)])
    try:
        torch.distributed.all_reduce(total, async_op=True).wait(*([timedelta(minutes=1)] if failure else []))
        if total[1]:
            raise _first_failure(failure)
    except Exception:
        if failure is None:
            raise
    if failure is not None:
        raise failure
    return total[0] / torch.distributed.get_world_size()


def _first_failure(failure: Exception | None) -> RuntimeError:
    messages: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(messages, failure and (str(failure) or type(failure).__name__))
    rank, message = next((rank, message) for rank, message in enumerate(messages) if message is not None)
    return RuntimeError(f"The loss could not be evaluated on process {rank}: {message}")


def sum_over_shards(value: Tensor, groups: ShardGroups) -> Tensor:
    """Return the sum of a 0-dim tensor over process groups. A collective call."""
    for group in groups:
        torch.distributed.all_reduce(value, group=group)
    return value
