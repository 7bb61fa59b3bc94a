"""What every member promises: exact undo, exact random state, clear refusals, exact resume."""

from __future__ import annotations

import copy
import io
import math
import pickle
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_sls.optim import (
    OPTIMIZERS,
    Adam,
    AdamSLS,
    Adaptive,
    Armijo,
    Budget,
    Cyclic,
    Direction,
    Event,
    Gradient,
    InitialStep,
    LastStep,
    LineSearchOptimizer,
    RandomState,
    Searched,
    create_optimizer,
)

from ..members import MEMBERS
from ..problems import Network, restored, same, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:The loss of this batch", "ignore:The first search tried")
"""Closures that give trials another loss than the step are what many of these tests are made of."""

every_member = pytest.mark.parametrize("member", MEMBERS)


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_training_reduces_the_loss(member: str, dtype: torch.dtype) -> None:
    model = Network(dtype=dtype)
    optimizer = MEMBERS[member](model.parameters())
    (whole,) = model.closures(1, batch=64)
    before = float(whole())
    for closure in model.closures(90):
        optimizer.step(closure)
    assert float(whole()) < 0.8 * before


@every_member
def test_an_exhausted_search_leaves_the_parameters_alone(member: str) -> None:
    model = Network()
    optimizer = MEMBERS[member](model.parameters(), **({} if "cadence" in member else {"max_trials": 7}))
    before, calls = snapshot(model), []

    def closure() -> torch.Tensor:
        calls.append(None)
        return next(model.closures(1))() + (10.0 if len(calls) > 1 else 0.0)

    optimizer.step(closure)
    report = optimizer.last_report
    assert report.outcome in ("exhausted", "unresolvable")
    assert report.checks == 2
    assert 5 < report.trials == report.backtracks == len(calls) - 1 - report.checks
    assert restored(model, before, optimizer)
    assert optimizer.counts["skipped_steps"] == 1


@every_member
@pytest.mark.parametrize("raising_call", [1, 2, 3])
def test_an_exception_in_the_closure_leaves_no_trace(member: str, raising_call: int) -> None:
    model = Network(dropout=0.3)
    optimizer = MEMBERS[member](model.parameters())
    before, calls = snapshot(model), []
    stream = torch.get_rng_state()

    def closure() -> torch.Tensor:
        calls.append(None)
        if len(calls) == raising_call:
            raise KeyError("out of memory, say")
        return next(model.closures(1))() + (10.0 if len(calls) > 1 else 0.0)

    with pytest.raises(KeyError, match="out of memory"):
        optimizer.step(closure)
    assert restored(model, before, optimizer)
    drawn = torch.rand(3)
    torch.set_rng_state(stream)
    if raising_call > 1:
        next(model.closures(1))()
    assert torch.equal(torch.rand(3), drawn)


@every_member
def test_the_random_stream_is_that_of_one_evaluation(member: str) -> None:
    """Trials repeat the dropout masks of the first evaluation, and draw nothing from the stream."""
    streams = []
    for searching in (True, False):
        model = Network(dropout=0.5)
        optimizer = MEMBERS[member](model.parameters(), **({"init_step_size": 1e3} if member in OPTIMIZERS else {}))
        torch.manual_seed(1)
        closure = next(model.closures(1))
        if searching:
            optimizer.step(closure)
            assert optimizer.last_report.trials >= 1
        else:
            closure()
        streams.append(torch.rand(4))
    assert torch.equal(*streams)


def test_a_trial_sees_the_dropout_mask_of_the_first_evaluation() -> None:
    masks = []
    parameter = nn.Parameter(torch.ones(100))

    def closure() -> torch.Tensor:
        kept = nn.functional.dropout(parameter, 0.5)
        masks.append([*(kept != 0).tolist(), random.random(), np.random.rand()])
        return kept.square().sum()

    optimizer = create_optimizer("sgd_sls", [parameter], init_step_size=1.0, lower_bound=-1.0)
    for step in range(3):
        optimizer.step(closure)
        assert optimizer.last_report.checks == (2 if step == 0 else 0)
        assert len(masks) == 1 + optimizer.last_report.checks + optimizer.last_report.trials > 1
        assert all(mask == masks[0] for mask in masks)
        masks.clear()


@every_member
def test_both_step_conventions_agree(member: str) -> None:
    alone, after = Network(dropout=0.2), Network(dropout=0.2)
    first, second = MEMBERS[member](alone.parameters()), MEMBERS[member](after.parameters())
    torch.manual_seed(2)
    for closure in alone.closures(12):
        first.step(closure)
    torch.manual_seed(2)
    for closure in after.closures(12):
        state = RandomState.capture()
        second.zero_grad()
        loss = closure()
        loss.backward()

        def replayed(closure: Any = closure, state: RandomState = state) -> torch.Tensor:
            state.restore()
            return closure()

        returned = second.step(replayed, loss=loss)
        assert returned == loss
        assert not returned.requires_grad
    assert same(alone, snapshot(after))
    assert first.param_groups[0]["step_size"] == second.param_groups[0]["step_size"]


@every_member
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("steps_before", [1, 40])
def test_a_loss_that_is_not_finite_takes_no_step_and_spoils_nothing(
    member: str, value: float, steps_before: int
) -> None:
    """On a step that would have been searched, and on one that would not."""
    model = Network()
    optimizer = MEMBERS[member](model.parameters())
    *first, second = model.closures(steps_before + 1)
    for closure in first:
        optimizer.step(closure)
    before, moments = snapshot(model), moment_sums(optimizer)
    optimizer.step(lambda: second() * value)
    assert optimizer.last_report.outcome == "non_finite"
    assert same(model, before)
    assert moment_sums(optimizer) == moments


