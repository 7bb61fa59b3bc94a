"""What an optimizer remembers in its groups, and whether a state dict fits it."""

from __future__ import annotations

from math import inf
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ._validation import LARGEST
from .search import Memory, Rules
from .watch import Watch

_OWN_KEYS = ("params", "lr", "weight_decay", "step_size", "line_search")
_NOT_NEGATIVE = (
    *("step_size", "last_step_size", "lr", "largest_lr", "weight_decay"),
    *("slow", "fast", "squares", "least_variance", "Q"),
)
_NOT_NEGATIVE_MOMENTS = ("step", "exp_avg_sq", "max_exp_avg_sq", "sum")
_EVENTS = ("steps", "searches", "accepted", "trials", "checks", "backtracks", "skipped_steps")
"""What is counted. The sums beside the counts may be negative: a loss may rise within the tolerance of a criterion."""


def new_memory(rules: Rules, watch: Watch | None) -> Memory:
    """Return what a group remembers before the first step, under the key `line_search`.

    The memories of the rules, and of the last step, are of the group. The rest is of the whole optimizer, and the same
    in all groups: `has_found_a_step`, `with_gradients`, `largest_lr`, `counts` and `watch`.
    """
    return {
        "has_found_a_step": False,
        "last_step_size": 0.0,
        "last_slope": 0.0,
        "with_gradients": False,
        "largest_lr": 0.0,
        "counts": dict.fromkeys(_EVENTS, 0) | {"loss_decrease": 0.0, "slope": 0.0, "criterion_ratio": 0.0},
        "criterion": rules.criterion.new_memory(),
        "initial_step": rules.initial_step.new_memory(),
        "cadence": rules.cadence.new_memory(),
        "watch": watch.new_memory() if watch is not None else {},
    }


class _Unfit(Exception):
    """Why a state dict is not one of an optimizer."""


def checked_groups(state_dict: Any, optimizer: Any, expected: Memory) -> list[dict[str, Any]]:
    """Check that a state dict fits `optimizer`, and return its groups, completed.

    Args:
        state_dict: what to load.
        optimizer: the line-search optimizer to load it into.
        expected: the memory of a new one.

    Raises:
        ValueError: it is of another optimizer, of other parameters, or has a number that no run can have left.
    """
    try:
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise _Unfit("it has no state and param_groups")
        if not isinstance(state_dict["param_groups"], list):
            raise _Unfit(f"its param_groups are {state_dict['param_groups']!r}, not a list")
        if not isinstance(state_dict["state"], dict) or not state_dict["param_groups"]:
            raise _Unfit("its state or its param_groups are empty")
        groups = [_completed(group, expected) for group in state_dict["param_groups"]]
        for group in groups:
            _check_group(group, expected, optimizer)
        _check_moments(state_dict["state"], groups, optimizer)
    except _Unfit as reason:
        raise ValueError(
            f"This state dict is not one of {type(optimizer).__name__}: {reason}. Load it into the optimizer that "
            "saved it, or start this one afresh."
        ) from None
    return groups


def _check_group(group: dict[str, Any], expected: Memory, optimizer: Any) -> None:
    if missing := [key for key in _OWN_KEYS if key not in group]:
        raise _Unfit(f"its groups have no {missing}")
    memory = group["line_search"]
    if _names(memory) != _names(expected):
        known = memory if isinstance(memory, dict) else {}
        shared = {key for key in known.keys() & expected.keys() if _names(known[key]) == _names(expected[key])}
        raise _Unfit(f"its search memory has other entries: {', '.join(sorted((known | expected).keys() - shared))}")
    for key in ("step_size", "lr", "weight_decay"):
        _check_number(key, float(group[key]) if _is_scalar(group[key]) else group[key], 0.0)
    for name, new in expected.items():
        _check_numbers({name: memory[name]}, {name: new}, bounded=_is_ours(getattr(optimizer, name, optimizer)))
    if not isinstance(group["params"], list) or any(type(key) not in (int, str) for key in group["params"]):
        raise _Unfit(f"its params are {group['params']!r}, not a list of numbers or names")


def _is_ours(rule: Any) -> bool:
    """Whether the memory and the moments of a rule are known here, and not those of a rule of the user's own."""
    return type(rule).__module__.startswith(__name__.rpartition(".")[0]) or isinstance(rule, torch.optim.Optimizer)


def _check_numbers(memory: Memory, expected: Memory, bounded: bool) -> None:
    """Check each value of a memory beside that of a new one; by its bounds too, if they are known."""
    for name, new in expected.items():
        value = memory[name]
        if isinstance(new, dict):
            _check_numbers(value, new, bounded)
        elif isinstance(new, bool):
            if not isinstance(value, bool):
                raise _Unfit(f"its {name} is {value!r}, where True or False is needed")
        else:
            _check_number(name, value, new, bounded)


