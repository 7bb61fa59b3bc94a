"""What only a GPU can show; `CUDA_VISIBLE_DEVICES=0 pytest -n 4 tests/test_cuda.py`, one command, a minute or two."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_sls import LossClosure, SLSTrainer, create_optimizer

from . import launch
from .conftest import classification_rows, losses, step_sizes, tiny_bert
from .members import MEMBERS

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
            pairs.append((float(self.window.loss), float(self.window())))
            torch.cuda.set_rng_state(state)
            return loss

    args = arguments(use_cpu=False, max_steps=5, optim_args="search_rate=inf", **precision)
    Checked(model=tiny_bert(attn_implementation=attention), args=args, train_dataset=classification_rows()).train()
    assert [recorded for recorded, _ in pairs] == [replayed for _, replayed in pairs]


def batch_of(count: int) -> dict[str, torch.Tensor]:
    rows = classification_rows(count).rows
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_gpu_takes_the_steps_of_the_cpu(name: str) -> None:
    curves = []
    for device in ("cpu", "cuda"):
        model = tiny_bert(dropout=0.0).double().to(device)
        batch = {key: value.to(device) for key, value in batch_of(8).items()}
        optimizer = MEMBERS[name](model.parameters())
        curve = []
        for _ in range(12):
            optimizer.zero_grad()
            closure = LossClosure(model, trials=optimizer.search_due)
            closure.record(lambda: model(**batch).loss).backward()  # noqa: B023
            optimizer.step(closure, loss=closure.loss)
            curve.append([float(closure.loss), *(group["step_size"] for group in optimizer.param_groups)])
        curves.append(curve)
    for on_cpu, on_gpu in zip(*curves, strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-6)


def test_a_step_without_a_search_waits_for_nothing() -> None:
    model = tiny_bert().cuda()
    optimizer = create_optimizer("adam_sls", model.parameters(), look_back=False, search_credit=0.0, search_rate=0.01)
    batch = {key: value.cuda() for key, value in batch_of(8).items()}
    for step in range(5):
        optimizer.zero_grad()
        closure = LossClosure(model, trials=optimizer.search_due)
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


@pytest.mark.parametrize("precision", [{}, {"fp16": True}, {"bf16": True}], ids=str)
def test_a_run_resumes_exactly(
    precision: dict[str, Any], arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))

    def run(resume: bool | None = None) -> SLSTrainer:
        args = arguments(
            use_cpu=False, full_determinism=True, max_steps=8, save_strategy="steps", save_steps=5, **precision
        )
        trainer = SLSTrainer(model=tiny_bert(seed=3 if resume else 0), args=args, train_dataset=classification_rows())
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5") if resume else None)
        return trainer

    try:
        unbroken, resumed = run(), run(resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses(resumed) == losses(unbroken)
    assert step_sizes(resumed) == step_sizes(unbroken)
    assert all(torch.equal(x, y) for x, y in zip(resumed.model.parameters(), unbroken.model.parameters()))


def test_out_of_memory_in_a_trial_leaves_the_step_undone(arguments: Any) -> None:
    before: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    class Hungry(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.in_trial and self.state.global_step == 2:
                torch.empty(2**45, device="cuda")
            loss = super().compute_loss(*args, **kwargs)
            if not self.in_trial:
                parameters = [parameter.detach().clone() for parameter in self.model.parameters()]
                before.append((torch.cuda.get_rng_state(), parameters))
            return loss

    trainer = Hungry(model=tiny_bert(), args=arguments(use_cpu=False), train_dataset=classification_rows())
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()
    stream, parameters = before[-1]
    assert len(before) == 3
    assert torch.equal(torch.cuda.get_rng_state(), stream)
    assert all(torch.equal(x, y) for x, y in zip(trainer.model.parameters(), parameters))


def test_a_batch_too_large_for_a_trial_is_made_smaller(arguments: Any) -> None:
    """`auto_find_batch_size` takes what a trial cannot have for what a step cannot have."""
    sizes: list[int] = []

    class Hungry(SLSTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.in_trial and len(inputs["labels"]) > 4:
                torch.empty(2**45, device="cuda")
            sizes.append(len(inputs["labels"]))
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = arguments(use_cpu=False, auto_find_batch_size=True, per_device_train_batch_size=8)
    Hungry(model=tiny_bert(), args=args, train_dataset=classification_rows()).train()
    assert sizes[0] == 8
    assert 0 < sizes[-1] <= 4


@pytest.mark.parametrize(("mode", "accumulation"), [("default", 2), ("reduce-overhead", 1)])
def test_a_compiled_model_takes_the_steps_of_the_plain_one(mode: str, accumulation: int, arguments: Any) -> None:
    """`reduce-overhead` replays CUDA graphs, which write every loss into the same memory.

    With those the Trainer cannot accumulate gradients, whatever the optimizer (torch 2.11, transformers 5.17).
    """
    graphs: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    curves = []
    for settings in ({}, {"torch_compile": True, "torch_compile_mode": mode}):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        args = arguments(
            use_cpu=False,
            max_steps=10,
            gradient_accumulation_steps=accumulation,
            optim_args="search_rate=inf",
            **settings,
        )
        model, rows = tiny_bert(dropout=0.0), classification_rows()
        trainer = SLSTrainer(model=model, args=args, train_dataset=rows, callbacks=[Watch()])
        trainer.train()
        assert trainer.line_search_optimizer.counts["trials"] >= 10
        curves.append((losses(trainer), step_sizes(trainer)))
    (plain, plain_steps), (compiled, compiled_steps) = curves
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert compiled_steps == pytest.approx(plain_steps, rel=1e-2)
    assert 0 < graphs[11] == graphs[-1]


GROUPS: dict[str, tuple[int, dict[str, Any]]] = {
    "DDP by NCCL": (1, {}),
    "FSDP2 by NCCL": (
        1,
        {"fsdp": True, "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]}},
    ),
    "DDP, two processes on one GPU": (2, {"ddp_backend": "gloo", "one_gpu": True}),
}


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True, "loss_scale": 256.0}], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_a_process_group_takes_the_steps_of_one_process(group: str, precision: dict[str, Any], tmp_path: Path) -> None:
    processes, settings = GROUPS[group]
    work = {"model": "gpt2", "output_dir": str(tmp_path), "gradient_accumulation_steps": 2, **precision}
    alone = trained_by(1, {**work, "per_device_train_batch_size": 8}, torchrun=False)
    together = trained_by(processes, {**work, **settings, "per_device_train_batch_size": 8 // processes})
    tolerance = 3e-2 if precision else 1e-4
    assert together["losses"] == pytest.approx(alone["losses"], rel=tolerance)
    assert together["step_sizes"] == pytest.approx(alone["step_sizes"], rel=max(tolerance, 1e-3))
    assert together["counts"]["trials"] == alone["counts"]["trials"] >= 6


def test_processes_on_a_gpu_agree_about_one_that_breaks(tmp_path: Path) -> None:
    processes, settings = GROUPS["DDP, two processes on one GPU"]
    work = {"model": "gpt2", "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "fp16": True}
    counts = trained_by(processes, {**work, **settings, "broken": "loss"})["counts"]
    assert (counts["steps"], counts["skipped_steps"]) == (6, 2)


def trained_by(processes: int, settings: dict[str, Any], torchrun: bool = True) -> dict[str, Any]:
    return launch.run(processes, "tests.distributed.train", json.dumps(settings), torchrun=torchrun, on_gpu=True)