def moment_sums(optimizer: LineSearchOptimizer) -> list[float]:
    return [float(moment.sum()) for state in optimizer.state.values() for moment in state.values()]


def _inconsistent(closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A closure whose loss is twice as high in trials."""
    calls: list[None] = []

    def inconsistent() -> torch.Tensor:
        calls.append(None)
        return closure() * (1.0 if len(calls) == 1 else 2.0)

    return inconsistent


@pytest.mark.parametrize("name", ["adam_sls", "amsgrad_sls", "sgd_sls"])
@pytest.mark.parametrize(
    "fault", [lambda f: lambda: f() * math.nan, lambda f: lambda: f() * 0, _inconsistent], ids=["NaN", "zero", "trials"]
)
@pytest.mark.parametrize("bad", [1, 3])
def test_bad_batches_at_the_start_cost_their_steps_and_no_more(name: str, fault: Any, bad: int) -> None:
    model = Network()
    optimizer = create_optimizer(name, model.parameters())
    start, closures, losses = snapshot(model), model.closures(200), []
    for _ in range(bad):
        optimizer.step(fault(next(closures)))
        assert restored(model, start, optimizer)
    for closure in closures:
        losses.append(float(optimizer.step(closure)))
        assert optimizer.counts["accepted"] > 0
    assert optimizer.counts["skipped_steps"] == bad
    assert optimizer.counts["accepted"] >= (1 if optimizer.initial_step.needs_last_update else 10)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_a_device_that_nothing_ran_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking CUDA for its random state would start it, in a run on the CPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert RandomState.capture().devices == {}
    state = torch.arange(3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    assert RandomState.capture().devices == {torch.device("cuda", 1): state}


@every_member
def test_a_trial_loss_that_is_not_finite_is_rejected(member: str) -> None:
    model = Network()
    optimizer = MEMBERS[member](model.parameters())
    calls: list[None] = []

    def closure() -> torch.Tensor:
        calls.append(None)
        loss = next(model.closures(1))()
        return loss * float("nan") if len(calls) == 3 else loss  # the first trial, after the loss again

    optimizer.step(closure)
    assert optimizer.last_report.outcome == "accepted"
    assert optimizer.last_report.backtracks >= 1


@every_member
def test_no_gradient_takes_no_step(member: str) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = MEMBERS[member]([parameter])
    optimizer.step(lambda: parameter.square().sum())
    assert optimizer.last_report.outcome == "no_slope"
    assert optimizer.last_report.trials == 0
    assert torch.equal(parameter, torch.zeros(3))


@every_member
def test_a_decrease_below_the_rounding_of_the_loss_ends_the_search(member: str) -> None:
    """The loss is 1e6 in fp32, its gradient tiny: whatever the step, the loss cannot tell.

    A criterion with a tolerance takes the step, as the slope is not rounded away.
    """
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float32))
    optimizer = MEMBERS[member]([parameter])
    optimizer.step(lambda: 1e6 + 1e-6 * parameter.sum())
    if getattr(optimizer.criterion, "tolerance", 0.0):
        assert optimizer.last_report.outcome == "accepted"
        assert float(parameter.detach()) == pytest.approx(-optimizer.last_report.step_size, rel=0.02)  # eps is 1e-8
        return
    assert optimizer.last_report.outcome == "unresolvable"
    assert optimizer.last_report.trials == 0
    assert float(parameter.detach()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("adam_sls", {"look_back": False})] + [(name, {}) for name in ("adagrad_sls", "plasls", "sgd_sls")],
)
def test_a_loss_at_its_lower_bound_leaves_the_step_size_alone(name: str, settings: dict[str, float]) -> None:
    """Zero, with a gradient: no step can help, and the next batch is searched from where the last one ended."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = create_optimizer(name, [parameter], lower_bound=0.0, search_rate=float("inf"), **settings)
    optimizer.step(lambda: parameter.square().sum())
    memory, before = optimizer.param_groups[0]["line_search"], float(parameter.detach())
    for _ in range(3):
        optimizer.step(lambda: (parameter - parameter.detach()).sum())
        assert optimizer.last_report.outcome == "unresolvable"
    after = optimizer.param_groups[0]["line_search"]
    starts = [optimizer.initial_step.start(each["initial_step"]) for each in (memory, after)]
    assert starts[0] == starts[1]
    assert float(parameter.detach()) == before


def _looks_back(optimizer: LineSearchOptimizer) -> bool:
    return optimizer.initial_step.looks_back(optimizer.param_groups[0]["line_search"]["initial_step"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("max_trials", [2, 20])
def test_a_failed_search_takes_no_step_and_shortens_the_next_one_if_trials_were_rejected(
    name: str, max_trials: int
) -> None:
    model = Network(dtype=torch.float32)
    optimizer = create_optimizer(name, model.parameters(), max_trials=max_trials, search_rate=float("inf"))
    closures = list(model.closures(12))
    for closure in closures[:8]:
        optimizer.step(closure)
    while not optimizer.search_due or _looks_back(optimizer):
        optimizer.step(closures[8])
    before, step_size = snapshot(model), optimizer.param_groups[0]["step_size"]
    optimizer.step(lambda: closures[9]() + (0.0 if torch.is_grad_enabled() else 100.0))
    tolerant = name in ("adam_sls", "amsgrad_sls")
    assert optimizer.last_report.outcome == ("exhausted" if max_trials == 2 or tolerant else "unresolvable")
    assert optimizer.last_report.trials >= optimizer.last_report.backtracks > 1
    assert same(model, before) or restored(model, before, optimizer)
    assert optimizer.last_report.step_size == optimizer.param_groups[0]["step_size"] == 0.0
    kept = optimizer.param_groups[0]["line_search"]["initial_step"]["step_size"]
    held = optimizer.initial_step.needs_last_update  # once it is settled
    assert 0 < kept <= (0.6 if max_trials == 2 and not held else 1) * step_size


@every_member
def test_missing_gradients_are_skipped_and_frozen_parameters_stay(member: str) -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = MEMBERS[member]([used, unused, frozen])
    for _ in range(3):
        optimizer.step(lambda: (used * frozen).square().sum())
    assert not torch.equal(used.detach(), torch.ones(2))
    assert torch.equal(unused.detach(), torch.ones(2))
    assert torch.equal(frozen, torch.ones(2))


@every_member
def test_a_group_without_gradients_is_no_obstacle(member: str) -> None:
    """LoRA leaves the Trainer's group without weight decay empty."""
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = MEMBERS[member]([{"params": [used]}, {"params": []}, {"params": [unused]}])
    for _ in range(80):
        optimizer.step(lambda: used.square().sum())
    assert float(used.detach().abs().max()) < 0.5
    assert torch.equal(unused.detach(), torch.ones(2))


@every_member
def test_no_gradient_at_all_takes_no_step(member: str) -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = MEMBERS[member]([unused])
    optimizer.step(lambda: used.square().sum())
    assert optimizer.last_report.outcome == "no_slope"
    assert torch.equal(unused.detach(), torch.ones(2))


@every_member
def test_sparse_gradients_are_refused(member: str) -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = MEMBERS[member](embedding.parameters())
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step(lambda: embedding(torch.tensor([1])).sum())


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        create_optimizer("adam_sls", [nn.Parameter(torch.zeros(2, dtype=torch.complex64))])


@every_member
def test_a_step_without_a_closure_says_what_to_use(member: str) -> None:
    optimizer = MEMBERS[member](Network().parameters())
    with pytest.raises(RuntimeError, match=r"step\(closure\).*SLSTrainer"):
        optimizer.step()


@pytest.mark.parametrize(
    ("convention", "answer"),
    [
        (lambda loss: (loss.backward(), loss)[1], "called backward"),
        (lambda loss: (loss.backward(), loss.detach())[1], "called backward"),
        (lambda loss: None, "returned None"),
        (lambda loss: loss.reshape(1), r"a tensor of the shape \(1,\)"),
        (lambda loss: loss.detach(), "without a graph"),
        (lambda loss: float(loss.detach()), "returned 0"),
    ],
    ids=["LBFGS", "Lightning", "None", "shape", "detached", "float"],
)
def test_a_closure_of_another_convention_is_told_what_to_do(convention: Any, answer: str) -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    closure, before = next(model.closures(1)), snapshot(model)
    with pytest.raises(RuntimeError, match=rf"closure\(\).*{answer}.*has to return the loss"):
        optimizer.step(lambda: convention(closure()))
    assert same(model, before)


def test_an_unknown_argument_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        TypeError, match=r"lr=0.0001 is not an argument of AdamSLS, which takes init_step_size, c.*found"
    ):
        create_optimizer("adam_sls", Network().parameters(), lr=1e-4)


def test_a_state_loads_whose_losses_rose_within_the_tolerance() -> None:
    optimizer = create_optimizer("adam_sls", Network().parameters())
    state = optimizer.state_dict()
    state["param_groups"][0]["line_search"]["counts"].update(loss_decrease=-0.01, criterion_ratio=-2.0)
    optimizer.load_state_dict(copy.deepcopy(state))
    assert optimizer.counts["loss_decrease"] == -0.01


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no notes on exceptions")
def test_a_closure_that_uses_up_its_batch_is_told_that_it_is_called_again() -> None:
    parameter, batch = nn.Parameter(torch.ones(3)), {"labels": torch.zeros(3)}
    optimizer = create_optimizer("adam_sls", [parameter])
    with pytest.raises(KeyError, match="labels") as error:
        optimizer.step(lambda: (parameter - batch.pop("labels")).square().sum())
    (note,) = error.value.__notes__
    assert "called the closure again" in note
    assert torch.equal(parameter, torch.ones(3))


def test_a_state_loads_whose_moments_no_float32_can_hold() -> None:
    parameter = nn.Parameter(torch.ones(10, dtype=torch.float64))
    optimizer = create_optimizer("adam_sls", [parameter])
    optimizer.step(lambda: 1e21 * parameter.square().sum())
    assert optimizer.state[parameter]["exp_avg_sq"].sum() > torch.finfo(torch.float32).max
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("broken", ["shape", "NaN", "negative", "empty", "no state"])
def test_a_broken_state_is_refused_and_nothing_loaded(broken: str) -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    for closure in model.closures(3):
        optimizer.step(closure)
    state, before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    (group,) = state["param_groups"]
    if broken == "shape":
        state["state"][1]["exp_avg"] = torch.zeros(3)
    elif broken == "NaN":
        state["state"][1]["exp_avg"][0] = math.nan
    elif broken == "negative":
        group["step_size"] = -1.0
    elif broken == "empty":
        state["param_groups"] = []
    else:
        state["state"] = None
    answers = {
        "shape": "exp_avg of parameter number 1 has the shape",
        "NaN": "exp_avg of parameter number 1 is not finite",
    }
    answers |= {"negative": "its step_size is -1.0", "empty": "are empty", "no state": "are empty"}
    with pytest.raises(ValueError, match=rf"not one of AdamSLS: .*{answers[broken]}"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][1][name], before["state"][1][name]) for name in ("exp_avg", "exp_avg_sq"))


