"""`LossClosure` in a plain loop: accumulation, buffers, random state."""

from __future__ import annotations

import gc
import math
import re
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from hf_sls import LossClosure, create_optimizer


def model_with_buffers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def test_a_replay_gives_the_recorded_loss_and_moves_no_buffer() -> None:
    model, inputs = model_with_buffers(), torch.randn(3, 16, 4)
    closure = LossClosure(model)
    for micro_batch in inputs:
        closure.record(lambda micro_batch=micro_batch: model(micro_batch).square().mean() / 3).backward()
    buffers = [buffer.clone() for buffer in model.buffers()]
    assert closure() == closure.loss
    assert not closure().requires_grad
    assert all(torch.equal(now, before) for now, before in zip(model.buffers(), buffers))
    assert int(model[1].num_batches_tracked) == 3


def test_without_trials_nothing_is_kept_but_the_loss() -> None:
    model, inputs = model_with_buffers(), torch.randn(2, 16, 4)
    whole, closure = LossClosure(model), LossClosure(model, trials=False)
    for micro_batch in inputs:
        evaluate = partial(share_of_loss, model, micro_batch, 2)
        random_state = torch.get_rng_state()
        whole.record(evaluate)
        torch.set_rng_state(random_state)
        closure.record(evaluate)
    assert closure.loss == whole.loss
    assert not closure._micro_batches
    with pytest.raises(RuntimeError, match="trials=False"):
        closure()


def test_a_micro_batch_that_fails_is_not_kept() -> None:
    model, inputs = model_with_buffers(), torch.randn(2, 16, 4)
    closure = LossClosure(model)
    with pytest.raises(RuntimeError, match="shapes"):
        closure.record(lambda: model(inputs[0].T).sum())
    closure.record(partial(share_of_loss, model, inputs[1], 1))
    assert closure() == closure.loss


def test_a_replaced_buffer_is_put_back() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self) -> torch.Tensor:
            self.calls = self.calls + 1
            return self.scale * self.calls

    model = Growing()
    closure = LossClosure(model)
    assert closure.record(model) == 1
    before = model.calls
    assert closure() == 1
    assert model.calls is before
    assert before == 1


def test_an_expanded_buffer_and_a_cache_that_grows_are_replayed() -> None:
    """The length of the cache is a number on the first call and a tensor after it, as in rotary embeddings.

    Some keep a table in a plain attribute, which is used while the length is that of the table.
    """

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("positions", torch.arange(3.0).expand(2, 3))
            self.register_buffer("cache", torch.arange(2.0))
            self.longest: int | torch.Tensor = 2
            self.length, self.table, self.last_scale = 0, None, None

        def forward(self, length: int) -> torch.Tensor:
            if length != self.length:
                self.length, self.table = length, torch.ones(length) / length
            self.last_scale = self.scale.detach()
            if length > self.longest:
                self.cache, self.longest = torch.arange(float(length)) / length, torch.tensor(length)
            return self.scale * (self.cache[:length] * self.table).sum() + self.positions.sum()

    model = Rotary()
    for length, longest in ((2, 2), (4, 4), (3, 4), (8, 8)):
        closure = LossClosure(model)
        loss = closure.record(partial(model, length))
        closure.record(partial(model, 2))
        assert closure() == closure() == closure.loss > loss
        with torch.no_grad():
            model.scale.mul_(2.0)
            assert closure() != closure.loss
            model.scale.mul_(0.5)
        assert (int(model.longest), len(model.cache)) == (longest, longest)


def test_a_table_that_a_flag_guards_stays_as_it_was_built() -> None:
    class Lazy(nn.Linear):
        is_built: bool
        table: torch.Tensor | None

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if not self.is_built:
                self.is_built, self.table = True, self.weight.detach().abs().sum(0)
            inputs = inputs if self.table is None else inputs * self.table
            return nn.functional.linear(inputs, self.weight).square().sum()

    model = Lazy(3, 2)
    model.is_built, model.table = False, None
    closure = LossClosure(model)
    loss = closure.record(partial(model, torch.ones(4, 3)))
    table = model.table
    assert closure() == loss
    assert model.is_built
    with torch.no_grad():
        model.weight.mul_(2.0)
    assert closure() == 4 * loss
    assert model.table is table


