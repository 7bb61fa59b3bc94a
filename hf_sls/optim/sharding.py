"""Several processes: the loss is their mean, and of sharded parameters (FSDP2) each has a part; scalars are summed."""

from __future__ import annotations

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
    """Return the process groups over which `tensor` is sharded."""
    if not isinstance(tensor, DTensor):
        return ()
    return tuple(tensor.device_mesh.get_group(axis) for axis, kind in enumerate(tensor.placements) if kind.is_shard())


def mean_over_processes(loss: Tensor | float, device: torch.device) -> Tensor | float:
    """Return the mean of a scalar over all processes; itself where there are not several. A collective call."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return loss
    mean = torch.as_tensor(loss, device=device).detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


def sum_over_shards(value: Tensor, groups: ShardGroups) -> Tensor:
    """Return the sum of a 0-dim tensor over process groups. A collective call."""
    for group in groups:
        torch.distributed.all_reduce(value, group=group)
    return value