class Recorded:
    """A closure whose loss and gradient are there."""

    def __init__(self, closure: Callable[[], torch.Tensor], gradient_scale: float = 1.0) -> None:
        self.closure, self.gradient_scale = closure, gradient_scale
        self.loss = closure()
        self.loss.backward()

    def __call__(self) -> torch.Tensor:
        return self.closure()


@every_member
def test_a_closure_that_waits_serves_one_step(member: str) -> None:
    model = Network()
    optimizer = MEMBERS[member](model.parameters())
    optimizer.closure = Recorded(next(model.closures(1)))
    optimizer.step()
    assert optimizer.last_report.outcome == "accepted"
    with pytest.raises(RuntimeError, match="no closure"):
        optimizer.step()


def test_a_step_that_never_came_is_counted() -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    for number, closure in enumerate(model.closures(3)):
        optimizer.zero_grad()
        optimizer.closure = Recorded(closure)
        if number == 2:
            optimizer.step()
        optimizer.count_if_left_out()
    counts = optimizer.counts
    assert (counts["steps"], counts["skipped_steps"], counts["searches"]) == (3, 2, 1)


def test_what_is_due_is_due_whether_the_step_before_came_or_not() -> None:
    """Layer by layer, with steps that a gradient scaler leaves out, and closures made for steps without a search."""
    model = Network()
    layers = [{"params": [parameter]} for parameter in model.parameters()]
    cadence = Adaptive(warmup=3, max_interval=5)
    optimizer = LineSearchOptimizer(layers, direction=Adam(), partition=Cyclic(joint_steps=0), cadence=cadence)
    searched = []
    for number, closure in enumerate(model.closures(60)):
        due = optimizer.search_due
        optimizer.zero_grad()
        optimizer.closure = Recorded(closure)
        if number % 3:
            optimizer.step()
            searched.append((due, optimizer.last_report.outcome != "not_searched"))
        optimizer.count_if_left_out()
    assert {due for due, _ in searched} == {True, False}
    assert all(due == did for due, did in searched)