def test_an_updated_parameter_that_is_gone_is_not_looked_for() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))

    def evaluate() -> torch.Tensor:
        with torch.no_grad():
            for layer in model[1:]:
                layer.weight.add_(1.0)
        return model(torch.ones(1, 2)).sum()

    LossClosure(model).record(evaluate)
    del model[1]
    closure = LossClosure(model)
    closure.record(evaluate)
    assert closure() == closure.loss


def test_a_replay_starts_from_what_the_evaluation_found() -> None:
    """A vector of a power iteration, and a moving average of the parameters, which is frozen."""

    class Teaching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.student = nn.utils.spectral_norm(nn.Linear(4, 4))
            self.teacher = nn.Linear(4, 4).requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.teacher.weight.data.mul_(0.9).add_(self.student.weight_orig, alpha=0.1)
            return (self.student(inputs) - self.teacher(inputs)).square().mean()

    model, inputs = Teaching(), torch.randn(8, 4)
    for step in range(3):
        closure = LossClosure(model)
        closure.record(partial(model, inputs))
        found = [value.clone() for value in (*model.buffers(), model.teacher.weight)]
        if step:
            assert closure() == closure() == closure.loss
        closure()
        assert all(torch.equal(now, then) for now, then in zip((*model.buffers(), model.teacher.weight), found))


def share_of_loss(model: nn.Module, inputs: torch.Tensor, parts: int) -> torch.Tensor:
    return (model(inputs) - inputs.sum(1, True)).square().mean() / parts


def test_a_search_over_a_window_is_the_search_over_the_whole_batch() -> None:
    """Four micro-batches of 8 take the steps of one batch of 32, in a plain loop."""
    final = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        inputs = torch.randn(10, 32, 4, dtype=torch.float64)
        optimizer = create_optimizer("adam_sls", model.parameters())
        steps = []
        for batch in inputs:
            optimizer.zero_grad()
            closure = LossClosure(model)
            for micro_batch in batch.chunk(parts):
                closure.record(partial(share_of_loss, model, micro_batch, parts)).backward()
            optimizer.step(closure, loss=closure.loss)
            steps.append(optimizer.last_report.step_size)
        final.append((steps, [p.detach() for p in model.parameters()]))
    (whole, whole_parameters), (split, split_parameters) = final
    torch.testing.assert_close(torch.tensor(split), torch.tensor(whole), rtol=1e-6, atol=0)
    for mine, other in zip(split_parameters, whole_parameters):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("max_norm", [1e9, 0.05])
def test_an_accelerate_loop_takes_the_steps_of_the_whole_batch(max_norm: float) -> None:
    """Micro-batches of 8 in windows of four, clipped, take the steps of batches of 32, with the slope scaled back."""
    final = []
    for parts in (1, 4):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        inputs = torch.randn(320, 4, dtype=torch.float64)
        optimizer = create_optimizer("adam_sls", model.parameters(), search_rate=float("inf"))
        loader = torch.utils.data.DataLoader(inputs, batch_size=32 // parts)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        steps, slopes, closure = [], [], None
        for batch in loader:
            with accelerator.accumulate(model):
                closure = closure or LossClosure(model, divisor=parts)
                accelerator.backward(closure.record(partial(share_of_loss, model, batch, 1)))
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), max_norm)
                    assert (norm > max_norm) == (max_norm < 1)
                    closure.clipped(norm, max_norm)
                optimizer.step(closure)
                if accelerator.sync_gradients:
                    closure = None
                    report = optimizer.optimizer.last_report
                    assert report.outcome == ("not_searched" if steps else "accepted")
                    steps.append(report.step_size)
                    slopes.append(optimizer.optimizer.param_groups[0]["line_search"]["last_slope"])
                optimizer.zero_grad()
        final.append((steps, slopes))
    assert final[0][0] == pytest.approx(final[1][0], rel=1e-6)
    assert final[0][1] == pytest.approx(final[1][1], rel=1e-6)
    assert len(steps) == 10


