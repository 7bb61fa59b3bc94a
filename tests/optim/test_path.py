"""The path of the parameters: in pieces as in one, and back to the start without a copy."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_sls.optim import Adagrad, Adam, AdamSLS, Direction, Gradient, _tensors
from hf_sls.optim.path import Part, Path

DEFAULT = AdamSLS([torch.nn.Parameter(torch.zeros(1))])
DIRECTIONS = [Gradient(), Adam(), DEFAULT.direction, Adam(search="gradient"), Adam(amsgrad=True), Adagrad()]
UNCOPIED = [Adam(), DEFAULT.direction, Adam(amsgrad=True)]
STAY, GO = torch.ones(()), torch.zeros(())
SHORT = 0.9e-3
LONGEST = DEFAULT.initial_step.init_step_size
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
    return Path(direction, [Part(1.0, 0.0, (), parameters, gradients, states)])


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
        update = direction.search_update(gradients, whole)
        expected = sum(float((g.double() * u.double()).sum()) for g, u in zip(gradients, update))
        assert float(slope) == pytest.approx(expected, rel=1e-3)
        torch.testing.assert_close(states, whole)
        for step_size in (1e-3, 4e-4):
            path.go_to(step_size)
            torch.testing.assert_close(parameters, [w - step_size * u for w, u in zip(starts, update)])


@every_direction
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step_size", [SHORT, LONGEST, 1e4])
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
    if direction in UNCOPIED and step_size <= LONGEST:
        assert off.norm() <= torch.finfo(dtype).eps * whole.norm()
        assert off.count_nonzero() < 0.2 * off.numel()
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
    path.advance(SHORT, GO)
    path.go_to(LONGEST)
    assert all((part.copies is None) == (direction in UNCOPIED) for part in path._parts)
    path.go_to(2 * LONGEST)
    assert all(part.copies is not None for part in path._parts)


def test_a_group_that_is_not_to_move_is_copied() -> None:
    parameters, gradients, states = lists(Adam())
    starts = [parameter.clone() for parameter in parameters]
    path = Path(Adam(), [Part(0.0, 0.1, (), parameters, gradients, states)])
    path.advance(SHORT, GO)
    path.take()
    torch.testing.assert_close(parameters, starts, rtol=0.0, atol=0.0)


@every_direction
def test_another_update_starts_where_the_first_one_did(direction: Direction) -> None:
    """After steps that make the gradient and its average differ."""
    parameters, gradients, states = lists(direction)
    for past in (-1.0, 0.3, 2.0):
        direction.accumulate(
            [past * gradient.roll(1, 0) if gradient.ndim else gradient for gradient in gradients], states
        )
    starts = [parameter.clone() for parameter in parameters]
    path = path_over(direction, parameters, gradients, states)
    path.advance(SHORT, GO)
    for update, step_size in ((direction.steepest, 5e-4), (direction.applied_update, 7e-4)):
        slope = path.follow(update, step_size)
        along = update(gradients, states)
        expected = sum(float((g.double() * u.double()).sum()) for g, u in zip(gradients, along))
        assert float(slope) == pytest.approx(expected, rel=1e-4)
        torch.testing.assert_close(parameters, [w - step_size * u for w, u in zip(starts, along)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 1 / (0.4 * SHORT), 3 / SHORT])
@every_direction
def test_a_fraction_of_the_step_is_taken_and_decays(
    direction: Direction, weight_decay: float, dtype: torch.dtype
) -> None:
    parameters, gradients, states = lists(direction, dtype)
    starts = [parameter.clone() for parameter in parameters]
    path = Path(direction, [Part(0.4, weight_decay, (), parameters, gradients, states)])
    path.advance(SHORT, GO)
    path.follow(direction.applied_update, SHORT)
    path.take()
    step = 0.4 * SHORT
    update = direction.applied_update(gradients, states)
    expected = [(w.float() - step * (u.float() + weight_decay * w.float())).to(dtype) for w, u in zip(starts, update)]
    torch.testing.assert_close(parameters, expected)


@every_direction
@pytest.mark.parametrize("step_size", [SHORT, 0.1])
def test_an_error_at_any_moment_loses_nothing(
    direction: Direction, step_size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt is delivered after the call that it falls into: here after each in-place move in turn."""
    monkeypatch.setattr(_tensors, "_CHUNK_ON_CPU", 512)
    for interrupted in itertools.count(1):
        parameters, gradients, states = lists(direction)
        starts = [parameter.clone() for parameter in parameters]
        path = path_over(direction, parameters, gradients, states)
        countdown = Countdown(interrupted)
        with monkeypatch.context() as patch:
            for name in ("_foreach_add_", "_foreach_copy_"):
                patch.setattr(torch, name, countdown.over(getattr(torch, name)))
            with contextlib.suppress(KeyboardInterrupt):
                path.advance(step_size, GO)
                path.go_to(step_size / 2)
                path.follow(direction.applied_update, step_size)
                path.take()
        if countdown.left > 0:
            assert interrupted > 10
            break
        path.go_to(0.0)
        torch.testing.assert_close(parameters, starts, rtol=1e-6, atol=1e-7)


class Countdown:
    """Interrupts after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def over(self, function: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

        return called


@pytest.mark.parametrize("direction", [Adam(), Adagrad()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_an_element_without_gradient_does_not_move_in_half_precision(direction: Direction, dtype: torch.dtype) -> None:
    """In fp16 an eps of 1e-8 or 1e-10 would be zero."""
    parameter, gradient = torch.ones(4, dtype=dtype), torch.tensor([1e-2, 0, 0, 1e-2], dtype=dtype)
    states = [direction.new_state(parameter)]
    direction.accumulate([gradient], states)
    (update,) = direction.applied_update([gradient], states)
    assert update[1] == update[2] == 0
    assert torch.isfinite(update).all()


def test_a_direction_with_a_kernel_of_its_own_has_no_subclasses() -> None:
    """An inherited kernel would take another step than the formula says."""
    with pytest.raises(TypeError, match=r"ByNorm derives from Adam, which is final. Derive from Direction"):

        class ByNorm(Adam):
            """An update that depends on the norm of the whole parameter."""


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.999), (0.9, 0.9), (0.5, 0.5)])
def test_no_update_of_adam_exceeds_its_bound(betas: tuple[float, float]) -> None:
    """Gradients that grow as the moments forget, after many without any, come close to it."""
    direction = Adam(betas=betas)
    parameter = torch.zeros(1, dtype=torch.float64)
    for quiet_steps in (0, 10**6):
        states, largest = [direction.new_state(parameter)], 0.0
        states[0]["step"] += quiet_steps
        for step in range(100):
            gradient = torch.full_like(parameter, (betas[1] / max(betas[0], 0.01)) ** step)
            direction.accumulate([gradient], states)
            largest = max(largest, float(direction.applied_update([gradient], states)[0]))
        assert largest <= direction.largest_update * (1 + 1e-6)
    assert largest >= 0.98 * direction.largest_update


def test_moments_that_are_laid_out_otherwise_do_not_meet_the_fused_kernel() -> None:
    """As they may be after loading a checkpoint."""
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        direction = Adam()
        parameters, gradients, states = lists(direction)
        states[3] = {
            name: value.clone(memory_format=layout) if value.ndim else value for name, value in states[3].items()
        }
        direction.advance(parameters, gradients, states, 0.1, 0.0, GO)
        results.append(parameters)
    torch.testing.assert_close(*results)