def _check_number(name: str, value: Any, new: float, bounded: bool = True) -> None:
    """Check a number beside that of a new memory: an integer is a count, which never falls below its first value."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise _Unfit(f"its {name} is {value!r}, where a number is needed")
    number = float(value)
    least = -inf if not bounded else new if isinstance(new, int) else 0.0 if name in _NOT_NEGATIVE else -inf
    most = LARGEST if name in ("step_size", "lr", "weight_decay") else inf
    if not least <= number <= most or (abs(number) == inf and number != new):
        allowed = "finite" if least == -inf else "finite and not negative" if not new else f"at least {new}"
        raise _Unfit(f"its {name} is {value}, where a number that is {allowed} is needed")


def _is_scalar(value: Any) -> bool:
    """Whether a value is what torch allows for a learning rate beside a float."""
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _check_moments(state: dict[Any, Any], groups: list[dict[str, Any]], optimizer: Any) -> None:
    """Raise `_Unfit` where a moment is not one of the parameter that it would be loaded for."""
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in optimizer.param_groups]:
        return  # torch says so
    keys = [key for group in groups for key in group["params"]]
    if len(known_keys := set(keys)) < len(keys):
        raise _Unfit(f"its params are {keys}")
    if foreign := [key for key in state if key not in known_keys]:
        raise _Unfit(f"its params are {keys}, and its state has {foreign}")
    layers = [[group.get("layer") for group in each] for each in (groups, optimizer.param_groups)]
    if layers[0] != layers[1]:
        raise _Unfit(f"its groups are of the layers {layers[0]}, not {layers[1]}")
    if unknown := [key for key, moments in state.items() if not isinstance(moments, dict)]:
        raise _Unfit(f"its state of parameter {unknown[0]!r} is {state[unknown[0]]!r}")
    new = [[_new_moments(optimizer, parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    known = {frozenset(moments) for group in new for moments in group}
    saved = {frozenset(moments) for moments in state.values() if moments}
    counts = groups[0]["line_search"]["counts"]
    forgotten = not saved and any(known) and counts["steps"] > counts["skipped_steps"]
    if not saved <= known or forgotten:
        found, needed = (sorted(map(str, set().union(*names))) or "none" for names in (saved, known))
        raise _Unfit(f"its moments are {found}, not {needed}")
    for group, own, expected_moments in zip(groups, optimizer.param_groups, new):
        names = own.get("param_names", [])
        for position, (key, new_moments) in enumerate(zip(group["params"], expected_moments)):
            called = repr(names[position]) if position < len(names) else f"number {position}"
            moments = state.get(key, {})
            if moments and moments.keys() != new_moments.keys():
                raise _Unfit(f"the moments of parameter {called} are {list(moments)}, not {list(new_moments)}")
            for name, value in moments.items():
                not_negative = _is_ours(optimizer.direction) and name in _NOT_NEGATIVE_MOMENTS
                _check_moment(f"{name} of parameter {called}", value, new_moments[name], not_negative)


def _check_moment(called: str, value: Any, expected: Tensor, not_negative: bool) -> None:
    if not isinstance(value, Tensor):
        raise _Unfit(f"{called} is {value!r}, not a tensor")
    if value.shape != expected.shape:
        raise _Unfit(f"{called} has the shape {tuple(value.shape)}, not {tuple(expected.shape)}")
    if expected.is_floating_point() and (
        not value.is_floating_point() or (not expected.dim() and value.dtype != expected.dtype)
    ):
        raise _Unfit(f"{called} has the dtype {value.dtype}, not {expected.dtype}")
    if value.layout != torch.strided or value.device.type == "meta":
        raise _Unfit(f"{called} has the layout {value.layout} on {value.device}, where a dense tensor is needed")
    if not bool(value.isfinite().all()):
        raise _Unfit(f"{called} is not finite")
    if not_negative and bool((value < 0).any()):
        raise _Unfit(f"{called} is negative")


def _new_moments(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    moments: dict[str, Tensor] = optimizer.direction.new_state(
        torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    )
    return moments


def _completed(group: dict[str, Any], expected: Memory) -> dict[str, Any]:
    """Return a saved group with what it lacks: counts of a later version, empty memories, a watch that is turned on.

    torch.distributed.checkpoint drops an empty dict.
    """
    if not isinstance(group, dict):
        raise _Unfit(f"its param_groups hold {group!r}")
    memory = group.get("line_search")
    if not isinstance(memory, dict) or not isinstance(memory.get("counts"), dict):
        return group
    counts = {**dict.fromkeys(expected["counts"], 0), **memory["counts"]}
    empty: dict[str, Any] = {name: {} for name in ("criterion", "initial_step", "cadence", "watch")}
    memory = {**empty, **memory, "counts": counts}
    if isinstance(memory["watch"], dict) and not (memory["watch"] and expected["watch"]):
        memory["watch"] = dict(expected["watch"])  # it is turned on or off
    return {**group, "line_search": memory}


def _names(memory: Any) -> Any:
    """Return a memory without its values."""
    return {key: _names(value) for key, value in memory.items()} if isinstance(memory, dict) else None
