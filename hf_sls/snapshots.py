"""What an evaluation of the loss may change beside parameters and buffers, and how to put it back.

| kept | put back |
|---|---|
| numbers, flags, strings, `None` | the same object |
| containers, tensors and arrays with up to 10,000 entries | the same object, with its entries or values |
| larger tensors and arrays, and those that share the memory of a parameter | the same object |
| random number generators of Python, numpy and torch | the same object, in its state |
"""

from __future__ import annotations

import copy
import random
from collections import UserDict, deque
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MAPPINGS = (dict, UserDict)
_CONTAINERS = (*_MAPPINGS, list, deque, set)
_ARRAYS = (Tensor, np.ndarray)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_VALUES = (bool, int, float, str, type(None), np.generic)
_KEPT = (*_VALUES, *_CONTAINERS, tuple, *_ARRAYS, *_GENERATORS)
_LARGEST = 10_000
"""Number of entries above which a container or array is taken for data, which no evaluation changes."""


class Attributes:
    """The attributes of an object that an evaluation may change, as they are now.

    Args:
        owner: the dictionary of the object, `vars(object)`.
        left_out: names of attributes to leave alone.
        parameters: storages of the parameters (`storages`), which a trial moves: what lies in one keeps its values.
    """

    def __init__(self, owner: dict[str, Any], left_out: Collection[str], parameters: Collection[int]) -> None:
        self.owner = owner
        self._left_out = left_out
        self._names = frozenset(owner)
        self._held = {}
        for name, value in self._present().items():
            if _is_small(value):
                self._held[name] = _snapshot(value, parameters)
            elif isinstance(value, _ARRAYS):
                self._held[name] = value

    def restore(self) -> None:
        """Put the attributes back, and remove those that have come since."""
        for name in self._present().keys() - self._names:
            del self.owner[name]
        for name, held in self._held.items():
            value = held.restore() if _is_snapshot(held) else held
            if self.owner.get(name, _MISSING) is not value:
                self.owner[name] = value

    def is_set_up(self) -> bool:
        """Whether a flag has come or changed since, as it does where the first batch sets up an object."""
        present = self._present().items()
        return any(isinstance(value, bool) and value is not self._held.get(name) for name, value in present)

    def _present(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.owner.items()
            if _is_kept(type(value)) and name not in self._left_out  # type: ignore[arg-type]
        }


_MISSING = object()


@cache
def _is_kept(kind: type) -> bool:
    return issubclass(kind, _KEPT)


def is_writeable(tensor: Tensor) -> bool:
    """Whether a tensor can be written to: not from inference mode, and not expanded, several elements in one place."""
    strided = tensor.layout == torch.strided
    expanded = strided and any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))
    return not tensor.is_inference() and not expanded


class _Array:
    """A tensor or array and its values now."""

    def __init__(self, array: Tensor | np.ndarray) -> None:
        self._array = array
        self._values: Any = array.clone() if isinstance(array, Tensor) else array.copy()

    def restore(self) -> Any:
        """Put the values back into the array, if it can be written to; return it."""
        if isinstance(self._array, np.ndarray):
            if self._array.flags.writeable:
                self._array[...] = self._values
        elif is_writeable(self._array):
            self._array.data.copy_(self._values)
        return self._array

    def copy(self) -> Any:
        """Return a copy of the values."""
        return self._values


class _Generator:
    """A random number generator and its state now."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._state = self._read()

    def _read(self) -> Any:
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            return generator.bit_generator.state
        return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()

    def restore(self) -> Any:
        """Put the state back; return the generator."""
        generator = self._generator
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = self._state
        elif isinstance(generator, random.Random):
            generator.setstate(self._state)
        else:
            generator.set_state(self._state)
        return generator

    def copy(self) -> Any:
        """Return the generator itself."""
        return self._generator


class _Container:
    """A container and what it holds now, nested containers, tensors and arrays included."""

    def __init__(self, container: Any, parameters: Collection[int]) -> None:
        self._container = container
        mapping = isinstance(container, _MAPPINGS)
        entries = container.items() if mapping else enumerate(container)
        self._entries = [(key, _snapshot(value, parameters)) for key, value in entries]

    def restore(self) -> Any:
        """Put the same objects back into the same containers; return the container."""
        held = {key: value.restore() if _is_snapshot(value) else value for key, value in self._entries}
        now = self._container
        if isinstance(now, tuple):
            return now
        present = dict(now.items() if isinstance(now, _MAPPINGS) else enumerate(now))
        if present.keys() != held.keys() or any(present[key] is not value for key, value in held.items()):
            _fill(now, held)
        return now

    def copy(self) -> Any:
        """Return a copy that shares no container and no tensor with the original."""
        held = {key: value.copy() if _is_snapshot(value) else value for key, value in self._entries}
        if isinstance(self._container, tuple):
            make = getattr(self._container, "_make", type(self._container))
            return make(list(held.values()))
        duplicate = copy.copy(self._container)
        _fill(duplicate, held)
        return duplicate


def _snapshot(value: Any, parameters: Collection[int] = ()) -> Any:
    """Return a snapshot of what can change in place, and anything else as it is."""
    if isinstance(value, (*_CONTAINERS, tuple)):
        return _Container(value, parameters)
    if parameters and isinstance(value, _ARRAYS) and _storage(value) in parameters:
        return value
    if isinstance(value, random.SystemRandom):
        return value
    if isinstance(value, _GENERATORS):
        return _Generator(value)
    return _Array(value) if isinstance(value, _ARRAYS) else value


def storages(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Return where the storages of tensors are in memory, 0 for those that have none or do not tell."""
    return frozenset({0, *map(_storage, tensors)})


def _storage(array: Tensor | np.ndarray) -> int:
    if isinstance(array, np.ndarray):
        while isinstance(array.base, np.ndarray):
            array = array.base
        return array.ctypes.data
    try:
        return array.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, a wrapper of other tensors, or lazy
        return 0


def _is_snapshot(value: Any) -> bool:
    return type(value) in (_Container, _Array, _Generator)


def _fill(container: Any, held: dict[Any, Any]) -> None:
    container = container.data if isinstance(container, UserDict) else container
    container.clear()
    if isinstance(container, dict):
        for key, value in held.items():
            container[key] = value
    elif isinstance(container, set):
        container.update(held.values())
    else:
        container.extend(held.values())


def copied(value: Any) -> Any:
    """Return a copy of nested inputs, of their containers, tensors and arrays; anything else in them is shared."""
    snapshot = _snapshot(value)
    return snapshot.copy() if _is_snapshot(snapshot) else value


def _is_small(value: Any) -> bool:
    """Whether a container or array has at most `_LARGEST` entries, those of nested ones included; else `True`."""
    entries, inside = 0, [value] if isinstance(value, (*_CONTAINERS, *_ARRAYS, tuple)) else []
    while inside:
        each = inside.pop()
        if isinstance(each, _ARRAYS):
            entries += each.size if isinstance(each, np.ndarray) else each.numel()
        else:
            entries += len(each)
        if entries > _LARGEST:
            return False
        if isinstance(each, (*_CONTAINERS, tuple)):
            values = each.values() if isinstance(each, _MAPPINGS) else each
            inside += [value for value in values if isinstance(value, (*_CONTAINERS, *_ARRAYS, tuple))]
    return True
