"""The path of the parameters: in pieces as in one, and back to the start without a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_sls.optim import Adagrad, Adam, Direction, Gradient, _tensors
from hf_sls.optim.path import LONGEST_WITHOUT_COPY, Kind, Path

DIRECTIONS = [Gradient(), Adam(), Adam(search="gradient"), Adam(amsgrad=True), Adagrad()]
STAY, GO = torch.ones(()), torch.zeros(())
every_direction = pytest.mark.parametrize("direction", DIRECTIONS, ids=str)


def lists(direction: Direction, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[Any]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 30), (7,), (), (2, 3, 5, 7)]
    parameters, gradients = (
        [torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in ("parameters", "gradients")
    )
    for tensors in (parameters, gradients):
        tensors[3] = tensors[3].to(memory_format=torch.channels_last)
    return parameters, gradients, [direction.new_state(parameter) for parameter in parameters]


def path_over(direction: Direction, parameters: list[Tensor], gradients: list[Tensor], states: list[Any]) -> Path:
    kinds = [Kind(lr=1.0, weight_decay=0.0, shard_groups=())] * len(parameters)
    return Path(direction, parameters, gradients, states, kinds)


@every_direction
def test_in_pieces_as_in_one(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions and slope are those of the formula on whole tensors; step counts go on once."""
    for chunk in (1, 64, 2**20):
        monkeypatch.setattr(_tensors, "_CHUNK_ON_CPU", chunk)
        parameters, gradients, states = lists(direction)
        _, _, whole = lists(direction)
        starts = [parameter.clone() for parameter in parameters]
        path = path_over(direction, parameters, gradients, states)
        slope = path.advance(1e-3, GO)

        direction.accumulate(gradients, whole)
        update = direction.searched(gradients, whole)
        expected = sum(float((g.double() * u.double()).sum()) for g, u in zip(gradients, update))
        assert float(slope) == pytest.approx(expected, rel=1e-3)
        torch.testing.assert_close(states, whole)
        for step_size in (1e-3, 4e-4):
            path.go_to(step_size)
            torch.testing.assert_close(parameters, [w - step_size * u for w, u in zip(starts, update)])


@every_direction
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step_size", [LONGEST_WITHOUT_COPY, 1e4])
def test_back_to_the_start(direction: Direction, dtype: torch.dtype, step_size: float) -> None:
    """To the bit where a rounding would show, else most elements, and the others to a few roundings."""
    parameters, gradients, states = lists(direction, dtype)
    starts = [parameter.clone() for parameter in parameters]
    path = path_over(direction, parameters, gradients, states)
    path.advance(step_size, GO)
    for trial in range(1000):
        path.go_to(step_size * 0.99**trial)
    path.go_to(0.0)
    off, whole = (
        torch.cat([x.float().flatten() for x in tensors])
        for tensors in ([now - start for now, start in zip(parameters, starts)], starts)
    )
    if direction.normalized and dtype == torch.float32 and step_size <= LONGEST_WITHOUT_COPY:
        assert off.norm() <= 1e-7 * whole.norm()
        assert off.count_nonzero() < 0.1 * off.numel()
    else:
        assert off.count_nonzero() == 0


@every_direction
def test_a_skipped_advance_moves_nothing_whether_it_is_confirmed_or_not(direction: Direction) -> None:
    for confirmed in (True, False):
        parameters, gradients, states = lists(direction)
        starts = [parameter.clone() for parameter in parameters]
        gradients[0].fill_(float("nan"))
        path = path_over(direction, parameters, gradients, states)
        path.advance(1e-3, STAY)
        if confirmed:
            path.confirm(skipped=True)
        path.go_to(0.0)
        torch.testing.assert_close(parameters, starts, rtol=0.0, atol=0.0)


@every_direction
def test_copies_are_kept_only_where_a_rounding_could_show(direction: Direction) -> None:
    parameters, gradients, states = lists(direction)
    path = path_over(direction, parameters, gradients, states)
    path.advance(LONGEST_WITHOUT_COPY, GO)
    path.go_to(LONGEST_WITHOUT_COPY / 2)
    assert all((part.copies is None) == direction.normalized for part in path._parts)
    path.go_to(2 * LONGEST_WITHOUT_COPY)
    assert all(part.copies is not None for part in path._parts)