@every_member
def test_gradient_scale_restores_the_slope_of_a_clipped_gradient(member: str) -> None:
    slopes = []
    for factor in (1.0, 0.25):
        model = Network()
        optimizer = MEMBERS[member](model.parameters())
        closure = Recorded(next(model.closures(1)), gradient_scale=1 / factor)
        for parameter in model.parameters():
            parameter.grad *= factor
        optimizer.step(closure)
        slopes.append(optimizer.last_report.slope)
    is_sgd = isinstance(optimizer.direction, Gradient)
    assert slopes[1] == pytest.approx(slopes[0] * (0.25 if is_sgd else 1.0), rel=1e-5)


@every_member
@pytest.mark.parametrize("through", ["state dict", "torch.save", "torch.distributed.checkpoint"])
def test_a_resumed_run_is_the_same_run(member: str, through: str) -> None:
    unbroken, broken = Network(), Network()
    optimizer = MEMBERS[member](unbroken.parameters(), weight_decay=0.01)
    for closure in unbroken.closures(30):
        optimizer.step(closure)

    first = MEMBERS[member](broken.parameters(), weight_decay=0.01)
    closures = list(broken.closures(30))
    for closure in closures[:13]:
        first.step(closure)
    second = MEMBERS[member](broken.parameters(), weight_decay=0.01)
    resume(through, broken, first, second)
    for closure in closures[13:]:
        second.step(closure)
    assert same(broken, snapshot(unbroken))
    assert second.counts == optimizer.counts
    memories = [each.state_dict()["param_groups"][0]["line_search"] for each in (optimizer, second)]
    assert memories[0] == memories[1]
    assert second.last_report.step_size == optimizer.last_report.step_size


def resume(through: str, model: nn.Module, old: LineSearchOptimizer, new: LineSearchOptimizer) -> None:
    if through == "state dict":
        new.load_state_dict(old.state_dict())
    elif through == "torch.save":
        file = io.BytesIO()
        torch.save(old.state_dict(), file)
        file.seek(0)
        new.load_state_dict(torch.load(file, weights_only=True))
    else:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        model.zero_grad()
        set_optimizer_state_dict(model, new, get_optimizer_state_dict(model, old))


@every_member
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_like_the_original(member: str, copied: Any) -> None:
    model = Network(dropout=0.2)
    optimizer = MEMBERS[member](model.parameters(), weight_decay=0.01)
    for closure in model.closures(13):
        optimizer.step(closure)
    other_model, other = copied((model, optimizer))
    for twin, of in ((model, optimizer), (other_model, other)):
        torch.manual_seed(1)
        for closure in twin.closures(7):
            of.step(closure)
    assert same(model, snapshot(other_model))
    assert other.describe() == optimizer.describe()
    assert other.counts == optimizer.counts
    assert other.last_report == optimizer.last_report


def test_a_state_of_before_a_count_was_kept_loads() -> None:
    model = Network()
    optimizer = MEMBERS["adam_sls, published"](model.parameters())
    for closure in model.closures(3):
        optimizer.step(closure)
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["line_search"]["counts"]["slope"]
    resumed = MEMBERS["adam_sls, published"](model.parameters())
    resumed.load_state_dict(state)
    assert resumed.counts == {**optimizer.counts, "slope": 0}
    assert "slope" not in state["param_groups"][0]["line_search"]["counts"]


