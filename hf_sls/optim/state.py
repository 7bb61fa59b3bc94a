"""What an optimizer remembers in its groups, and whether a state dict fits it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import isnan
from typing import Any

import torch
from torch import Tensor

from .search import Memory, Rules
from .watch import Watch

_OWN_KEYS = ("lr", "weight_decay", "step_size", "line_search")
_EVENTS = ("steps", "searches", "accepted", "trials", "checks", "backtracks", "skipped_steps")
"""What is counted. The sums beside the counts may be negative: a loss may rise within the tolerance of a criterion."""


def new_memory(rules: Rules, watch: Watch | None) -> Memory:
    """Return what a group remembers before the first step, under the key `line_search`."""
    return {
        "has_found_a_step": False,
        "with_gradients": False,
        "counts": dict.fromkeys(_EVENTS, 0) | {"loss_decrease": 0.0, "slope": 0.0, "criterion_ratio": 0.0},
        "criterion": rules.criterion.new_memory(),
        "initial_step": rules.initial_step.new_memory(),
        "cadence": rules.cadence.new_memory(),
        "watch": watch.new_memory() if watch is not None else {},
    }


def checked_groups(state_dict: Any, optimizer: Any, expected: Memory) -> list[dict[str, Any]]:
    """Check that a state dict fits `optimizer`, and return its groups, completed.

    Args:
        state_dict: what to load.
        optimizer: the line-search optimizer to load it into.
        expected: the memory of a new one.

    Raises:
        ValueError: it is of another optimizer, of other parameters, or has a number that no run can have left.
    """

    def refuse(reason: str) -> ValueError:
        return ValueError(
            f"This state dict is not one of {type(optimizer).__name__}: {reason}. Load it into the optimizer that "
            "saved it, or start this one afresh."
        )

    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
        raise refuse("it has no state and param_groups")
    if not isinstance(state_dict["state"], dict) or not state_dict["param_groups"]:
        raise refuse("its state or its param_groups are empty")
    groups = [_completed(group, expected["counts"]) for group in state_dict["param_groups"]]
    for group in groups:
        missing = [key for key in _OWN_KEYS if key not in group]
        memory = group.get("line_search", {})
        if missing or _names(memory) != _names(expected):
            raise refuse(f"its groups have no {missing}" if missing else f"its search memory is {_names(memory)}")
        for name, value in chain([("step_size", group["step_size"]), ("lr", group["lr"])], _numbers(memory)):
            if isnan(value) or (value < 0 and name in ("step_size", "lr", *_EVENTS)):
                raise refuse(f"its {name} is {value}, where a number that is finite and not negative is needed")
    _check_moments(state_dict, groups, optimizer, refuse)
    return groups


def _check_moments(state_dict: dict[str, Any], groups: list[dict[str, Any]], optimizer: Any, refuse: Any) -> None:
    """Raise the error that `refuse` makes if a moment does not fit its parameter."""
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        return  # torch says so
    new = [[_new_moments(optimizer, parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    known = {frozenset(moments) for group in new for moments in group}
    saved = {frozenset(state) for state in state_dict["state"].values() if state}
    counts = groups[0]["line_search"]["counts"]
    forgotten = not saved and any(known) and counts["steps"] > counts["skipped_steps"]
    if not saved <= known or forgotten:
        found, needed = (sorted(set().union(*names)) or "none" for names in (saved, known))
        raise refuse(f"its moments are {found}, not {needed}")
    for group, own, expected_moments in zip(groups, optimizer.param_groups, new):
        names = own.get("param_names", [])
        for position, (key, new_moments) in enumerate(zip(group["params"], expected_moments)):
            moments = state_dict["state"].get(key, {})
            called = repr(names[position]) if position < len(names) else f"number {position}"
            for name, expected in new_moments.items():
                value = moments.get(name)
                if not isinstance(value, Tensor):
                    continue
                if value.shape != expected.shape:
                    raise refuse(
                        f"{name} of parameter {called} has the shape {tuple(value.shape)}, not {tuple(expected.shape)}"
                    )
                if value.is_floating_point() and not bool(torch.isfinite(value.sum(dtype=torch.float32))):
                    raise refuse(f"{name} of parameter {called} is not finite")


def _new_moments(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    moments: dict[str, Tensor] = optimizer.direction.new_state(
        torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    )
    return moments


def _numbers(memory: Memory) -> Iterator[tuple[str, float]]:
    for name, value in memory.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        else:
            yield name, value


def _completed(group: dict[str, Any], counts: dict[str, float]) -> dict[str, Any]:
    """Return a saved group with what it lacks: counts of a later version, and empty memories.

    torch.distributed.checkpoint drops an empty dict.
    """
    memory = group.get("line_search", {})
    if "counts" not in memory:
        return group
    counts = {**dict.fromkeys(counts, 0), **memory["counts"]}
    empty: dict[str, Any] = {name: {} for name in ("criterion", "initial_step", "cadence", "watch")}
    return {**group, "line_search": {**empty, **memory, "counts": counts}}


def _names(memory: dict[str, Any]) -> dict[str, Any]:
    return {key: _names(value) if isinstance(value, dict) else None for key, value in memory.items()}
