"""One run in plain PyTorch, in one process or, with FSDP2 or DDP, in each of a process group."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hf_sls import LossClosure, create_optimizer
from tests.conftest import language_rows, tiny_gpt2

HALF = 4


def loss_of(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the loss of the language model."""
    return model(inputs, labels=inputs).loss


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train for eight steps with the optimizer that the settings name, and return losses, step sizes and counts.

    With `save` training stops half-way and the state goes to that file; with `load` it starts from there. With `ddp`
    the optimizer does all of a step, in the plainest form that there is.
    """
    plain, optim = settings.pop("ddp", False), settings.pop("optim")
    saved, loaded = settings.pop("save", None), settings.pop("load", None)
    several = dist.is_initialized()
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if several else (1, 0)
    model = tiny_gpt2(dropout=0.0)
    if several and plain:
        model = DistributedDataParallel(model)
    elif several:
        mesh = init_device_mesh("cpu", (world_size,))
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = create_optimizer(optim, model.parameters(), **settings)
    rows = language_rows(64).rows
    losses, step_sizes = [], []
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if loaded is not None:
        parameters, state = torch.load(loaded, weights_only=True)
        set_state_dict(model, optimizer, model_state_dict=parameters, optim_state_dict=state, options=whole)
    for step in range(8)[HALF if loaded else 0 : HALF if saved else 8]:
        batch = rows[8 * step : 8 * step + 8][rank::world_size]
        inputs = torch.stack([row["input_ids"] for row in batch])
        evaluate = partial(loss_of, model, inputs)
        if plain:
            losses.append(float(optimizer.step(evaluate)))
        else:
            closure = LossClosure(model)
            optimizer.zero_grad()
            closure.record(evaluate).backward()
            optimizer.step(closure, loss=closure.loss)
            losses.append(float(closure.loss))
        step_sizes.append(optimizer.param_groups[0]["step_size"])
    if saved is not None:
        state_dicts = get_state_dict(model, optimizer, options=whole)
        if rank == 0:
            torch.save(state_dicts, saved)
    return {"losses": losses, "step_sizes": step_sizes, "counts": optimizer.counts}
