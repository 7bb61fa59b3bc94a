"""Which parameter groups one search moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Partition(Protocol):
    """Picks the groups of a search. Each searched group keeps the step size found; the others take their own last."""

    def searched(self, group_count: int, step: int) -> list[int]:
        """Return the indices of the groups that the search of step number `step` (from 0) moves together."""
        ...


@dataclass(frozen=True)
class Joint:
    """All groups move together, by one step size."""

    def searched(self, group_count: int, step: int) -> list[int]:
        return list(range(group_count))
