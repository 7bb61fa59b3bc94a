"""Moving the parameters along an update, and back, without a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._tensors import Scratch, chunks, coarsest_spacing, dot, pieces, total
from .direction import Direction, State
from .sharding import ShardGroups, sum_over_shards

Update: TypeAlias = Callable[[list[Tensor], list[State]], list[Tensor]]

LONGEST_WITHOUT_COPY = 0.11
"""How far an element may move and come back by addition. Near zero it loses at most 4e-9 in fp32, half a spacing."""


@dataclass
class Part:
    """Parameters that take the same fraction of a step, with their gradients and moments.

    Attributes:
        lr: the fraction.
        weight_decay: decoupled, times the step size.
        shard_groups: the process groups that hold the other shards; empty for whole parameters.
        parameters: the tensors to move.
        gradients: of the parameters.
        states: of the parameters.
        copies: of the parameters at the start of the path, where they are needed.
        step_size: how far along the path the parameters are.
    """

    lr: float
    weight_decay: float
    shard_groups: ShardGroups = ()
    parameters: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    copies: list[Tensor] | None = None
    step_size: float = 0.0


class Path:
    """The points `w - eta * u` for an update u, of which the parameters are one.

    The parameters move in place, part by part, and mostly without a copy of them: a step back adds what the step has
    subtracted, which gives w again to within the rounding of the step. Every move starts with the step back, so that
    in half precision a short move is not lost between two points. A copy is kept for moves above
    `LONGEST_WITHOUT_COPY`, where the update may have changed by then (it depends on the gradient), and where `lr` is
    0, so that the parameters have to end where they were.

    Args:
        direction: gives the updates, from gradients and states.
        parts: the parameters to move; none is empty.
    """

    def __init__(self, direction: Direction, parts: Sequence[Part]) -> None:
        self.step_size = 0.0
        self.devices = {parameter.device for part in parts for parameter in part.parameters}
        self._skip: Tensor | None = None
        self._update: Update = direction.applied_update if direction.searches_applied else direction.search_update
        self._direction = direction
        self._parts = [piece for part in parts for piece in _fitting_the_cache(direction, part)]

    @property
    def rounding(self) -> float:
        """The relative spacing of the numbers in which the coarsest parameter is kept."""
        return coarsest_spacing(parameter for part in self._parts for parameter in part.parameters)

    @property
    def longest_without_copy(self) -> float:
        """The largest step size along the present update for which the parameters are not copied."""
        bounded = self._update == self._direction.applied_update
        return LONGEST_WITHOUT_COPY / self._direction.largest_update if bounded else 0.0

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
        slopes, scratch = [], Scratch()
        for part in self._parts:
            update = scratch.zeros(part.parameters)
            self._direction.advance(update, part.gradients, part.states, -1.0, 0.0, skip)
            slopes.append(dot(part.gradients, update))
            self._save(part, step_size)
            self._shift(part, update, step_size)
        return self._sum_over_shards(slopes)

    def last_slope(self) -> Tensor:
        """Return the slope `<g, u>` along the last update, that of the moments as they are; a 0-dim tensor.

        Each part counts by the fraction of the step that it takes. Call it before `advance`. Parameters without a step
        so far have no last update, and add nothing.
        """
        applied = self._direction.applied_update
        slopes = [p.lr * dot(p.gradients, applied(p.gradients, p.states)) for p in self._parts]
        return self._sum_over_shards(slopes)

    @contextmanager
    def back(self, step_size: float) -> Iterator[None]:
        """Let the block see the parameters where the last step, of that size, began. Call it before `advance`.

        Weight decay is left out: the way back is along the last update alone.
        """
        update, self._update = self._update, self._direction.applied_update
        try:
            for part in self._parts:
                self._move(part, -part.lr * step_size)
            yield
        finally:
            self.go_to(0.0)
            self._update = update

    def confirm(self, skipped: bool) -> None:
        """Learn whether `advance` has skipped the step, and so has left the parameters at the start."""
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
            if step_size == 0 and part.copies is not None:
                self._restore(part, [])
            elif part.step_size != step_size:
                self._move(part, step_size)
        self.step_size = step_size

    @contextmanager
    def excursion(self) -> Iterator[None]:
        """Let the block move the parameters along the present update; afterwards all is as before, to the bit."""
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
        to_decay = []
        for part in self._parts:
            step_size = part.lr * self.step_size
            decay = step_size * part.weight_decay
            if (step_size, decay) == (part.step_size, 0.0):
                continue
            update = self._update(part.gradients, part.states)
            self._restore(part, update)
            if part.copies is not None or decay > 0.5:
                torch._foreach_mul_(part.parameters, 1 - decay)
                torch._foreach_add_(part.parameters, update, alpha=-step_size)
            else:
                self._shift(part, update, step_size / (1 - decay))
                to_decay.append((part.parameters, decay))
        self._parts = []
        for parameters, decay in to_decay:
            torch._foreach_mul_(parameters, 1 - decay)

    def _move(self, part: Part, step_size: float) -> list[Tensor]:
        update = self._update(part.gradients, part.states)
        self._restore(part, update)
        self._save(part, step_size)
        self._shift(part, update, step_size)
        return update

    def _restore(self, part: Part, update: list[Tensor]) -> None:
        if part.copies is not None:
            torch._foreach_copy_(part.parameters, part.copies)
            part.step_size = 0.0
        self._shift(part, update, 0.0)

    @staticmethod
    def _shift(part: Part, update: list[Tensor], step_size: float) -> None:
        """Go straight to `step_size`, and note it before the move, because an interrupt comes after it."""
        distance, part.step_size = part.step_size - step_size, step_size
        if distance:
            torch._foreach_add_(part.parameters, update, alpha=distance)

    def _save(self, part: Part, step_size: float) -> None:
        if part.copies is None and (part.lr == 0 or abs(step_size) > self.longest_without_copy):
            part.copies = [parameter.clone() for parameter in part.parameters]

    def _sum_over_shards(self, slopes: list[Tensor]) -> Tensor:
        sums = []
        for groups in dict.fromkeys(part.shard_groups for part in self._parts):
            own = [slope for part, slope in zip(self._parts, slopes) if part.shard_groups == groups]
            sums.append(sum_over_shards(total(own), groups))
        return total(sums)


def _fitting_the_cache(direction: Direction, part: Part) -> Iterator[Part]:
    """Yield a part in parts of a chunk or one parameter."""
    each = zip(part.parameters, part.gradients, part.states)
    split = [piece for parameter, gradient, state in each for piece in _split(direction, parameter, gradient, state)]
    for parameters, gradients, states in chunks(*map(list, zip(*split))):
        yield replace(part, parameters=parameters, gradients=gradients, states=states)


def _split(direction: Direction, parameter: Tensor, gradient: Tensor, state: State) -> Iterator[tuple[Any, ...]]:
    """Yield a large parameter in pieces, with its gradient and state, if the direction works element by element.

    The first piece has the rest of the state, such as the step count; the others have copies of it.
    """
    if not direction.elementwise or len(pieces(parameter)) == 1:
        yield parameter.detach(), gradient, state
        return
    moments = {name: value for name, value in state.items() if value.shape == parameter.shape}
    if not all(x.is_contiguous() for x in (parameter, gradient, *moments.values())):
        yield parameter.detach(), gradient, state
        return
    split = zip(*map(pieces, (parameter.detach(), gradient, *moments.values())))
    for index, (piece, piece_gradient, *piece_moments) in enumerate(split):
        others = {name: value if index == 0 else value.clone() for name, value in state.items() if name not in moments}
        yield piece, piece_gradient, {**dict(zip(moments, piece_moments)), **others}
