"""Whatever a closure returns or does: an accepted step is one, and a step that fails leaves the parameters alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_sls.optim import OPTIMIZERS, LineSearchOptimizer, create_optimizer

from ..members import MEMBERS
from ..problems import Network, restored, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:The loss", "ignore:The first search", "ignore:None of the last")

# ---- An accepted step, judged from outside ----

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda w: w.square().sum(),
    "quartic": lambda w: w.pow(4).sum(),
    "logistic": lambda w: nn.functional.softplus(w).sum(),
    "absolute value": lambda w: w.abs().sum(),
    "wave": lambda w: (1.1 + torch.sin(3 * w)).sum(),
    "valley": lambda w: (1 - w[0]).square() + 100 * (w[1:] - w[0].square()).square().sum(),
    "saddle": lambda w: (w[0].square() - w[1:].square().sum()).tanh() + 1,
    "plateau": lambda w: (w - 1).square().clamp(max=2.0).sum(),
}
starts = st.lists(st.floats(-3.0, 3.0, width=32), min_size=2, max_size=4)
found_along_the_step = sorted(set(OPTIMIZERS) - {"plasls"})
"""Whose trials are on the way from the parameters before a step to those after it, in one search."""


class Criteria:
    """The three criteria of the papers, written once more, from the losses before and after a step."""

    def __init__(self, name: str, c: float, smoothing: float, xi: float, tolerance: float) -> None:
        self.name, self.c, self.smoothing, self.xi, self.tolerance = name, c, smoothing, xi, tolerance
        self.decrease = self.slope = self.average = self.weight = 0.0

    def excess(self, before: float, after: float, slope: float, step_size: float) -> float:
        """Return by how much the loss after the step is too high."""
        if self.name in ("adam_salsa", "sgd_salsa"):
            self.decrease = self.smoothing * self.decrease + (1 - self.smoothing) * (before - after)
            self.slope = self.smoothing * self.slope + (1 - self.smoothing) * slope
            return (self.c * step_size * self.slope - self.decrease) / (1 - self.smoothing)
        reference = before
        if self.name == "ponos":
            weight = self.xi * self.weight + 1
            self.average = (self.xi * self.weight * self.average + before) / weight
            self.weight = weight
            reference = max(self.average, before)
        return after - (reference - self.c * step_size * slope) - self.tolerance * abs(before)


@given(
    name=st.sampled_from(found_along_the_step),
    shape=st.sampled_from(sorted(SHAPES)),
    start=starts,
    scale=st.integers(-12, 12),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    c=st.floats(0.01, 0.9),
)
def test_an_accepted_step_satisfies_its_criterion(
    name: str, shape: str, start: list[float], scale: int, offset: float, dtype: torch.dtype, c: float
) -> None:
    w = nn.Parameter(torch.tensor(start, dtype=dtype))

    def closure() -> Tensor:
        return 2.0**scale * SHAPES[shape](w) + offset

    optimizer = create_optimizer(name, [w], c=c)
    settings = {"smoothing": 0.9, "xi": 1.0}
    tolerance = 2.0**-8 if name in ("adam_sls", "amsgrad_sls") else 0.0
    criteria = Criteria(name, c, **settings, tolerance=tolerance)
    for _ in range(6):
        before, at_start = w.detach().clone(), closure()
        (gradient,) = torch.autograd.grad(at_start, w)
        optimizer.step(closure)
        report, after = optimizer.last_report, float(closure().detach())
        assert w.isfinite().all()
        if report.outcome == "not_searched":
            continue
        if report.outcome != "accepted":
            assert restored(nn.ParameterList([w]), [before], optimizer)
            continue
        assert report.step_size > 0
        slope = float((gradient.double() * (before - w.detach()).double()).sum()) / report.step_size
        if slope <= 0:  # the momentum ascends: the gradient was searched, and the step size taken along the momentum
            return
        excess = criteria.excess(float(at_start.detach()), after, slope, report.step_size)
        rounding = 64 * torch.finfo(dtype).eps * (abs(float(at_start.detach())) + abs(after)) / (1 - 0.9)
        assert excess <= rounding, (report, excess, rounding)


# ---- Closures that do what they should not ----


class Injected(Exception):
    """What a closure of these tests raises."""


RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "loss": lambda loss: loss,
    "float": float,
    "integer": lambda loss: 1,
    "none": lambda loss: None,
    "text": lambda loss: "0.5",
    "tuple": lambda loss: (loss, loss),
    "dict": lambda loss: {"loss": loss},
    "object": lambda loss: object(),
    "complex": lambda loss: loss * (1 + 0j),
    "complex number": lambda loss: 1j,
    "one element": lambda loss: loss.reshape(1),
    "vector": lambda loss: loss.repeat(3),
    "empty": lambda loss: loss.new_zeros(0),
    "integer tensor": lambda loss: torch.tensor(1),
    "detached": lambda loss: loss.detach(),
    "higher": lambda loss: loss + 1.0,
    "nan": lambda loss: loss * math.nan,
    "infinite": lambda loss: loss * math.inf,
    "minus infinite": lambda loss: loss - math.inf,
    "huge": lambda loss: loss * 1e38,
    "zero": lambda loss: loss * 0.0,
    "half": lambda loss: loss.half(),
    "double": lambda loss: loss.double(),
    "meta": lambda loss: torch.zeros((), device="meta"),
}


def _raise(*args: Any) -> None:
    raise Injected


def _backward(model: nn.Module, optimizer: LineSearchOptimizer, loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward(retain_graph=True)


def _call_step(model: nn.Module, optimizer: LineSearchOptimizer, loss: Tensor) -> None:
    optimizer.step()


ACTS: dict[str, Callable[[nn.Module, LineSearchOptimizer, Tensor], Any]] = {
    "nothing": lambda model, optimizer, loss: None,
    "raise": _raise,
    "backward": _backward,
    "zero_grad": lambda model, optimizer, loss: optimizer.zero_grad(),
    "zero_grad to zero": lambda model, optimizer, loss: optimizer.zero_grad(set_to_none=False),
    "gradients off": lambda model, optimizer, loss: torch.set_grad_enabled(False),
    "gradients on": lambda model, optimizer, loss: torch.set_grad_enabled(True),
    "draw": lambda model, optimizer, loss: torch.rand(3),
    "state": lambda model, optimizer, loss: optimizer.state_dict(),
    "counts": lambda model, optimizer, loss: optimizer.counts,
    "step": _call_step,
    "evaluate": lambda model, optimizer, loss: model.eval(),
}
calls = st.lists(
    st.tuples(
        st.one_of(st.just("loss"), st.sampled_from(sorted(RETURNS))),
        st.one_of(st.just("nothing"), st.just("nothing"), st.sampled_from(sorted(ACTS))),
    ),
    min_size=1,
    max_size=4,
)


@given(member=st.sampled_from(sorted(MEMBERS)), steps=st.lists(calls, min_size=1, max_size=4), dropout=st.booleans())
def test_a_closure_that_misbehaves_is_named_and_leaves_the_parameters_alone(
    member: str, steps: list[list[tuple[str, str]]], dropout: bool
) -> None:
    model = Network(dropout=0.2 if dropout else 0.0)
    optimizer = MEMBERS[member](model.parameters())
    assume(all(kinds[0][0] != "complex" for kinds in steps))  # test_a_complex_loss_is_refused_by_name
    for kinds, loss_of in zip(steps, model.closures(len(steps))):
        called: list[None] = []

        def closure(kinds: Any = kinds, loss_of: Any = loss_of, called: Any = called) -> Any:
            returned, act = kinds[min(len(called), len(kinds) - 1)]
            called.append(None)
            loss = loss_of()
            ACTS[act](model, optimizer, loss)
            return RETURNS[returned](loss)

        before = snapshot(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer.step(closure)
        except Injected:
            assert restored(model, before, optimizer)
            continue
        except (RuntimeError, TypeError, ValueError) as error:
            assert "closure" in str(error), error
            assert restored(model, before, optimizer)
            continue
        finally:
            assert torch.is_grad_enabled()
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert math.isfinite(optimizer.param_groups[0]["step_size"])
        if optimizer.last_report.outcome not in ("accepted", "not_searched") and "plasls" not in member:
            assert restored(model, before, optimizer)


def test_a_complex_loss_is_refused_by_name() -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    (loss,) = model.closures(1)
    with pytest.raises(RuntimeError, match=r"closure\(\) returned"):
        optimizer.step(lambda: loss() * (1 + 0j))