def test_packed_weights_are_no_buffers_to_put_back() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("packed", torch.zeros(2**20 + 1, dtype=torch.int32))
    model.register_buffer("count", torch.zeros(2**20, dtype=torch.int32))
    closure = LossClosure(model)
    closure.record(lambda: model(torch.ones(1, 1)).sum())
    before = [buffer._version for buffer in model.buffers()]
    closure()
    assert [buffer._version > version for buffer, version in zip(model.buffers(), before)] == [False, True]


def test_a_closure_without_a_recording_or_after_its_step_says_so() -> None:
    model = nn.Linear(1, 1)
    closure = LossClosure(model)
    optimizer = create_optimizer("adam_sls", model.parameters())
    with pytest.raises(RuntimeError, match=r"call record\(\) before the step"):
        optimizer.step(closure)
    loss = closure.record(lambda: model(torch.ones(1, 1)).square().sum())
    closure.close()
    assert closure.loss == loss
    with pytest.raises(RuntimeError, match="or closed"):
        closure()


@pytest.mark.parametrize("divisor", [0, -1.0, math.inf, math.nan, "2"])
def test_a_divisor_has_to_be_a_positive_number(divisor: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"divisor={divisor!r} is not allowed")):
        LossClosure(nn.Linear(1, 1), divisor=divisor)


def test_a_norm_needs_what_it_was_clipped_to() -> None:
    with pytest.raises(ValueError, match=r"max_norm=0.0 is not allowed"):
        LossClosure(nn.Linear(1, 1)).clipped(2.0, max_norm=0.0)


def test_a_model_with_an_updated_parameter_of_its_own_is_freed() -> None:
    """The root module itself holds the frozen parameter that its forward pass updates."""

    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.average = nn.Parameter(torch.zeros(3), requires_grad=False)

        def forward(self) -> torch.Tensor:
            with torch.no_grad():
                self.average.lerp_(self.weight, 0.1)
            return (self.weight - self.average).square().sum()

    model = Averaging()
    for _ in range(2):
        closure = LossClosure(model)
        closure.record(model)
    assert closure() == closure.loss
    alive = weakref.ref(model)
    del model, closure
    gc.collect()
    assert alive() is None


