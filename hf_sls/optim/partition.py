"""Which parameter groups one search moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ._validation import check_integer


class Partition(Protocol):
    """Picks the groups of a search, which keep the step size found; the others take their own last one."""

    def groups_to_search(self, layers: Sequence[int], step: int) -> list[int]:
        """Return the indices of the groups that the search of step number `step` (from 0) moves together.

        Args:
            layers: the layer that each group belongs to, numbered from 0: `param_group["layer"]`, or the number of the
                group where there is no such key.
            step: number of the step, from 0.
        """
        ...


@dataclass(frozen=True)
class Joint:
    """All groups move together, by one step size."""

    def groups_to_search(self, layers: Sequence[int], step: int) -> list[int]:
        return list(range(len(layers)))


@dataclass(frozen=True)
class Cyclic:
    """One layer after the other, after some steps of all together (PLASLS, arXiv 2403.18506).

    On step k after the joint steps layer `k mod L` is searched; the others stay where they are, and then take their own
    last step.

    Args:
        joint_steps: number of steps, from the start, that search one step size for all layers; at least 0.
    """

    joint_steps: int = 6

    def __post_init__(self) -> None:
        check_integer("joint_steps", self.joint_steps, low=0)

    def groups_to_search(self, layers: Sequence[int], step: int) -> list[int]:
        if step < self.joint_steps:
            return list(range(len(layers)))
        order = sorted(set(layers))
        turn = order[(step - self.joint_steps) % len(order)]
        return [index for index, layer in enumerate(layers) if layer == turn]
