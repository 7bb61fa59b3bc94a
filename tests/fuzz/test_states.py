"""A state dict that is not what was saved is refused and changes nothing, or it is loaded and trains on."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor

from hf_sls.optim import LineSearchOptimizer

from ..members import MEMBERS
from ..problems import Network

pytestmark = pytest.mark.filterwarnings("ignore:The loss", "ignore:None of the last")

Path = tuple[Any, ...]

not_numbers = st.sampled_from([None, "", "0.1", [], {}, [1.0], object, 1j, torch.zeros(2), (), b"1"])
not_finite = st.sampled_from([math.nan, -math.inf])
numbers = st.sampled_from([-1, -1.0, -1e-9, 0, 0.0, 1, 1e-300, 1e-30, 1e13, 1e300, math.inf, True, False, 10**40])


def trained(member: str, steps: int, seed: int = 0) -> tuple[Network, LineSearchOptimizer]:
    """Return a network after some steps, with its optimizer."""
    model = Network(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * seed
    optimizer = MEMBERS[member](model.parameters())
    train(model, optimizer, steps)
    return model, optimizer


def train(model: Network, optimizer: LineSearchOptimizer, steps: int) -> None:
    """Take some steps, without the warnings of the first one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for closure in model.closures(steps):
            optimizer.step(closure)


def paths(value: Any, start: Path = ()) -> Iterator[Path]:
    """Yield the way to everything in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*start, key)
        yield from paths(each, (*start, key))


def at(value: Any, path: Path) -> Any:
    """Return what a path leads to."""
    for key in path:
        value = value[key]
    return value


def equal(first: Any, second: Any) -> bool:
    """Whether two nested values are the same, tensors to the bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return type(first) is type(second) and bool(first == second or (first != first and second != second))


@st.composite
def mutations(draw: Any) -> tuple[str, int, int, str, Any]:
    """Draw a member, how far the two optimizers have come, and what happens to a part of the state."""
    kind = draw(st.sampled_from(["delete", "not a number", "not finite", "number", "extra", "tensor", "params"]))
    value = {"not a number": not_numbers, "not finite": not_finite, "number": numbers}.get(kind, st.none())
    return draw(st.sampled_from(sorted(MEMBERS))), draw(st.integers(0, 4)), draw(st.integers(0, 2)), kind, draw(value)


CHANGES = {
    "shape": lambda moment: moment.new_zeros(3),
    "transposed": lambda moment: moment.reshape(moment.shape[::-1]),
    "not finite": lambda moment: torch.full_like(moment, math.nan),
    "infinite": lambda moment: torch.full_like(moment, math.inf),
    "one infinite of each sign": lambda moment: (
        moment.flatten().scatter(0, torch.tensor([0]), -math.inf).view_as(moment)
    ),
    "negative": lambda moment: -moment.abs() - 1,
    "complex": lambda moment: moment.to(torch.complex64),
    "integer": lambda moment: moment.to(torch.int64),
    "boolean": lambda moment: moment.bool(),
    "double": lambda moment: moment.double(),
    "sparse": lambda moment: moment.to_sparse(),
    "no data": lambda moment: moment.to("meta"),
    "float": lambda moment: float(moment.sum()),
    "none": lambda moment: None,
    "text": lambda moment: "0",
}


@given(mutation=mutations(), data=st.data())
def test_a_changed_state_is_refused_or_trains_on(mutation: tuple[str, int, int, str, Any], data: Any) -> None:
    member, saved_steps, own_steps, kind, value = mutation
    _, source = trained(member, saved_steps, seed=1)
    state = copy.deepcopy(source.state_dict())
    everything = list(paths(state))
    number = [path for path in everything if isinstance(at(state, path), (int, float))]
    moment = [path for path in everything if isinstance(at(state, path), Tensor)]
    if kind == "delete":
        path = data.draw(st.sampled_from(everything))
        del at(state, path[:-1])[path[-1]]
    elif kind == "extra":
        holders = [path for path in [(), *everything] if isinstance(at(state, path), dict)]
        path = data.draw(st.sampled_from(holders))
        at(state, path)["of another version"] = 1.0
    elif kind == "params":
        path = ("param_groups", 0, "params")
        state["param_groups"][0]["params"] = data.draw(
            st.sampled_from([[], [0], ["a", "b", "c", "d"], [0, 0, 1, 2], None])
        )
    elif kind == "tensor":
        if not moment:
            return
        path = data.draw(st.sampled_from(moment))
        value = data.draw(st.sampled_from(sorted(CHANGES)))
        at(state, path[:-1])[path[-1]] = CHANGES[value](at(state, path))
    else:
        path = data.draw(st.sampled_from(number if kind != "not a number" else everything))
        at(state, path[:-1])[path[-1]] = value
    note(f"{member}: {path} {kind} {value!r}")

    model, optimizer = trained(member, own_steps)
    before = copy.deepcopy(optimizer.state_dict())
    untouched_model, untouched = copy.deepcopy((model, optimizer))
    try:
        optimizer.load_state_dict(copy.deepcopy(state))
    except ValueError as error:
        assert "state dict" in str(error) or "optimizer" in str(error), error
        assert equal(optimizer.state_dict(), before)
        train(model, optimizer, 3)
        train(untouched_model, untouched, 3)
        assert equal(list(model.parameters()), list(untouched_model.parameters()))
        return
    if equal(state, source.state_dict()):
        return
    if path[-1:] == ("counts",) and value == {}:  # counts that a version did not keep start from zero
        return
    never_moved = len(path) > 1 and path[0] == "state" and not state["state"].get(path[1])
    renamed = path[-2:-1] == ("params",) and isinstance(value, str)
    assert kind not in ("not a number", "not finite") or never_moved or renamed, "what no run leaves was loaded"
    train(model, optimizer, 3)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert math.isfinite(optimizer.param_groups[0]["step_size"])
    if kind in ("delete", "extra") and not never_moved:
        untouched.load_state_dict(copy.deepcopy(source.state_dict()))
        train(untouched_model, untouched, 3)
        assert equal(list(model.parameters()), list(untouched_model.parameters()))


@given(
    state=st.recursive(
        st.one_of(not_numbers, numbers),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["state", "param_groups", "params", "line_search", "lr", 0]), inner, max_size=4
            ),
        ),
        max_leaves=8,
    )
)
def test_what_is_no_state_dict_is_refused(state: Any) -> None:
    _, optimizer = trained("adam_sls", 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="This state dict is not one of AdamSLS: "):
        optimizer.load_state_dict(state)
    assert equal(optimizer.state_dict(), before)
