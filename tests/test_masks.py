"""Dropout masks that are drawn once are those that would have been drawn again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hf_sls.masks import DrawnMasks, can_be_kept


def attention(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.3)


DRAWING: dict[str, Any] = {
    "dropout": F.dropout,
    "in place": lambda x: F.dropout(x.clone(), inplace=True),
    "feature dropout": lambda x: F.dropout2d(x),
    "alpha dropout": F.alpha_dropout,
    "attention": attention,
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.3).add_(1),
    "between other random numbers": lambda x: F.dropout(x) + torch.rand_like(x) + F.dropout(x),
}


@pytest.mark.parametrize("drawing", DRAWING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_repetition_is_what_drawing_again_gives(drawing: str, dtype: torch.dtype) -> None:
    inputs, masks = torch.randn(2, 3, 4, 5, dtype=dtype), DrawnMasks()
    before = torch.get_rng_state()
    expected = DRAWING[drawing](inputs)
    after = torch.get_rng_state()
    for block in (masks.drawing, masks.repeating, masks.repeating):
        torch.set_rng_state(before)
        with block():
            assert torch.equal(DRAWING[drawing](inputs), expected)
        assert torch.equal(torch.get_rng_state(), after)


def test_a_repetition_draws_nothing() -> None:
    masks, inputs = DrawnMasks(), torch.ones(1000)
    with masks.drawing():
        first = F.dropout(inputs)
    torch.manual_seed(99)
    with masks.repeating():
        assert torch.equal(F.dropout(inputs), first)


def test_gradients_are_those_of_the_mask() -> None:
    inputs = torch.ones(100, requires_grad=True)
    with DrawnMasks().drawing():
        output = F.dropout(inputs)
    output.sum().backward()
    assert torch.equal(inputs.grad, output.detach())


def test_another_shape_is_drawn_as_ever() -> None:
    masks = DrawnMasks()
    state = torch.get_rng_state()
    with masks.drawing():
        F.dropout(torch.ones(8))
    torch.set_rng_state(state)
    with masks.repeating():
        shorter = F.dropout(torch.ones(5))
    torch.set_rng_state(state)
    assert torch.equal(shorter, F.dropout(torch.ones(5)))


def test_another_rate_is_drawn_as_ever() -> None:
    masks, inputs = DrawnMasks(), torch.ones(64)
    state = torch.get_rng_state()
    with masks.drawing():
        F.dropout(inputs, 0.2)
    torch.set_rng_state(state)
    with masks.repeating():
        found = F.dropout(inputs, 0.7)
    torch.set_rng_state(state)
    assert torch.equal(found, F.dropout(inputs, 0.7))


def test_what_is_compiled_inside_stays_compiled() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: 2 * x, lambda x: 3 * x, (x,))

    inputs, masks = torch.ones(8), DrawnMasks()
    with masks.drawing():
        first = F.dropout(doubled(inputs))
    with masks.repeating():
        assert torch.equal(F.dropout(doubled(inputs)), first)


def test_what_backward_draws_again_is_not_kept() -> None:
    masks, inputs = DrawnMasks(), torch.ones(8, requires_grad=True)
    with masks.drawing():
        checkpoint(F.dropout, inputs, use_reentrant=False).sum().backward()
    assert len(masks._drawn) == 1


def test_compiled_models_keep_none() -> None:
    model = nn.Linear(2, 2)
    assert can_be_kept(model)
    assert not can_be_kept(torch.compile(model, backend="eager"))
    model.compile(backend="eager")
    assert not can_be_kept(nn.Sequential(model))
    assert not can_be_kept(nn.Linear(2, 2, device="meta"))
