"""Moving the parameters along an update, and back, without a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._tensors import HALF, chunks, dot, dot_difference, pieces, total
from .direction import Direction, State
from .sharding import ShardGroups, sum_over_shards

Update: TypeAlias = Callable[[list[Tensor], list[State]], list[Tensor]]

LONGEST_WITHOUT_COPY = 1e-3
"""The largest step size, along a normalized update, whose rounding does not show in the parameters."""


@dataclass(frozen=True)
class Kind:
    """What the parameters of one part of a path have in common.

    Attributes:
        lr: share of the step that is taken.
        weight_decay: decoupled, times the step size.
        shard_groups: the process groups that hold the other shards; empty for whole parameters.
    """

    lr: float
    weight_decay: float
    shard_groups: ShardGroups


@dataclass
class _Part:
    """Parameters that fit the cache together, and how far along the path they are."""

    kind: Kind
    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[State]
    copies: list[Tensor] | None = None
    step_size: float = 0.0


class Path:
    """The points `w - eta * u` for an update u, of which the parameters are one.

    The parameters are moved in place, part by part, as a rule without a copy of them: a step back adds the numbers
    that the step has subtracted, which gives w again but for elements that the step takes past a power of two, and
    those to within a rounding. Where that rounding could show, copies are kept: in half precision, along updates that
    are not normalized, and for steps above `LONGEST_WITHOUT_COPY`.

    Args:
        direction: gives the updates, from gradients and states.
        parameters: the tensors to move.
        gradients: of the parameters.
        states: of the parameters.
        kinds: of the parameters.
    """

    def __init__(
        self,
        direction: Direction,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[State],
        kinds: Sequence[Kind],
    ) -> None:
        self.step_size = 0.0
        self._skip: Tensor | None = None
        self._update: Update = direction.searched
        self._direction = direction
        self._parts: list[_Part] = []
        for kind in dict.fromkeys(kinds):
            members = [i for i, other in enumerate(kinds) if other == kind]
            split = [
                piece for i in members for piece in _split(direction, parameters[i].detach(), gradients[i], states[i])
            ]
            for of_parameters, of_gradients, of_states in chunks(*map(list, zip(*split))):
                self._parts.append(_Part(kind, of_parameters, of_gradients, of_states))

    @property
    def longest_without_copy(self) -> float:
        """The largest step size for which fp32 parameters are not copied."""
        return LONGEST_WITHOUT_COPY if self._direction.normalized else 0.0

    def advance(self, step_size: float, skip: Tensor) -> Tensor:
        """Fold the gradients into the moments, go to `step_size`, and return the slope `<g, u>` as a 0-dim tensor.

        Args:
            step_size: eta.
            skip: 0-dim tensor, 1.0 when nothing is to change, else 0.0; `confirm` takes its value once it is read.
        """
        if not self._direction.searches_applied:
            if skip:
                return torch.zeros_like(skip)
            for part in self._parts:
                self._direction.accumulate(part.gradients, part.states)
            return self.follow(self._update, step_size)
        self._skip, self.step_size = skip, step_size
        slopes = []
        for part in self._parts:
            self._save(part, step_size)
            starts = part.copies or [parameter.clone() for parameter in part.parameters]
            part.step_size = step_size
            self._direction.advance(part.parameters, part.gradients, part.states, step_size, 0.0, skip)
            slopes.append(dot_difference(part.gradients, starts, part.parameters))
        return self._sum_over_shards(slopes) / step_size

    def confirm(self, skipped: bool) -> None:
        """Say whether `advance` was to skip, which has left the parameters at the start."""
        self._skip = None
        if skipped:
            self.step_size = 0.0
            for part in self._parts:
                part.step_size = 0.0

    def follow(self, update: Update, step_size: float) -> Tensor:
        """Go to `step_size` along another update from the same start; return its slope `<g, u>` as a 0-dim tensor."""
        self.go_to(0.0)
        self._update = update
        slopes = [dot(part.gradients, self._move(part, step_size)) for part in self._parts]
        self.step_size = step_size
        return self._sum_over_shards(slopes)

    def go_to(self, step_size: float) -> None:
        """Go to `step_size` along the present update."""
        if self._skip is not None:
            self.confirm(bool(self._skip))
        for part in self._parts:
            if part.step_size != step_size:
                self._move(part, step_size)
        self.step_size = step_size

    @contextmanager
    def excursion(self) -> Iterator[None]:
        """Go anywhere along the present update in the block; after it all is as before, to the bit."""
        step_size, parts = self.step_size, [replace(part) for part in self._parts]
        here = [[parameter.clone() for parameter in part.parameters] for part in parts]
        try:
            yield
        finally:
            self.step_size, self._parts = step_size, parts
            for part, parameters in zip(parts, here):
                torch._foreach_copy_(part.parameters, parameters)

    def take(self) -> None:
        """Go to `w - lr * step_size * (u + weight_decay * w)`, where the path ends."""
        for part in self._parts:
            share = part.kind.lr
            decay = share * self.step_size * part.kind.weight_decay
            if part.copies is not None and (share, decay) != (1, 0):
                torch._foreach_copy_(part.parameters, part.copies)
                part.step_size = 0.0
            if decay:
                torch._foreach_mul_(part.parameters, 1 - decay)
            if rest := (1 - decay) * part.step_size - share * self.step_size:
                torch._foreach_add_(part.parameters, self._update(part.gradients, part.states), alpha=rest)

    def _move(self, part: _Part, step_size: float) -> list[Tensor]:
        update = self._update(part.gradients, part.states)
        if part.copies is not None:
            torch._foreach_copy_(part.parameters, part.copies)
        elif part.step_size:
            torch._foreach_add_(part.parameters, update, alpha=part.step_size)
        part.step_size = 0.0
        self._save(part, step_size)
        if step_size:
            torch._foreach_add_(part.parameters, update, alpha=-step_size)
        part.step_size = step_size
        return update

    def _save(self, part: _Part, step_size: float) -> None:
        half = any(parameter.dtype in HALF for parameter in part.parameters)
        if part.copies is None and (half or step_size > self.longest_without_copy):
            part.copies = [parameter.clone() for parameter in part.parameters]

    def _sum_over_shards(self, slopes: list[Tensor]) -> Tensor:
        sums = []
        for groups in dict.fromkeys(part.kind.shard_groups for part in self._parts):
            own = [slope for part, slope in zip(self._parts, slopes) if part.kind.shard_groups == groups]
            sums.append(sum_over_shards(total(own), groups))
        return total(sums)


def _split(direction: Direction, parameter: Tensor, gradient: Tensor, state: State) -> Iterator[tuple[Any, ...]]:
    """Yield a large parameter in pieces, with its gradient and state, if the direction works element by element.

    What a state has besides tensors of the parameter's shape, a step count, goes on in the first piece.
    """
    moments = {name: value for name, value in state.items() if value.shape == parameter.shape}
    views = [pieces(x) for x in (parameter, gradient, *moments.values())] if direction.elementwise else []
    if not views or not all(x.is_contiguous() for x in (parameter, *moments.values())) or len(views[0]) == 1:
        yield parameter, gradient, state
        return
    for index, (piece, piece_gradient, *piece_moments) in enumerate(zip(*views)):
        others = {name: value if index == 0 else value.clone() for name, value in state.items() if name not in moments}
        yield piece, piece_gradient, {**dict(zip(moments, piece_moments)), **others}