@every_member
def test_the_state_of_another_optimizer_is_refused(member: str) -> None:
    model = Network()
    optimizer = MEMBERS[member](model.parameters())
    foreign = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(ValueError, match=r"not one of .*step_size"):
        optimizer.load_state_dict(foreign)
    another = LineSearchOptimizer(model.parameters(), direction=Gradient(), cadence=Counting()).state_dict()
    with pytest.raises(ValueError, match="search memory"):
        optimizer.load_state_dict(another)
    for nothing in ({"model": 1}, [1]):
        with pytest.raises(ValueError, match="not one of .* no state and param_groups"):
            optimizer.load_state_dict(nothing)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("adam_sls, published", "amsgrad_sls, published"),
        ("amsgrad_sls, published", "adam_sls, published"),
        ("adagrad_sls, published", "adam_sls, published"),
        ("adam_sls, published", "sgd_sls, published"),
        ("sgd_sls, published", "adagrad_sls, published"),
    ],
)
def test_the_moments_of_another_direction_are_refused(saved: str, loaded: str) -> None:
    """Their searches remember the same, their directions do not."""
    model = Network()
    optimizer, another = MEMBERS[saved](model.parameters()), MEMBERS[loaded](model.parameters())
    another.load_state_dict(optimizer.state_dict())  # before the first step they are alike
    for closure in model.closures(2):
        optimizer.step(closure)
    with pytest.raises(ValueError, match="not one of .*its moments are"):
        MEMBERS[loaded](model.parameters()).load_state_dict(optimizer.state_dict())


class ByShape(Direction):
    """The gradient, with moments that depend on the shape of the parameter, and may be negative."""

    def applied_update(self, gradients: list[Tensor], states: list[Any]) -> list[Tensor]:
        return gradients

    def accumulate(self, gradients: list[Tensor], states: list[Any]) -> None:
        for gradient, state in zip(gradients, states):
            state[f"of dimension {gradient.ndim}"] -= gradient.abs()

    def new_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"of dimension {parameter.ndim}": torch.zeros(parameter.shape)}


def test_a_state_loads_that_its_optimizer_may_have() -> None:
    """Of moments that depend on the parameter, and of a run whose scaler has left out every step so far."""
    model = Network()
    optimizer, another = (LineSearchOptimizer(model.parameters(), direction=ByShape()) for _ in range(2))
    for closure in model.closures(2):
        optimizer.step(closure)
    another.load_state_dict(optimizer.state_dict())
    assert another.counts["steps"] == 2
    left_out = create_optimizer("adam_sls", model.parameters())
    left_out.closure = Recorded(next(model.closures(1)))
    left_out.count_if_left_out()
    create_optimizer("adam_sls", model.parameters()).load_state_dict(left_out.state_dict())


class Counting:
    """A cadence with a memory that no other has."""

    def new_memory(self) -> dict[str, float]:
        return {"counting": 0}

    def due(self, memory: dict[str, float]) -> bool:
        return True

    def update(self, memory: dict[str, float], event: Any) -> dict[str, float]:
        return {"counting": memory["counting"] + 1}


