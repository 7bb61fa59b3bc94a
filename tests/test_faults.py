"""What breaks in a training run, and what a user is left with: nothing saved is lost, and no parameter is spoiled."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_sls import SLSTrainer
from hf_sls.checkpoints import last_complete_checkpoint

from .conftest import VOCABULARY, Rows, classification_rows, language_rows, losses, tiny_bert, tiny_gpt2


class Watch(TrainerCallback):
    """Notes the parameters before and after each step, and what the step did."""

    def __init__(self) -> None:
        self.before: list[list[torch.Tensor]] = []
        self.moved: list[bool] = []
        self.outcomes: list[str] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.before.append([parameter.detach().clone() for parameter in model.parameters()])

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **kwargs: Any) -> None:
        pairs = zip(self.before[-1], model.parameters())
        self.moved.append(not all(torch.allclose(before, after, rtol=0, atol=1e-6) for before, after in pairs))
        self.outcomes.append(optimizer.optimizer.last_report.outcome)


class Faulty(SLSTrainer):
    """Changes the loss of some steps; `None` of a factor leaves it."""

    factors: dict[int, float] = {}
    only_in_trials = False

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, times the factor of the step."""
        loss = super().compute_loss(*args, **kwargs)
        if self.only_in_trials and not self.in_trial:
            return loss
        return loss * self.factors.get(self.state.global_step, 1.0)


