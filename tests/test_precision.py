"""Low precision: the gradient scaler of fp16, and parameters stored in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import Trainer, TrainerCallback

from hf_sls import SLSTrainer

from .conftest import classification_rows, losses, step_sizes, tiny_bert


class Scaling(TrainerCallback):
    """Gives the trainer a gradient scaler, which Accelerate makes on accelerators only, and spoils some gradients."""

    def __init__(self, spoiled: tuple[int, ...] = ()) -> None:
        self.trainer: Any = None
        self.spoiled = spoiled
        self.parameters: list[list[torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.native_amp = True

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.parameters.append([parameter.detach().clone() for parameter in model.parameters()])

    def spoil(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf") if self.trainer.state.global_step in self.spoiled else gradient


def scaled(trainer: Trainer, callback: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    callback.trainer = trainer
    trainer.add_callback(callback)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    next(trainer.model.parameters()).register_hook(callback.spoil)


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 3}, {"max_grad_norm": 0.0}], ids=str)
def test_a_gradient_scaler_changes_nothing(
    settings: dict[str, Any], arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is a power of two, so unscaled gradients are those without it, to the bit."""
    runs = []
    for with_scaler in (False, True):
        args = arguments(max_steps=8, optim_args="search_rate=inf", **settings)
        trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
        if with_scaler:
            scaled(trainer, Scaling(), monkeypatch)
        trainer.train()
        runs.append((losses(trainer), step_sizes(trainer), trainer.optimizer.optimizer.counts))
    assert runs[0] == runs[1]
    assert runs[0][2]["trials"] >= 5


def test_a_step_that_the_scaler_skips_skips_the_search(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(max_steps=8, optim_args="search_rate=inf")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    callback = Scaling(spoiled=(2, 7))
    scaled(trainer, callback, monkeypatch)
    trainer.train()
    counts = trainer.line_search_optimizer.counts
    assert (counts["steps"], counts["searches"], counts["skipped_steps"]) == (8, 1, 2)
    assert trainer.line_search_optimizer.last_report.outcome == "non_finite"
    assert trainer.accelerator.scaler.get_scale() == 2.0**8
    for step, (before, after) in enumerate(zip(callback.parameters, callback.parameters[1:])):
        unchanged = all(torch.equal(x, y) for x, y in zip(before, after))
        assert unchanged == (step in callback.spoiled)
    state = trainer.line_search_optimizer.state.values()
    assert all(bool(value.isfinite().all()) for moments in state for value in moments.values())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parameters_in_bf16_train_as_far_as_in_fp32(seed: int, arguments: Any) -> None:
    rows, first, final = classification_rows(seed=seed), [], []
    for dtype in (torch.bfloat16, torch.float32):
        model = tiny_bert(dropout=0.0, seed=seed).to(dtype)
        args = arguments(max_steps=120, per_device_train_batch_size=8, seed=seed)
        trainer = SLSTrainer(model=model, args=args, train_dataset=rows)
        trainer.train()
        first.append(losses(trainer)[0])
        final.append(sum(losses(trainer)[-10:]) / 10)
        assert trainer.line_search_optimizer.counts["skipped_steps"] <= 4
    assert max(final) < 0.02 * min(first)