def test_a_step_with_lr_zero_and_no_closure_creates_state_only() -> None:
    """Torch's state-dict functions make this call before they load a state."""
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    before = snapshot(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert optimizer.step() is None
    assert same(model, before)
    assert all("exp_avg" in optimizer.state[parameter] for parameter in model.parameters())


def test_a_group_added_later_joins_the_search() -> None:
    model = Network()
    weights = [p for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = create_optimizer("adam_sls", weights, weight_decay=0.1)
    first, second = model.closures(2)
    optimizer.step(first)
    step_size = optimizer.param_groups[0]["step_size"]
    optimizer.add_param_group({"params": biases, "weight_decay": 0.0})
    assert optimizer.param_groups[1]["step_size"] == 0.0 < step_size
    before = [bias.detach().clone() for bias in biases]
    optimizer.step(second)
    assert not any(torch.equal(bias, old) for bias, old in zip(biases, before))
    assert optimizer.param_groups[0]["step_size"] == optimizer.param_groups[1]["step_size"]


def test_a_group_that_is_refused_is_not_trained() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = create_optimizer("adam_sls", [first])
    for group in ({"params": [second], "weight_decay": -1.0}, {"params": [nn.Parameter(torch.ones(2) * 1j)]}):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_two_optimizers_share_no_memory() -> None:
    model, other = Network(), Network()
    first, second = (create_optimizer("adam_sls", m.parameters()) for m in (model, other))
    before = dict(second.param_groups[0]["line_search"])
    for closure in model.closures(3):
        first.step(closure)
    assert second.param_groups[0]["line_search"] == before


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "c": ("adam_sls", {"c": 1.5}),
    "init_step_size": ("sgd_sls", {"init_step_size": 0.0}),
    "growth": ("adam_sls", {"growth": 0.9}),
    "shrink": ("adam_sls", {"shrink": 1.0}),
    "max_trials": ("adam_sls", {"max_trials": 0}),
    "search_rate": ("adam_sls", {"search_rate": float("nan")}),
    "search_credit": ("ponos", {"search_credit": -1.0}),
    "look_back": ("adam_sls", {"look_back": "yes"}),
    "watch": ("adam_sls", {"watch": 0.5}),
    "lower_bound": ("adam_sls", {"lower_bound": float("inf")}),
    "interpolate": ("adam_sls", {"interpolate": "False"}),
    "c_p": ("ponos", {"c_p": 0.0}),
    "search_direction": ("adam_sls", {"search_direction": "newton"}),
    "betas[0]": ("adam_sls", {"betas": (1.0, 0.9)}),
    "betas": ("adam_sls", {"betas": (0.9,)}),
    "eps": ("adam_sls", {"eps": -1e-8}),
    "weight_decay": ("adam_sls", {"weight_decay": float("nan")}),
    "name": ("adam", {}),
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_values_are_refused_by_name(argument: str) -> None:
    name, values = BAD[argument]
    value = next(iter(values.values()), name)
    with pytest.raises(ValueError) as refusal:
        create_optimizer(name, Network().parameters(), **values)
    assert str(refusal.value).startswith(f"{argument}=")
    assert repr(value) in str(refusal.value) or argument == "betas[0]"


def test_a_setting_without_effect_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match=r"smoothing=0.3 has no effect on 'adam_sls' beside look_back=True"):
        create_optimizer("adam_sls", Network().parameters(), smoothing=0.3)
    with pytest.warns(UserWarning, match=r"watch=False has no effect on 'adam_sls' beside look_back=False"):
        create_optimizer("adam_sls", Network().parameters(), watch=False, look_back=False)
    for name, match in (
        ("adam_sls", r"search_credit=5 has no effect on 'adam_sls' beside look_back=True"),
        ("ponos", r"search_credit=5 has no effect on 'ponos' beside search_rate=inf; with search_rate=a finite number"),
    ):
        with pytest.warns(UserWarning, match=match):
            create_optimizer(name, Network().parameters(), search_credit=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_optimizer("adam_sls", Network().parameters(), smoothing=0.3, look_back=False)
        create_optimizer("sgd_sls", Network().parameters(), c=0.3, search_credit=5)
        create_optimizer("ponos", Network().parameters(), search_credit=5, search_rate=0.5)


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(1e-6, 1e6),
    first=st.floats(1e-6, 1e3),
    c=st.floats(0.01, 0.99),
    member=st.sampled_from(sorted(OPTIMIZERS)),
)
def test_any_scale_of_the_loss_is_searched_to_an_accepted_step(
    scale: float, first: float, c: float, member: str
) -> None:
    model = Network()
    optimizer = create_optimizer(member, model.parameters(), init_step_size=first, c=c, max_trials=200)
    closure = next(model.closures(1))
    optimizer.step(lambda: scale * closure())
    report = optimizer.last_report
    assert report.outcome == "accepted"
    tolerance = getattr(optimizer.criterion, "tolerance", 0.0)
    line = Armijo(optimizer.criterion.c, tolerance).line(report.loss, report.slope, {})
    assert line.accepts(report.step_size, report.loss - report.loss_decrease)


class Hostile:
    """A closure that returns one kind of loss after the other; the last kind repeats."""

    def __init__(self, kinds: list[str], closure: Any, start: torch.Tensor) -> None:
        self.kinds, self.closure, self.start, self.calls = kinds, closure, start, 0

    def __call__(self) -> torch.Tensor:
        kind = self.kinds[min(self.calls, len(self.kinds) - 1)]
        self.calls += 1
        known = {"higher": self.start + 1.0, "equal": self.start, "zero": 0.0 * self.start, "true": self.closure()}
        return known[kind] if kind in known else self.start * float(kind)


losses_seen_by_trials = st.sampled_from(["true", "nan", "inf", "-inf", "higher", "equal", "zero"])


@settings(max_examples=60, deadline=None)
@given(
    member=st.sampled_from(sorted(MEMBERS)),
    steps=st.lists(st.lists(losses_seen_by_trials, min_size=1, max_size=4), min_size=1, max_size=6),
    gradient=st.sampled_from(["true", "zero", "reversed", "nan"]),
)
def test_whatever_the_losses_are_a_search_ends_and_only_an_accepted_step_moves(
    member: str, steps: list[list[str]], gradient: str
) -> None:
    """The gradient need not belong to the loss either."""
    model = Network()
    optimizer = MEMBERS[member](model.parameters())
    for kinds, closure in zip(steps, model.closures(len(steps))):
        start = closure()
        optimizer.zero_grad()
        start.backward()
        for parameter in model.parameters():
            parameter.grad *= {"true": 1.0, "zero": 0.0, "reversed": -1.0, "nan": float("nan")}[gradient]

        hostile = Hostile(kinds, closure, start.detach())
        before, steps_before = snapshot(model), optimizer.counts["steps"]
        optimizer.step(hostile, loss=start)
        report = optimizer.last_report
        assert hostile.calls == report.trials + report.checks <= 202
        assert optimizer.counts["steps"] == steps_before + 1
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert 0 <= optimizer.param_groups[0]["step_size"] < float("inf")
        if report.outcome not in ("accepted", "not_searched"):
            waiting = [group for group in optimizer.param_groups if group["step_size"] != report.step_size]
            assert waiting or restored(model, before, optimizer)
    assert optimizer.counts["skipped_steps"] <= len(steps)


@every_member
def test_a_thousand_rejected_trials_leave_the_parameters_where_they_were(member: str) -> None:
    model = Network(dtype=torch.float32)
    optimizer = MEMBERS[member](model.parameters(), **({"search_rate": float("inf")} if member in OPTIMIZERS else {}))
    before, rejected = snapshot(model), 0
    while rejected < 1000:
        start = next(model.closures(1))()
        optimizer.zero_grad()
        start.backward()
        optimizer.step(lambda: torch.tensor(1e9), loss=start.detach())
        assert optimizer.last_report.outcome in ("exhausted", "unresolvable", "no_slope")
        rejected += max(optimizer.last_report.backtracks, 1)
        for group in optimizer.param_groups:
            memory = group["line_search"]
            group["line_search"] = {**memory, "initial_step": {**memory["initial_step"], "step_size": 5e-4}}
    assert restored(model, before, optimizer)


def test_a_loss_that_changes_in_the_run_is_told_of_at_the_hundredth_search() -> None:
    """Every search of a run without a settled step size is one more forward pass; the check is one in a hundred."""
    model = Network()
    optimizer = create_optimizer("sgd_sls", model.parameters(), search_rate=float("inf"))
    closures = list(model.closures(120))
    for closure in closures[:99]:
        optimizer.step(closure)
    assert optimizer.counts["checks"] == 2  # the loss, and the decrease along a shorter step
    drift = iter(range(10**6))
    with pytest.warns(UserWarning, match="The loss of this batch is .* when it is evaluated again"):
        optimizer.step(lambda: closures[99]() * (1 + 0.1 * next(drift)))
    assert optimizer.counts["checks"] == 4
    for closure in closures[100:]:
        optimizer.step(closure)
    assert optimizer.counts["checks"] == 4


@pytest.mark.parametrize("name", ["adam_sls", "sgd_sls", "plasls"])
def test_a_step_that_moved_nothing_has_a_step_size_of_zero(name: str) -> None:
    """Of a search or not: the loss of the batch is NaN, with its gradient."""
    model = Network()
    optimizer = create_optimizer(name, model.parameters())
    for closure in model.closures(40):
        optimizer.step(closure)
        assert optimizer.last_step_sizes[0] > 0
    for _ in range(3):
        before = snapshot(model)
        optimizer.step(lambda: next(model.closures(1))() * math.nan)
        assert same(model, before)
        assert optimizer.last_report.step_size == 0.0
        assert optimizer.last_step_sizes == [0.0] * len(optimizer.param_groups)
    assert optimizer.counts["skipped_steps"] == 3


class CountingDown:
    """A cadence of a user: its memory falls, and may be negative."""

    def new_memory(self) -> dict[str, float]:
        return {"left": 2, "slow": 0.0}

    def due(self, memory: dict[str, float]) -> bool:
        return memory["left"] > 0

    def update(self, memory: dict[str, float], event: Any) -> dict[str, float]:
        return {"left": memory["left"] - 1, "slow": memory["slow"] - 1.0}


def test_the_memory_of_a_rule_of_ones_own_has_no_bounds() -> None:
    model = Network()
    first, second = (
        LineSearchOptimizer(model.parameters(), direction=Adam(), cadence=CountingDown()) for _ in range(2)
    )
    for closure in model.closures(5):
        first.step(closure)
    first.param_groups[0]["lr"] = np.float32(0.5)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["line_search"]["cadence"] == {"left": -3, "slow": -5.0}
    state = first.state_dict()
    state["param_groups"][0]["line_search"]["cadence"]["left"] = math.nan
    with pytest.raises(ValueError, match="its left is nan"):
        second.load_state_dict(state)


def test_the_next_batch_judges_the_last_step_after_batches_that_are_nan() -> None:
    """They move neither the parameters nor the moments, so the run is that without them."""
    models = Network(), Network()
    step_sizes = []
    for model, broken in zip(models, (False, True)):
        optimizer = create_optimizer("adam_sls", model.parameters())
        found = []
        for step, closure in enumerate(model.closures(12)):
            for _ in range(2 if broken and step == 6 else 0):
                optimizer.step(lambda model=model: next(model.closures(1))() * math.nan)
                assert optimizer.param_groups[0]["step_size"] == 0.0
            optimizer.step(closure)
            found.append(optimizer.param_groups[0]["step_size"])
        step_sizes.append(found)
    assert step_sizes[0] == pytest.approx(step_sizes[1], rel=1e-12)


def test_a_loss_that_needs_gradients_is_found_out_after_a_first_batch_that_is_nan() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    factor = math.nan

    def closure() -> Tensor:
        loss = w.pow(4).sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        return factor * (loss + gradient.square().sum())

    optimizer = create_optimizer("adam_sls", [w])
    optimizer.step(closure)
    factor = 1.0
    for _ in range(4):
        optimizer.step(closure)
    assert optimizer.counts["accepted"] == 1
    assert optimizer.counts["trials"] == optimizer.last_search.trials + 3  # the steps after it look back
    assert optimizer.counts["checks"] == 2


@pytest.mark.parametrize(
    "setting", [{"betas": (0.9, 0.99)}, {"c": 0.3}, {"momentum": 0.9}, {"maximize": True}], ids=str
)
def test_a_group_has_no_settings_of_the_whole_optimizer(setting: dict[str, Any]) -> None:
    layers = nn.Linear(2, 2), nn.Linear(2, 1)
    (name,) = setting
    advice = "Pass it to AdamSLS" if name in ("betas", "c") else "AdamSLS has none"
    with pytest.raises(ValueError, match=rf"{name}=.* in a parameter group would have no effect: .*{advice}"):
        create_optimizer("adam_sls", [{"params": layers[0].parameters(), **setting}])
    optimizer = create_optimizer("adam_sls", layers[0].parameters())
    with pytest.raises(ValueError, match=rf"{name}=.* in a parameter group would have no effect"):
        optimizer.add_param_group({"params": layers[1].parameters(), **setting})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([layers[1].weight])
    harmless = {"name": "head", "foreach": None, "maximize": False}
    optimizer.add_param_group({"params": layers[1].parameters(), "weight_decay": 0.1, **harmless})
    assert optimizer.param_groups[1]["name"] == "head"


@pytest.mark.parametrize(
    ("rates", "warned"),
    [
        ([0.0, 1e-3, 2e-3, 1e-3], 1),
        ([1e-3, 5e-4, 1e-3, 5e-4], 1),
        ([0.01] * 3, 1),
        ([5e-4, 1e-3, 1e-3], 1),
        ([0.0, 0.005, 0.01, 0.5, 1.0, 0.5], 0),
        ([0.0, 0.5, 1.0, 1e-3], 0),
    ],
)
def test_learning_rates_written_into_the_groups_are_warned_of(rates: list[float], warned: int) -> None:
    layer = nn.Linear(2, 1)
    optimizer = create_optimizer("adam_sls", layer.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step(lambda: layer(torch.ones(4, 2)).square().mean())
    assert sum("is not a learning rate here" in str(each.message) for each in caught) == warned


def test_a_cycle_that_starts_low_is_not_warned_of() -> None:
    layer = nn.Linear(2, 1)
    optimizer = create_optimizer("adam_sls", layer.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=10, div_factor=1000, cycle_momentum=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(10):
            optimizer.step(lambda: layer(torch.ones(4, 2)).square().mean())
            scheduler.step()


def test_a_learning_rate_in_its_place_in_torch_is_no_step_size() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        AdamSLS(nn.Linear(2, 1).parameters(), 5e-5)


@pytest.mark.parametrize("name", ["sgd_sls", "adam_sls", "adagrad_sls", "ponos"])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_closure_may_clear_gradients_but_not_in_place(set_to_none: bool, name: str) -> None:
    layer = nn.Linear(2, 1)
    optimizer = create_optimizer(name, layer.parameters())
    before = snapshot(layer)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        return layer(torch.ones(4, 2)).square().mean()

    if set_to_none:
        loss = optimizer.step(closure)
        assert bool(closure() < loss)
    else:
        with pytest.raises(RuntimeError, match="has changed the gradients in a trial"):
            optimizer.step(closure)
        assert same(layer, before)


class Disagreeing:
    """A linear loss whose slope is drawn anew for each batch, so that no mean of the slopes is certain."""

    def __init__(self, steps: int) -> None:
        self.parameter = nn.Parameter(torch.zeros(50))
        self.calls = [0] * steps
        self._slopes = torch.randn(steps, 50, generator=torch.Generator().manual_seed(0))

    def closure(self, step: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            self.calls[step] += 1
            return self._slopes[step] @ self.parameter + 10

        return loss


@pytest.mark.filterwarnings("ignore:The search is without a clear answer")
def test_where_batches_disagree_one_step_in_eighteen_has_a_forward_pass_more_in_a_resumed_run_too() -> None:
    problem, again = Disagreeing(120), Disagreeing(120)
    optimizer, due = AdamSLS([problem.parameter]), []
    for step in range(120):
        if step == 60:
            saved = problem.parameter.detach().clone(), copy.deepcopy(optimizer.state_dict())
            assert optimizer.is_uncertain
        due.append(optimizer.search_due)
        optimizer.step(problem.closure(step))
    assert all(calls > 1 for calls in problem.calls[:31])
    assert [step for step in range(31, 120) if problem.calls[step] > 1] == [48, 66, 84, 102]
    assert [step for step in range(31, 120) if due[step]] == [47, 48, 65, 66, 83, 84, 101, 102, 119]

    again.parameter.data.copy_(saved[0])
    resumed = AdamSLS([again.parameter])
    resumed.load_state_dict(saved[1])
    for step in range(60, 120):
        resumed.step(again.closure(step))
    assert torch.equal(again.parameter, problem.parameter)
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_warning_as_an_error_leaves_no_step_half_counted() -> None:
    """That of batches that disagree comes once, and after all else; not again in a resumed run."""
    problem = Disagreeing(200)
    optimizer, raised = AdamSLS([problem.parameter]), list[str]()
    for step in range(200):
        if step == 100:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                optimizer.step(problem.closure(step))
            except UserWarning as warning:
                raised.append(str(warning))
        assert optimizer.counts["steps"] == step + 1
    (message,) = raised
    assert "without a clear answer" in message


@pytest.mark.filterwarnings("ignore:The search is without a clear answer")
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_lr_counts_once_thirty_batches_have_looked_back(lr: float) -> None:
    """A constant one counts as whole before, as the top of a warm-up would."""
    problem, taken = Disagreeing(60), list[float]()
    optimizer = AdamSLS([{"params": [problem.parameter], "lr": lr}])
    for step in range(60):
        optimizer.step(problem.closure(step))
        taken.append(optimizer.param_groups[0]["step_size"])
    (found,) = optimizer.found_step_sizes
    assert taken[0] == pytest.approx(found)
    assert taken[31:] == [pytest.approx(lr * found)] * 29


class TwoSearches(InitialStep):
    """A rule of a user: the step size is found after two searches."""

    init_step_size = 0.1

    def new_memory(self) -> dict[str, float]:
        return {"step_size": 0.1, "searches": 0}

    def settled(self, memory: dict[str, float]) -> bool:
        return memory["searches"] >= 2

    def update(self, memory: dict[str, float], event: Event) -> dict[str, float]:
        return {**memory, "searches": memory["searches"] + isinstance(event, Searched)}


def test_a_rule_of_ones_own_that_settles_ends_the_searches() -> None:
    model, due = Network(), []
    optimizer = LineSearchOptimizer(model.parameters(), direction=Adam(), initial_step=TwoSearches())
    for closure in model.closures(5):
        due.append(optimizer.search_due)
        optimizer.step(closure)
    assert due == [True, True, False, False, False]


def test_a_group_without_gradients_keeps_up_with_those_it_is_searched_with() -> None:
    """Two groups of one layer, the first frozen, with a cadence that is not every step."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(4)]
    groups = [{"params": [each], "layer": index // 2} for index, each in enumerate(parameters)]
    parameters[0].requires_grad_(False)
    optimizer = LineSearchOptimizer(
        groups,
        direction=Gradient(),
        initial_step=LastStep(1e-3, growth=1.5),
        cadence=Budget(4, 0.3),
        partition=Cyclic(0),
    )
    sizes = []
    for _ in range(40):
        optimizer.step(lambda: sum(each.square().sum() for each in parameters) + 1)
        first, second = optimizer.found_step_sizes[:2]
        assert first == second
        sizes.append(second)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1e-3