FAULTS: dict[str, tuple[float, set[str]]] = {
    "NaN": (float("nan"), {"non_finite"}),
    "infinite": (float("inf"), {"non_finite"}),
    "zero gradient": (0.0, {"no_slope"}),
    "overflow of the gradient": (1e38, {"non_finite"}),
    "exploding": (1e15, {"accepted", "exhausted", "unresolvable"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("optim", ["adam_sls", "sgd_sls", "ponos"])
def test_a_loss_that_breaks(fault: str, optim: str, arguments: Any) -> None:
    factor, outcomes = FAULTS[fault]
    watch = Watch()
    args = arguments(optim=optim, max_steps=12, optim_args="search_rate=inf")
    trainer = Faulty(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[watch])
    trainer.factors = {5: factor}
    trainer.train()
    looks_back = optim == "adam_sls"  # and takes Adam's step where the gradient is zero, as AdamW does
    finite = outcomes != {"non_finite"}
    assert watch.outcomes[5] in ({"not_searched"} if looks_back and finite else outcomes)
    assert watch.moved[5] == (watch.outcomes[5] in ("accepted", "not_searched"))
    assert any(watch.moved[6:])
    skipped = sum(outcome not in ("accepted", "not_searched") for outcome in watch.outcomes)
    assert trainer.line_search_optimizer.counts["skipped_steps"] == skipped
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
    state = trainer.line_search_optimizer.state.values()
    assert all(bool(value.isfinite().all()) for moments in state for value in moments.values())


def test_trials_that_break_are_rejected(arguments: Any) -> None:
    """A NaN in every trial of one step ends its search; the next one is as ever."""
    watch = Watch()
    args = arguments(max_steps=8, optim_args="look_back=false")
    trainer = Faulty(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[watch])
    trainer.factors, trainer.only_in_trials = {4: float("nan")}, True
    trainer.train()
    assert watch.outcomes[4] in ("exhausted", "unresolvable")
    assert not watch.moved[4]
    assert watch.moved[5]


def test_a_batch_without_a_label_takes_no_step(arguments: Any) -> None:
    rows = language_rows(24).rows
    ignored = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows[:12]]
    args = arguments(max_steps=6, per_device_train_batch_size=12, dataloader_drop_last=True)

    class InOrder(SLSTrainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    watch = Watch()
    trainer = InOrder(model=tiny_gpt2(), args=args, train_dataset=Rows([*ignored, *rows[12:]]), callbacks=[watch])
    trainer.train()
    assert watch.moved == [False, True] * 3
    assert watch.outcomes[0] == "non_finite"


def test_batches_of_one_example(arguments: Any) -> None:
    args = arguments(max_steps=5, per_device_train_batch_size=1)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(5))
    trainer.train()
    assert trainer.line_search_optimizer.counts["steps"] == 5


def test_a_batch_of_no_example_takes_no_step(arguments: Any) -> None:
    sizes = iter([4, 0, 4])

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        size = next(sizes)
        return {key: torch.stack([row[key] for row in rows])[:size] for key in rows[0]}

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding = torch.nn.Embedding(VOCABULARY, 2)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.embedding(input_ids).mean(dim=1)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    watch = Watch()
    trainer = SLSTrainer(
        model=Linear(),
        args=arguments(max_steps=3),
        train_dataset=classification_rows(),
        data_collator=collate,
        callbacks=[watch],
    )
    trainer.train()
    assert watch.moved == [True, False, True]


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory."), KeyboardInterrupt()], ids=repr)
def test_an_error_in_a_trial_leaves_the_step_undone(error: BaseException, arguments: Any) -> None:
    streams: list[torch.Tensor] = []

    class Raising(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.in_trial and self.state.global_step == 2:
                torch.rand(5)
                raise error
            loss = super().compute_loss(*args, **kwargs)
            if not self.in_trial:
                streams.append(torch.get_rng_state())
            return loss

    watch = Watch()
    trainer = Raising(model=tiny_bert(), args=arguments(), train_dataset=classification_rows(), callbacks=[watch])
    with pytest.raises(type(error)):
        trainer.train()
    for before, now in zip(watch.before[2], trainer.model.parameters()):
        torch.testing.assert_close(now.detach(), before, rtol=0, atol=1e-6)
    assert torch.equal(streams[2], torch.get_rng_state())


# ---- Checkpoints ----


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk: what does not fit is cut off, and the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def trained(arguments: Any, resume: Any = None, **settings: Any) -> SLSTrainer:
    args = arguments(**{"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **settings})
    trainer = SLSTrainer(model=tiny_bert(seed=3 if resume else 0), args=args, train_dataset=classification_rows())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def assert_same_end(first: SLSTrainer, second: SLSTrainer) -> None:
    assert losses(first) == losses(second)
    assert all(torch.equal(x, y) for x, y in zip(first.model.parameters(), second.model.parameters()))


@pytest.mark.parametrize("size", [50_000, 120_000], ids=["model", "optimizer"])
def test_a_full_disk_costs_the_steps_since_the_last_checkpoint(
    size: int, arguments: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unbroken = trained(arguments, output_dir=str(tmp_path / "unbroken"))
    trained(arguments, max_steps=2, lr_scheduler_type="linear")

    class Full(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    args = arguments(max_steps=6, save_strategy="steps", save_steps=2)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[Full()])
    with files_limited_to(10**9), pytest.raises(Exception, match="File too large|large|write|unexpected pos"):
        trainer.train()
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    with caplog.at_level(logging.WARNING, "hf_sls"):
        resumed = trained(arguments, resume=True)
    assert "checkpoint-4 is skipped" in caplog.text
    assert_same_end(unbroken, resumed)


def test_a_run_cut_off_in_its_first_checkpoint_starts_again(arguments: Any, tmp_path: Path) -> None:
    unbroken = trained(arguments, output_dir=str(tmp_path / "unbroken"))
    partial = tmp_path / "run" / "checkpoint-2"
    partial.mkdir(parents=True)
    (partial / "config.json").write_text("{")
    args = arguments(max_steps=6, save_strategy="steps", save_steps=2)
    again = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    again.train(resume_from_checkpoint=True)
    assert_same_end(unbroken, again)


def test_the_trainer_refuses_to_resume_from_nothing_as_ever(arguments: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="No valid checkpoint found"):
        trained(arguments, resume=True)


def test_a_trainer_that_has_trained_passes_over_a_partial_checkpoint_too(arguments: Any, tmp_path: Path) -> None:
    trainer = trained(arguments)
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()
    trainer.train(resume_from_checkpoint=True)
    assert len(losses(trainer)) == 6


def test_only_the_last_complete_checkpoint_counts(tmp_path: Path) -> None:
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"epo'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "checkpoint-is-incomplete.txt").write_text("Checkpoint started at step 10")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


def test_an_unreadable_optimizer_file_is_refused_by_name(arguments: Any, tmp_path: Path) -> None:
    trained(arguments)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    path = checkpoint / "optimizer.pt"
    whole = path.read_bytes()
    torch.save({"model": 1}, path)
    another_dict = path.read_bytes()
    torch.save([1], path)
    for content in (path.read_bytes(), another_dict, whole[: len(whole) // 2], b"PNG" * 1000, b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="checkpoint-4.*cannot be read"):
            trained(arguments, resume=str(checkpoint))
    assert losses(trained(arguments, resume=str(tmp_path / "run" / "checkpoint-2")))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_a_missing_file_is_named_and_nothing_starts_afresh(name: str, arguments: Any, tmp_path: Path) -> None:
    trained(arguments)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=f"checkpoint-4' has no {name}.*save_only_model"):
        trained(arguments, resume=str(checkpoint))


@pytest.mark.parametrize("name", ["scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("content", ["cut", "a list"])
def test_an_unreadable_small_file_is_named(name: str, content: str, arguments: Any, tmp_path: Path) -> None:
    trained(arguments)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    path = checkpoint / name
    whole = path.read_bytes()
    if content == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        torch.save([1], path)
    with pytest.raises(ValueError, match=f"checkpoint-4.*{name} cannot be read"):
        trained(arguments, resume=str(checkpoint))


def test_a_missing_random_state_is_mentioned(arguments: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(arguments)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    (checkpoint / "rng_state.pth").unlink()
    with caplog.at_level(logging.WARNING, "hf_sls"):
        trained(arguments, resume=str(checkpoint))
    assert "checkpoint-4' has no rng_state.pth" in caplog.text


def test_a_loss_scale_in_use_is_not_lost_unsaid(
    arguments: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that goes on in fp16 has none in its checkpoint, which is no reason to refuse it."""
    trainer = trained(arguments)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with caplog.at_level(logging.WARNING, "hf_sls"):
        trainer._load_scaler(str(checkpoint))
    assert "checkpoint-4' has no scaler.pt" in caplog.text
    torch.save(torch.amp.GradScaler("cpu", init_scale=2.0).state_dict(), checkpoint / "scaler.pt")
    trainer._load_scaler(str(checkpoint))
    assert trainer.accelerator.scaler.get_scale() == 2.0
    (checkpoint / "scaler.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="scaler.pt cannot be read"):
        trainer._load_scaler(str(checkpoint))


def test_the_state_of_another_member_is_refused_by_name(arguments: Any, tmp_path: Path) -> None:
    trained(arguments, optim="ponos")
    with pytest.raises(ValueError, match="not one of AdamSLS"):
        trained(arguments, resume=str(tmp_path / "run" / "checkpoint-4"))


def test_a_resumed_run_needs_the_arguments_of_its_optimizer(arguments: Any, tmp_path: Path) -> None:
    trained(arguments)
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    with pytest.raises(ValueError, match="other entries: .*or use the optim, the optim_args and the model that it was"):
        trained(arguments, optim_args="look_back=false", resume=checkpoint)
    without = trained(arguments, max_steps=8, optim_args="watch=false", resume=checkpoint)
    assert losses(without)[-4:] == losses(trained(arguments, max_steps=8, resume=checkpoint))[-4:]


def test_other_parameter_groups_are_refused(arguments: Any, tmp_path: Path) -> None:
    trained(arguments, optim="plasls", optim_args="blocks=1")
    with pytest.raises(ValueError, match="parameter group"):
        trained(arguments, optim="plasls", optim_args="blocks=2", resume=str(tmp_path / "run" / "checkpoint-4"))


def test_a_label_outside_the_vocabulary_stops_the_run_before_a_step(arguments: Any) -> None:
    rows = classification_rows(8).rows
    rows[0] = {**rows[0], "labels": torch.tensor(VOCABULARY)}
    model = tiny_bert()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(IndexError):
        SLSTrainer(model=model, args=arguments(per_device_train_batch_size=8), train_dataset=Rows(rows)).train()
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters()))