class Adapted(nn.Module):
    """A frozen layer and a trained one in fp32, whose sum is kept in the data type of the frozen one."""

    def __init__(self, base: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(8, 1).to(base).requires_grad_(False)
        self.adapter = nn.Linear(8, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        base = self.base(inputs.to(self.base.weight.dtype))
        return (base + self.adapter(inputs).to(base.dtype)).float()


@pytest.mark.parametrize(("base", "is_noticed"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_decrease_that_the_rounding_of_a_frozen_base_may_hide_is_no_foreign_gradient(
    base: torch.dtype, is_noticed: bool
) -> None:
    """Here the gradient is wrong by a factor; in bf16 so short a step changes no output, whatever the gradient."""
    model, inputs = Adapted(base), torch.randn(16, 8)
    optimizer = create_optimizer("adam_sls", model.adapter.parameters(), init_step_size=2e-4)
    closure = LossClosure(model)
    closure.record(lambda: (model(inputs) - 3.0).square().mean()).backward()
    for parameter in model.adapter.parameters():
        parameter.grad *= 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step(closure)
    assert any("is not that of the loss" in str(each.message) for each in caught) == is_noticed
    assert closure.rounding == torch.finfo(base).eps


def final_losses(steps: int, how: str) -> list[float]:
    """Losses of a regression under bf16 autocast, which the loop opens around the loss, the step or the recording."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
    inputs = torch.randn(32, 16)
    optimizer = create_optimizer("adam_sls", model.parameters())
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)

    def loss_of() -> torch.Tensor:
        return nn.functional.mse_loss(model(inputs).float(), inputs[:, :1])

    def loss_in_autocast() -> torch.Tensor:
        with autocast():
            return loss_of()

    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        if how == "around the loss":
            losses.append(float(optimizer.step(loss_in_autocast)))
        elif how == "around the step":
            with autocast():
                losses.append(float(optimizer.step(loss_of)))
        else:
            closure = LossClosure(model)
            with autocast():
                loss = closure.record(loss_of)
            loss.backward()
            assert closure() == closure.loss
            optimizer.step(closure)
            losses.append(float(closure.loss))
    return losses


def test_a_replay_has_the_autocast_of_the_recording() -> None:
    assert len(set(final_losses(10, "around the recording"))) == 10


def test_an_autocast_around_the_step_is_the_one_around_the_loss() -> None:
    """Its cache of cast weights would show each trial the parameters from before the step."""
    assert final_losses(20, "around the step") == final_losses(20, "around the loss")


def test_a_first_batch_may_set_the_parameters() -> None:
    """As in ActNorm: a bool says that it is done, which trials leave as it is."""

    class Standardized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))
            self.is_ready = False

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if not self.is_ready:
                self.shift.data.copy_(inputs.mean())
                self.is_ready = True
            return (self.scale * (inputs - self.shift)).square().mean()

    model, inputs = Standardized(), torch.tensor([1.0, 4.0])
    optimizer = create_optimizer("sgd_sls", model.parameters())
    losses = []
    for _ in range(4):
        closure = LossClosure(model)
        for _ in range(2):
            closure.record(partial(model, inputs)).backward()
        losses.append(float(optimizer.step(closure)))
        optimizer.zero_grad()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["adam_sls", "sgd_sls"])
def test_a_closure_serves_one_step(name: str) -> None:
    model = nn.Linear(2, 1)
    optimizer, closure = create_optimizer(name, model.parameters()), LossClosure(model)

    def evaluate() -> torch.Tensor:
        return model(torch.ones(1, 2)).square().sum()

    for _ in range(2):
        closure.record(evaluate).backward()
    optimizer.step(closure)
    with pytest.raises(RuntimeError, match="A LossClosure serves one step: make a new one"):
        closure.record(evaluate)


@pytest.mark.parametrize(
    "layer", [lambda: nn.Embedding(4, 3, max_norm=0.1), lambda: nn.LazyLinear(3)], ids=["norm", "lazy"]
)
def test_a_forward_pass_may_write_to_the_parameters(layer: Any) -> None:
    model = layer()
    inputs = torch.arange(4) if isinstance(model, nn.Embedding) else torch.ones(1, 4)
    closure = LossClosure(model)
    for _ in range(2):
        closure.record(lambda: model(inputs).square().sum())
    assert closure() == closure.loss or isinstance(model, nn.Embedding)


def test_what_is_no_loss_is_named() -> None:
    model = nn.Linear(2, 1)
    optimizer = create_optimizer("adam_sls", model.parameters())
    with pytest.raises(TypeError, match="model of type AdamSLS is not allowed"):
        LossClosure(optimizer)
    with pytest.raises(TypeError, match=r"record\(tensor\(.*a function that returns the loss is needed"):
        LossClosure(model).record(torch.ones(()))
    with pytest.raises(TypeError, match="returned a tuple, not the loss"):
        LossClosure(model).record(lambda: (model(torch.ones(1, 2)).sum(), 1))
    with pytest.raises(TypeError, match=r"step\(closure=tensor\(1\.\)\) is not allowed: a function"):
        optimizer.step(torch.ones(()))
