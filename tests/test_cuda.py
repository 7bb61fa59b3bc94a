"""What only a GPU can show; `CUDA_VISIBLE_DEVICES=0 pytest tests/test_cuda.py`, one command, a minute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_sls import LossClosure, SLSTrainer, create_optimizer

from .conftest import classification_rows, losses, step_sizes, tiny_bert

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PRECISIONS: dict[str, dict[str, Any]] = {"bf16": {"bf16": True}, "fp16": {"fp16": True}, "tf32": {"tf32": True}}


def trained(trainer_class: Any, arguments_class: Any, arguments: Any, **settings: Any) -> Any:
    args = arguments(arguments_class, use_cpu=False, max_steps=60, per_device_train_batch_size=8, **settings)
    trainer = trainer_class(model=tiny_bert(dropout=0.0), args=args, train_dataset=classification_rows())
    trainer.train()
    return trainer


def deviation(first: list[float], second: list[float]) -> float:
    """Return the mean distance of two curves of the loss."""
    return sum(abs(x - y) for x, y in zip(first, second, strict=True)) / len(first)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_low_precision_is_as_near_to_fp32_as_with_adamw(precision: str, arguments: Any) -> None:
    deviations = []
    for trainer_class, arguments_class, settings in (
        (SLSTrainer, TrainingArguments, {"optim": "adam_sls"}),
        (Trainer, TrainingArguments, {"optim": "adamw_torch_fused", "learning_rate": 1e-3}),
    ):
        exact = trained(trainer_class, arguments_class, arguments, **settings, tf32=False)
        rough = trained(
            trainer_class, arguments_class, arguments, **settings, **{"tf32": False, **PRECISIONS[precision]}
        )
        assert losses(rough)[-1] < losses(rough)[0]
        deviations.append(deviation(losses(exact), losses(rough)))
    assert deviations[0] <= 2 * deviations[1] + 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("precision", [{"tf32": False}, *PRECISIONS.values()], ids=str)
def test_a_replay_gives_the_recorded_loss(precision: dict[str, Any], attention: str, arguments: Any) -> None:
    pairs: list[tuple[float, float]] = []

    class Checked(SLSTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            state = torch.cuda.get_rng_state()
            pairs.append((float(self._closure.loss), float(self._closure())))
            torch.cuda.set_rng_state(state)
            return loss

    args = arguments(use_cpu=False, max_steps=5, **precision)
    Checked(model=tiny_bert(attn_implementation=attention), args=args, train_dataset=classification_rows()).train()
    assert [recorded for recorded, _ in pairs] == [replayed for _, replayed in pairs]


def test_a_step_without_a_search_waits_for_nothing() -> None:
    model = tiny_bert().cuda()
    optimizer = create_optimizer("adam_sls", model.parameters(), search_credit=0.0, search_rate=0.01)
    rows = [row for row in classification_rows(8).rows]
    batch = {key: torch.stack([row[key] for row in rows]).cuda() for key in rows[0]}
    for step in range(5):
        optimizer.zero_grad()
        closure = LossClosure(model, keep_masks=optimizer.search_due)
        loss = closure.record(lambda: model(**batch).loss)
        loss.backward()
        searched = optimizer.search_due
        torch.cuda.set_sync_debug_mode(0 if searched else 2)
        try:
            optimizer.step(closure, loss=closure.loss)
        finally:
            torch.cuda.set_sync_debug_mode(0)
        assert searched == (step == 0)


def test_a_step_that_the_scaler_skips_is_counted(arguments: Any) -> None:
    """The scale of fp16 begins at 65,536, too high for this model once its loss is multiplied."""

    class Large(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return 1e4 * super().compute_loss(*args, **kwargs)

    class Watch(TrainerCallback):
        moved: list[bool] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            self.before = [parameter.detach().clone() for parameter in model.parameters()]

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            self.moved.append(any(not torch.equal(x, y) for x, y in zip(self.before, model.parameters())))

    watch = Watch()
    args = arguments(use_cpu=False, fp16=True, max_steps=30)
    trainer = Large(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[watch])
    trainer.train()
    counts = trainer.line_search_optimizer.counts
    assert not watch.moved[0]
    assert any(watch.moved)
    assert counts["skipped_steps"] >= watch.moved.count(False)
    assert len(step_sizes(trainer)) == 30
