"""`SLSTrainer` as a Trainer: stock optimizers untouched, resume, accumulation, logs, refusals, subclasses."""

from __future__ import annotations

import gc
import json
import logging
import warnings
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
    set_seed,
)

from hf_sls import SGDSLS, AdamSLS, LineSearchTrainerMixin, SLSTrainer, SLSTrainingArguments
from hf_sls.optim import OPTIMIZERS, create_optimizer
from hf_sls.optim import optimizer as optimizer_module

from .conftest import Rows, classification_rows, language_rows, losses, step_sizes, tiny_bert, tiny_gpt2


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def history(trainer: Trainer) -> list[dict[str, float]]:
    """The log without the entries that depend on the clock."""
    clock = ("runtime", "per_second")
    return [{k: v for k, v in entry.items() if not k.endswith(clock)} for entry in trainer.state.log_history]


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation_steps": 3, "bf16": True, "max_grad_norm": 0.1}], ids=str
)
def test_a_stock_optimizer_sees_the_stock_trainer(optim: str, settings: dict[str, Any], arguments: Any) -> None:
    runs = []
    for trainer_class in (Trainer, SLSTrainer):
        args = arguments(TrainingArguments, optim=optim, learning_rate=1e-3, warmup_steps=1, max_steps=5, **settings)
        trainer = trainer_class(model=tiny_bert(), args=args, train_dataset=classification_rows())
        result = trainer.train()
        runs.append((parameters(trainer), history(trainer), torch.rand(2), set(result.metrics)))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert torch.equal(runs[0][2], runs[1][2])
    assert runs[0][3] == runs[1][3]


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_training_learns(optim: str, arguments: Any) -> None:
    args = arguments(optim=optim, max_steps=60, per_device_train_batch_size=20)
    trainer = SLSTrainer(model=tiny_bert(dropout=0.0), args=args, train_dataset=classification_rows())
    trainer.train()
    assert sum(losses(trainer)[-4:]) / 4 < 0.5 * losses(trainer)[0]
    assert trainer.line_search_optimizer.counts["steps"] == 60


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_rows_learnt_by_heart_stay_learnt(seed: int, arguments: Any) -> None:
    """As the loss nears zero no batch refuses a step; AdamW learns these rows at 1e-2 and fails at 3e-2."""
    args = arguments(optim="adam_sls", max_steps=80, per_device_train_batch_size=20, seed=seed)
    trainer = SLSTrainer(model=tiny_bert(dropout=0.0, seed=seed), args=args, train_dataset=classification_rows())
    trainer.train()
    assert sum(losses(trainer)[-8:]) / 8 < 0.1
    assert trainer.line_search_optimizer.forward_passes_per_step < 1.5


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_resumed_run_is_the_unbroken_run(
    optim: str, settings: dict[str, Any], arguments: Any, tmp_path: Path
) -> None:
    if settings and Version(transformers.__version__) < Version("5.0"):
        pytest.skip("transformers 4.57 resumes accumulation at the wrong batch, with AdamW too")
    args = {"optim": optim, "max_steps": 14, "save_strategy": "steps", "save_steps": 6, **settings}
    if optim not in ("adam_sls", "adam_salsa", "amsgrad_sls"):
        args["optim_args"] = "search_rate=0.5,search_credit=2"
    unbroken = SLSTrainer(
        model=tiny_bert(), args=arguments(output_dir=str(tmp_path / "a"), **args), train_dataset=classification_rows()
    )
    unbroken.train()
    resumed = SLSTrainer(
        model=tiny_bert(seed=5),
        args=arguments(output_dir=str(tmp_path / "b"), **args),
        train_dataset=classification_rows(),
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert_same(parameters(unbroken), parameters(resumed))
    assert losses(unbroken) == losses(resumed)
    assert history(unbroken)[6:14] == history(resumed)[6:14]
    assert unbroken.line_search_optimizer.counts == resumed.line_search_optimizer.counts


def test_plasls_finds_its_layers_in_the_model(arguments: Any) -> None:
    args = arguments(optim="plasls", optim_args="blocks=2,joint_steps=1,c=0.9", weight_decay=0.1, max_steps=24)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    steps: dict[int, set[float]] = {}
    for group in trainer.line_search_optimizer.param_groups:
        steps.setdefault(group["layer"], set()).add(group["step_size"])
    assert sorted(steps) == [0, 1, 2, 3]
    assert all(len(found) == 1 for found in steps.values())
    assert len(set.union(*steps.values())) > 1
    decays = {group["weight_decay"] for group in trainer.line_search_optimizer.param_groups}
    assert decays == {0.0, 0.1}


def test_a_checkpoint_of_adamw_is_refused_by_name(arguments: Any, tmp_path: Path) -> None:
    stock = arguments(TrainingArguments, optim="adamw_torch", save_strategy="steps", save_steps=2)
    Trainer(model=tiny_bert(), args=stock, train_dataset=classification_rows()).train()
    trainer = SLSTrainer(model=tiny_bert(), args=arguments(max_steps=6), train_dataset=classification_rows())
    with pytest.raises(ValueError, match="not one of AdamSLS"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


@pytest.mark.parametrize("optim", ["adam_sls", "sgd_sls"])
@pytest.mark.parametrize("model", ["gpt2", "bert"])
def test_accumulation_takes_the_steps_of_the_whole_batch(optim: str, model: str, arguments: Any) -> None:
    """1 x 32 against 4 x 8. BERT heads need a word in transformers 5 (upstream #47688)."""
    runs = []
    for batch, accumulation in ((32, 1), (8, 4)):
        args = arguments(
            optim=optim,
            max_steps=6,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.0,
        )
        built = tiny_gpt2(dropout=0.0) if model == "gpt2" else tiny_bert(dropout=0.0)
        rows = (language_rows if model == "gpt2" else classification_rows)(64)
        trainer = SLSTrainer(model=built, args=args, train_dataset=rows)
        if model == "bert":
            trainer.model_accepts_loss_kwargs = False
        trainer.train()
        runs.append((losses(trainer), step_sizes(trainer)))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=2e-2)
    assert runs[0][1] == pytest.approx(runs[1][1], rel=2e-2)


def test_logs_carry_the_search(arguments: Any) -> None:
    class Watch(TrainerCallback):
        logs: list[dict[str, float]] = []
        reports: list[Any] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.logs.append(dict(logs))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            self.reports.append(optimizer.optimizer.last_report)

    watch = Watch()
    args = arguments(max_steps=12, logging_steps=3, optim_args="look_back=false,search_credit=3,search_rate=0.1")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[watch])
    result = trainer.train()
    training_logs = [log for log in watch.logs if "loss" in log]
    assert len(training_logs) == 4
    for index, log in enumerate(training_logs):
        reports = watch.reports[3 * index : 3 * index + 3]
        searched = [report for report in reports if report.outcome != "not_searched"]
        assert log["learning_rate"] == log["step_size"] == reports[-1].step_size
        assert log["ls_trials"] == pytest.approx(sum(report.trials for report in reports) / 3)
        assert log["ls_backtracks"] == pytest.approx(sum(report.backtracks for report in reports) / 3)
        decrease = sum(report.loss_decrease for report in searched if report.outcome == "accepted")
        assert log.get("loss_decrease") == (pytest.approx(decrease / len(searched)) if searched else None)
    assert any("loss_decrease" not in log for log in training_logs)
    trials = sum(report.trials + report.checks for report in watch.reports)
    assert result.metrics["train_forward_passes_per_step"] == pytest.approx(1 + trials / 12)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_run_without_a_training_log_ends_with_its_step_size(schedule: str, arguments: Any) -> None:
    """Of the constant schedule, the step size is the last one taken; the linear one has shortened its steps."""
    args = arguments(max_steps=80, logging_steps=500, lr_scheduler_type=schedule)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    result = trainer.train()
    assert losses(trainer) == []
    assert trainer.state.log_history[-1]["train_step_size"] == result.metrics["train_step_size"]
    taken = trainer.line_search_optimizer.last_report.step_size
    assert taken == pytest.approx(result.metrics["train_step_size"] * (1.0 if schedule == "constant" else 1 / 80))


def test_forward_passes_are_those_reported(arguments: Any) -> None:
    """Counted at the model itself."""
    model, calls = tiny_bert(), []
    model.register_forward_hook(lambda *_: calls.append(None))
    args = arguments(max_steps=20, gradient_accumulation_steps=2)
    trainer = SLSTrainer(model=model, args=args, train_dataset=classification_rows(160))
    result = trainer.train()
    assert len(calls) / (20 * 2) == pytest.approx(result.metrics["train_forward_passes_per_step"])


def test_clipping_does_not_falsify_the_slope(arguments: Any) -> None:
    slopes = []
    for max_grad_norm in (0.0, 0.01):
        args = arguments(max_steps=1, optim="adam_sls", max_grad_norm=max_grad_norm, adam_epsilon=1e-12)
        trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
        trainer.train()
        slopes.append(trainer.line_search_optimizer.last_report.slope)
    assert trainer.state.log_history[0]["grad_norm"] > 0.1
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-3)


@pytest.mark.skipif(not hasattr(Trainer, "_mixed_mesh_grad_norm"), reason="transformers clips in one way only")
def test_clipping_over_several_meshes_does_not_either(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_has_mixed_mesh_grads", lambda self, model: True)
    test_clipping_does_not_falsify_the_slope(arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr_scheduler_type": "constant"},
        {"lr_scheduler_type": "cosine", "warmup_steps": 3},
        {"lr_scheduler_type": "polynomial"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [TrainingArguments, SLSTrainingArguments])
def test_a_schedule_says_which_share_of_the_step_found_is_taken(
    settings: dict[str, Any], cls: Any, arguments: Any
) -> None:
    found: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
            found.append(optimizer.param_groups[0]["line_search"]["initial_step"]["step_size"])

    args = arguments(cls, optim="sgd_sls", max_steps=8, **settings)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[Watch()])
    trainer.train()
    stock = torch.optim.AdamW(tiny_bert().parameters(), lr=1.0)
    schedule = get_scheduler(args.lr_scheduler_type, stock, args.warmup_steps, num_training_steps=8)
    for step_size, searched in zip(step_sizes(trainer), found, strict=True):
        assert step_size == schedule.get_last_lr()[0] * searched
        stock.step()
        schedule.step()


def test_training_twice_starts_a_new_window(arguments: Any) -> None:
    args = arguments(max_steps=1, optim_args="search_rate=inf")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    for outcome in ("accepted", "not_searched"):
        trainer.train()
        assert trainer.line_search_optimizer.last_report.outcome == outcome
        assert trainer.line_search_optimizer.last_trials > 0
    assert trainer.line_search_optimizer.counts["steps"] == 2
    assert trainer.line_search_optimizer.param_groups[0]["line_search"]["watch"]["before"] == 0


def test_the_batches_of_a_step_are_freed_with_it(arguments: Any) -> None:
    """At once, without the collector of cycles."""
    alive: list[weakref.ref[Any]] = []

    class Noting(SLSTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            assert [window() for window in alive] == [None] * len(alive)
            loss = super().training_step(*args, **kwargs)
            alive.append(weakref.ref(self.window))
            return loss

    trainer = Noting(model=tiny_bert(), args=arguments(max_steps=4), train_dataset=classification_rows())
    gc.disable()
    try:
        trainer.train()
    finally:
        gc.enable()
    assert len(alive) == 4


def test_auto_find_batch_size_begins_again(arguments: Any) -> None:
    """Out of memory in the first trial: the window is forgotten and the parameters are as they were."""

    class Small(SLSTrainer):
        windows: list[int] = []

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self.in_trial and len(inputs["labels"]) > 4:
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(model, inputs, *args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            self.windows.append(len(self.window._losses))
            return loss

    args = arguments(auto_find_batch_size=True, per_device_train_batch_size=8, max_steps=3)
    trainer = Small(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    assert len(trainer.windows) > 3
    assert set(trainer.windows) == {1}
    assert trainer.line_search_optimizer.last_report.trials > 0


def test_an_unused_learning_rate_is_mentioned(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_sls"):
        SLSTrainer(model=tiny_bert(), args=arguments(learning_rate=0.5), train_dataset=classification_rows())
    assert "learning_rate=0.5 is not used" in caplog.text


def test_a_default_learning_rate_is_not_whatever_it_is(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Each config of TRL has one of its own."""

    @dataclass
    class Arguments(SLSTrainingArguments):
        learning_rate: float = 2e-5

    with caplog.at_level(logging.WARNING, "hf_sls"):
        SLSTrainer(model=tiny_bert(), args=arguments(Arguments), train_dataset=classification_rows())
    assert "is not used" not in caplog.text


@pytest.mark.parametrize(
    ("optim", "settings", "unused"),
    [
        ("sgd_sls", {"adam_beta1": 0.8}, "adam_beta1=0.8 has no effect on 'sgd_sls'"),
        ("ponos", {"adam_epsilon": 1e-6}, "adam_epsilon=1e-06 has no effect on 'ponos'"),
        ("adam_sls", {"adam_epsilon": 1e-6, "optim_args": "eps=1e-7"}, "adam_epsilon=1e-06 has no effect beside"),
        ("adam_sls", {"adam_beta1": 0.7, "optim_args": "betas=0.9/0.99"}, "adam_beta1=0.7 has no effect beside"),
        ("adam_sls", {"optim_target_modules": ["attn"]}, "optim_target_modules=.'attn'. has no effect"),
        (
            "adam_sls",
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 5e-4}},
            "min_lr is not a learning rate here. It is the fraction of the step size found",
        ),
    ],
)
def test_training_arguments_without_effect_are_mentioned(
    optim: str, settings: dict[str, Any], unused: str, arguments: Any
) -> None:
    with pytest.warns(UserWarning, match=unused):
        arguments(optim=optim, **settings)
    args = arguments(TrainingArguments, optim=optim, **settings)
    with pytest.warns(UserWarning, match=unused):
        SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())


@pytest.mark.parametrize(
    ("optim", "settings"), [("adam_sls", "smoothing=0.3"), ("sgd_salsa", "max_interval=3"), ("sgd_salsa", "warmup=3")]
)
def test_settings_without_effect_are_mentioned(optim: str, settings: str, arguments: Any) -> None:
    with pytest.warns(UserWarning, match=f"{settings} has no effect on '{optim}'"):
        arguments(optim=optim, optim_args=settings)


def test_an_optimizer_instance_works_without_a_name(arguments: Any) -> None:
    model = tiny_bert()
    trainer = SLSTrainer(
        model=model,
        args=arguments(TrainingArguments, max_steps=4),
        train_dataset=classification_rows(),
        optimizers=(AdamSLS(model.parameters(), c=0.3), None),
    )
    trainer.train()
    optimizer = trainer.line_search_optimizer
    assert optimizer.counts["trials"] == optimizer.last_search.trials + 3  # three steps look back


def test_an_optimizer_class_works_without_a_name(arguments: Any) -> None:
    trainer = SLSTrainer(
        model=tiny_bert(),
        args=arguments(TrainingArguments, max_steps=4),
        train_dataset=classification_rows(),
        optimizer_cls_and_kwargs=(SGDSLS, {"c": 0.3}),
    )
    trainer.train()
    assert trainer.line_search_optimizer.counts["searches"] == 4


class OwnOptimizer(SLSTrainer):
    """Makes its optimizer when training begins, whatever the arguments say."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = self.optimizer or AdamSLS(self.model.parameters())
        return self.optimizer


def test_an_optimizer_that_comes_late_is_treated_like_any(arguments: Any) -> None:
    seen: list[bool] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seen.append("LineSearchCallback" in trainer.callback_handler.callback_list)

    args = arguments(TrainingArguments, optim="adamw_torch")
    trainer = OwnOptimizer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[Watch()])
    stock = list(trainer.callback_handler.callbacks)
    trainer.train()
    assert seen == [True, True, True]
    assert trainer.callback_handler.callbacks == stock
    trainer = OwnOptimizer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="does not work with DeepSpeed in this configuration"):
        trainer.create_optimizer_and_scheduler(3)


@pytest.mark.skipif(not hasattr(transformers.trainer, "is_optimizer_factory"), reason="transformers has no factories")
def test_a_factory_of_stock_optimizers_is_left_alone(arguments: Any) -> None:
    def factory() -> Any:
        return lambda model, **settings: torch.optim.SGD(model.parameters(), **settings)

    trainer = SLSTrainer(
        model=tiny_bert(),
        args=arguments(TrainingArguments, optim="adamw_torch"),
        train_dataset=classification_rows(),
        optimizer_cls_and_kwargs=(factory, {"lr": 0.1}),
    )
    trainer.train()
    assert trainer.line_search_optimizer is None
    assert len(losses(trainer)) == 3


class PopsItsInputs(Trainer):
    """A Trainer that takes what is not for the model out of the batch, in place."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        weight = inputs.pop("weight").mean()
        return weight * super().training_step(model, inputs, *args, **kwargs)


def test_a_trainer_that_changes_its_inputs_is_replayed_with_the_whole_of_them(arguments: Any) -> None:
    class Searched(LineSearchTrainerMixin, PopsItsInputs):
        pass

    rows = Rows([{**row, "weight": torch.tensor(1.0)} for row in classification_rows().rows])
    args = arguments(remove_unused_columns=False, optim_args="search_rate=inf")
    trainer = Searched(model=tiny_bert(), args=args, train_dataset=rows)
    trainer.train()
    optimizer = trainer.line_search_optimizer
    assert optimizer.counts["trials"] == optimizer.last_search.trials + 2


def test_a_scheduler_instance_says_which_share_is_taken(arguments: Any) -> None:
    model = tiny_bert()
    optimizer = create_optimizer("sgd_sls", model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    args = arguments(max_steps=1)
    trainer = SLSTrainer(model=model, args=args, train_dataset=classification_rows(), optimizers=(optimizer, scheduler))
    trainer.train()
    (group,) = optimizer.param_groups
    assert group["step_size"] == 0.5 * group["line_search"]["initial_step"]["step_size"]


def test_weight_decay_groups_and_betas_reach_the_optimizer(arguments: Any) -> None:
    args = arguments(weight_decay=0.1, adam_beta1=0.7, adam_beta2=0.99, adam_epsilon=1e-6, max_steps=1)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]
    assert trainer.line_search_optimizer.direction.betas == (0.7, 0.99)
    assert trainer.line_search_optimizer.direction.eps == 1e-6


def test_evaluation_between_the_steps_changes_nothing(arguments: Any) -> None:
    runs = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 2}):
        args = arguments(max_steps=8, **settings)
        rows = classification_rows()
        trainer = SLSTrainer(model=tiny_bert(dropout=0.0), args=args, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        runs.append((losses(trainer), step_sizes(trainer)))
    assert runs[0] == runs[1]


def test_iterable_data_with_a_window_cut_by_the_epoch(arguments: Any) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(classification_rows(40).rows)

    args = arguments(max_steps=8, gradient_accumulation_steps=4)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=Stream())
    trainer.train()
    assert trainer.line_search_optimizer.counts["steps"] == 8


def test_the_model_card_tells_the_line_search(arguments: Any, tmp_path: Path) -> None:
    args = arguments(optim_args="c=0.4")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Armijo(c=0.4, tolerance=0.00390625)" in card
    assert "AdamSLS" in card
    assert "learning_rate: 5e-05" not in card
    assert "Use OptimizerNames" not in card


class LossWithWeights(Trainer):
    """A library's Trainer whose loss has weights of its own, which train at ten times the learning rate."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = torch.nn.Parameter(torch.ones(2))

    def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> Any:
        optimizer_class, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        if not kwargs.keys() & {"params", "model", "optimizer_dict"}:
            own = {"params": [self.temperature], "lr": 10 * args.learning_rate}
            kwargs["optimizer_dict"] = [{"params": list(model.parameters())}, own]
        return optimizer_class, kwargs

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        logits = model(inputs["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits * self.temperature, inputs["labels"])


class LossWithWeightsSearched(LineSearchTrainerMixin, LossWithWeights):
    pass


def test_with_a_stock_optimizer_a_library_trains_as_without_the_mixin(arguments: Any) -> None:
    runs = []
    for cls in (LossWithWeights, LossWithWeightsSearched):
        args = arguments(TrainingArguments, optim="adamw_torch", learning_rate=1e-3, max_steps=4)
        trainer = cls(model=tiny_bert(), args=args, train_dataset=classification_rows())
        trainer.train()
        runs.append([*trainer.model.parameters(), trainer.temperature])
    assert all(torch.equal(*pair) for pair in zip(*runs))


@pytest.mark.parametrize("optim", ["adam_sls", "plasls", "sgd_sls"])
def test_the_host_chooses_what_is_trained(optim: str, arguments: Any) -> None:
    args = arguments(optim=optim, max_steps=8)
    trainer = LossWithWeightsSearched(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    assert not torch.equal(trainer.temperature, torch.ones(2))
    groups = trainer.line_search_optimizer.param_groups
    (own,) = [group for group in groups if any(parameter is trainer.temperature for parameter in group["params"])]
    others = [group for group in groups if group is not own]
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(trainer.model.parameters())) + 1
    ratio = 1 if optim == "plasls" else 10  # whose layers have step sizes of their own
    assert own["initial_lr"] == pytest.approx(ratio * others[0]["initial_lr"])


def test_clipping_includes_the_weights_of_the_loss(arguments: Any) -> None:
    slopes = []
    for max_grad_norm in (0.0, 0.01):
        args = arguments(max_steps=1, optim="adam_sls", max_grad_norm=max_grad_norm, adam_epsilon=1e-12)
        trainer = LossWithWeightsSearched(model=tiny_bert(), args=args, train_dataset=classification_rows())
        trainer.train()
        slopes.append(trainer.line_search_optimizer.last_report.slope)
    assert slopes[1] == pytest.approx(slopes[0], rel=1e-3)


def test_inputs_that_the_loss_changes_are_the_same_in_a_trial(arguments: Any) -> None:
    """In place, and by taking something out of a nested mapping."""
    seen: list[tuple[bool, float]] = []

    class Changing(SLSTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            scale = inputs["nested"].pop("scale")
            inputs["labels"].neg_().add_(1)
            loss = model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss * scale.mean()
            seen.append((self.in_trial, float(loss.detach())))
            return loss

    def collate(rows: list[Any]) -> Any:
        stacked = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}
        return {**stacked, "nested": {"scale": torch.ones(len(rows))}}

    args = arguments(max_steps=1, remove_unused_columns=False)
    Changing(model=tiny_bert(), args=args, train_dataset=classification_rows(), data_collator=collate).train()
    assert [in_trial for in_trial, _ in seen][:2] == [False, True]
    assert seen[0][1] == seen[1][1]


def test_a_compute_loss_can_tell_a_trial(arguments: Any) -> None:
    in_trial: list[bool] = []

    class Counting(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            in_trial.append(self.in_trial)
            return super().compute_loss(*args, **kwargs)

    trainer = Counting(model=tiny_bert(), args=arguments(max_steps=5), train_dataset=classification_rows())
    trainer.train()
    counts = trainer.line_search_optimizer.counts
    assert in_trial.count(False) == 5
    assert in_trial.count(True) == counts["trials"] + 1 > 1


def test_what_a_trainer_counts_is_that_of_the_steps(arguments: Any) -> None:
    """Numbers, arrays, containers and what is in them, whatever their names; and what it logs. A large one is data."""

    class Library(SLSTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.metrics: Any = {"train": defaultdict(list)}
            self.seen, self.recent, self.ids = 0, deque(maxlen=3), set()
            self.rows, self.mean = torch.zeros((), dtype=torch.long), np.float32(0)
            self.by_class = {"array": np.zeros(2), "tensor": torch.zeros(2)}
            self.classes = np.broadcast_to(np.ones(1), 3)  # cannot be written to
            self.tree: list[Any] = [[0] * 384] * 1000
            self.tree.append(self.tree)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.seen += 1
            self.metrics["train"]["loss"].append(float(loss.detach()))
            self.recent.append(self.seen)
            self.ids.add(self.seen)
            self.rows.data.add_(1)
            self.mean += np.float32(1)
            for counted in self.by_class.values():
                counted += 1
            self.log({"own": self.seen})
            return loss

    trainer = Library(model=tiny_bert(), args=arguments(max_steps=5), train_dataset=classification_rows())
    trainer.train()
    assert trainer.line_search_optimizer.counts["trials"] >= 5
    assert trainer.seen == len(trainer.metrics["train"]["loss"]) == 5
    assert (list(trainer.recent), trainer.ids) == ([3, 4, 5], {1, 2, 3, 4, 5})
    assert trainer.rows == trainer.mean == 5
    assert [counted.tolist() for counted in trainer.by_class.values()] == [[5, 5], [5, 5]]
    assert [entry["own"] for entry in trainer.state.log_history if "own" in entry] == [1, 2, 3, 4, 5]


def test_seq2seq_trainer_by_the_mixin(arguments: Any) -> None:
    class SLSSeq2SeqTrainer(LineSearchTrainerMixin, Seq2SeqTrainer):
        pass

    set_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    trainer = SLSSeq2SeqTrainer(
        model=model,
        args=arguments(Seq2SeqTrainingArguments, optim="adam_sls", max_steps=20),
        train_dataset=language_rows(),
    )
    trainer.train()
    assert min(losses(trainer)[-4:]) < losses(trainer)[0]
    assert trainer.line_search_optimizer.counts["trials"] > 0


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i + 2 for i in range(30)}}
    built = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", eos_token="<eos>")


def test_trl_sft_trainer_by_the_mixin(arguments: Any) -> None:
    """Its counts of tokens and its metrics are those of a run without trials."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": " ".join(f"w{(i + j) % 30}" for j in range(8))} for i in range(24)])

    class SLSSFTTrainer(LineSearchTrainerMixin, trl.SFTTrainer):
        pass

    counts = []
    for optim in ("adamw_torch", "adam_sls"):
        args = arguments(
            trl.SFTConfig, optim=optim, max_steps=4, bf16=False, gradient_accumulation_steps=2, max_length=16
        )
        trainer = SLSSFTTrainer(
            model=tiny_gpt2(dropout=0.0), args=args, train_dataset=rows, processing_class=tokenizer()
        )
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        counts.append([log["num_tokens"] for log in logs])
        assert "mean_token_accuracy" in logs[0]
    assert counts[0] == counts[1]
    assert trainer.line_search_optimizer.counts["trials"] > 0


REFUSED: dict[str, Callable[[Any], None]] = {
    "DeepSpeed in this configuration": lambda trainer: setattr(trainer, "is_deepspeed_enabled", True),
    "FSDP1": lambda trainer: setattr(trainer, "is_fsdp_enabled", True),
    "nn.DataParallel": lambda trainer: setattr(trainer.args, "_n_gpu", 2),
    "loss_type='dft'": lambda trainer: setattr(trainer.args, "loss_type", "dft"),
    "use_weighting=True": lambda trainer: setattr(trainer.args, "use_weighting", True),
}


@pytest.mark.parametrize("feature", REFUSED)
def test_what_a_line_search_cannot_do_is_refused_with_the_reason(feature: str, arguments: Any) -> None:
    trainer = SLSTrainer(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    REFUSED[feature](trainer)
    with pytest.raises(ValueError, match=f"does not work with {feature}: "):
        trainer._check_line_search()


class OwnBackward(Trainer):
    """Runs backward without Accelerate."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        loss.backward()
        return loss.detach()


class SecondBackward(Trainer):
    """Adds the gradient of another loss after that of the Trainer, as adversarial training does."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.compute_loss(model, self._prepare_inputs(inputs)).backward()
        return loss


class AcceleratesBackward(Trainer):
    """Does as `OwnBackward`, by way of Accelerate."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


@pytest.mark.parametrize("base", [OwnBackward, SecondBackward])
def test_a_training_step_with_a_backward_of_its_own_is_told_what_to_call(base: Any, arguments: Any) -> None:
    trainer = type("Searched", (LineSearchTrainerMixin, base), {})(
        model=tiny_bert(), args=arguments(), train_dataset=classification_rows()
    )
    with pytest.raises(ValueError, match=r"calls loss.backward\(\): .*self.accelerator.backward\(loss\)"):
        trainer.train()


def test_a_training_step_that_moves_the_parameters_in_between_is_refused(arguments: Any) -> None:
    class Adversarial(SLSTrainer):
        """Adds the gradient at perturbed embeddings, as FGM does."""

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(model, *args, **kwargs)
            embeddings = model.get_input_embeddings().weight
            before = embeddings.detach().clone()
            with torch.no_grad():
                embeddings.add_(0.1 * embeddings.grad)
            super().training_step(model, *args, **kwargs)
            with torch.no_grad():
                embeddings.copy_(before)
            return loss

    trainer = Adversarial(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    with pytest.raises(ValueError, match=r"moves the parameters between two forward passes \(FGM"):
        trainer.train()


def test_a_training_step_in_front_of_the_mixin_is_told_where_to_go(arguments: Any) -> None:
    class InFront(SLSTrainer):
        training_step = AcceleratesBackward.training_step

    class Behind(LineSearchTrainerMixin, AcceleratesBackward):
        pass

    with pytest.raises(ValueError, match=r"does not call super\(\).training_step: .*behind the mixin"):
        InFront(model=tiny_bert(), args=arguments(), train_dataset=classification_rows()).train()
    trainer = Behind(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    trainer.train()
    assert trainer.line_search_optimizer.counts["accepted"] > 0


def test_a_training_step_may_skip_a_batch(arguments: Any) -> None:
    class Skipping(AcceleratesBackward):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            if self.state.global_step == 0:
                return torch.zeros(())
            return super().training_step(model, inputs, *args, **kwargs)

    class Searched(LineSearchTrainerMixin, Skipping):
        pass

    trainer = Searched(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    trainer.train()
    assert trainer.line_search_optimizer.counts["skipped_steps"] == 1


@pytest.mark.parametrize("given", [{}, {"optim": "adamw_torch"}, {"optim": "sgd"}], ids=str)
def test_a_trainer_without_a_line_search_says_so_once(
    given: dict[str, str], arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    default = TrainingArguments(output_dir="out").optim

    class Library(LineSearchTrainerMixin, Trainer):
        pass

    def said(cls: Any, args: Any, **kwargs: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hf_sls"):
            cls(model=tiny_bert(), args=args, train_dataset=classification_rows(), **kwargs)
        return [message for message in caplog.messages if "without a line search" in message]

    stock = arguments(TrainingArguments, **given)
    assert len(said(SLSTrainer, stock)) == (stock.optim == default)
    assert said(Library, stock) == []
    assert said(SLSTrainer, stock, optimizers=(AdamSLS(tiny_bert().parameters()), None)) == []
    assert said(SLSTrainer, arguments(**{"optim": "adamw_torch", **given})) == []


def test_optim_args_beside_an_optimizer_are_said_to_be_unused(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, args = tiny_bert(), arguments(optim_args="c=0.3")
    with caplog.at_level(logging.WARNING, "hf_sls"):
        SLSTrainer(
            model=model, args=args, train_dataset=classification_rows(), optimizers=(AdamSLS(model.parameters()), None)
        )
    assert "optim_args='c=0.3' is not used: the trainer was given its optimizer" in caplog.text


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_whose_batches_do_not_fit_is_skipped(accumulation: int, arguments: Any) -> None:
    class Skipping(SLSTrainer):
        evaluated = 0

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            try:
                return super().training_step(*args, **kwargs)
            except MemoryError:
                self.model.zero_grad()
                return torch.zeros(())

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if not self.in_trial:
                self.evaluated += 1
                if (self.evaluated - 1) // accumulation == 1:  # all of the second step
                    raise MemoryError
            return super().compute_loss(*args, **kwargs)

    args = arguments(max_steps=5, gradient_accumulation_steps=accumulation)
    trainer = Skipping(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    counts = trainer.line_search_optimizer.counts
    assert (counts["steps"], counts["skipped_steps"]) == (5, 1)
    assert trainer.line_search_optimizer.found_step_sizes[0] > 0


def test_a_batch_may_be_left_out_once_a_step_was_recorded(arguments: Any) -> None:
    class LeavingOut(SLSTrainer):
        left_out = 2

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            if self.state.global_step == self.left_out:
                return torch.zeros(())
            return super().training_step(*args, **kwargs)

    trainer = LeavingOut(model=tiny_bert(), args=arguments(max_steps=4), train_dataset=classification_rows())
    trainer.train()
    assert trainer.line_search_optimizer.counts["skipped_steps"] == 1
    LeavingOut.left_out = 0
    with pytest.raises(ValueError, match="does not call super"):
        LeavingOut(model=tiny_bert(), args=arguments(max_steps=4), train_dataset=classification_rows()).train()


def test_gradients_that_nothing_recorded_are_refused_in_mid_run(arguments: Any) -> None:
    class Own(SLSTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
            if self.state.global_step < 2:
                return super().training_step(model, inputs, *args)
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
            self.accelerator.backward(loss)
            return loss.detach()

    trainer = Own(model=tiny_bert(), args=arguments(max_steps=4), train_dataset=classification_rows())
    with pytest.raises(ValueError, match="does not call super"):
        trainer.train()
    assert trainer.state.global_step == 2


def test_a_stock_optimizer_in_place_of_the_search_is_said_to_train(
    arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(SLSTrainer):
        def create_optimizer(self, model: Any = None) -> Any:
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
            return self.optimizer

    model = tiny_bert()
    stock = torch.optim.AdamW(model.parameters(), lr=1e-3)
    given = SLSTrainer(model=model, args=arguments(), train_dataset=classification_rows(), optimizers=(stock, None))
    own = Own(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    search = SLSTrainer(model=tiny_bert(), args=arguments(), train_dataset=classification_rows())
    for trainer, name in ((given, "AdamW"), (own, "SGD"), (search, None)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hf_sls"):
            trainer.train()
        warned = [message for message in caplog.messages if "optim='adam_sls' is not used" in message]
        assert len(warned) == (name is not None)
        assert all(f"and {name} does not search" in message for message in warned)


def test_a_stock_optimizer_does_not_go_on_from_a_line_search(arguments: Any, tmp_path: Path) -> None:
    def trainer(**settings: Any) -> SLSTrainer:
        args = arguments(output_dir=str(tmp_path), save_strategy="steps", save_steps=2, **settings)
        return SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())

    trainer(max_steps=2).train()
    with pytest.raises(ValueError, match="has the state of a line search, and AdamW cannot go on"):
        trainer(max_steps=4, optim="adamw_torch").train(resume_from_checkpoint=True)


@pytest.mark.parametrize("peak", [1e-3, 1.0])
def test_learning_rates_of_a_callback_are_warned_of_when_they_fall(peak: float, arguments: Any) -> None:
    class Schedule(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = peak * min((state.global_step + 1) / 4, 1 - state.global_step / 12)

    args = arguments(max_steps=12)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[Schedule()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    messages = [str(each.message) for each in caught if "is not a learning rate here" in str(each.message)]
    assert len(messages) == (peak < 1)


def test_sparse_gradients_are_refused_before_training(arguments: Any) -> None:
    model = tiny_bert()
    model.bert.embeddings.word_embeddings.sparse = True
    with pytest.raises(ValueError, match="does not work with sparse gradients: .*sparse=False"):
        SLSTrainer(model=model, args=arguments(), train_dataset=classification_rows())
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    SLSTrainer(model=model, args=arguments(), train_dataset=classification_rows())


@pytest.mark.long
def test_compiled_models_are_compiled_once(arguments: Any) -> None:
    """One graph with gradients and one for the trials, whatever the number of steps."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    args = arguments(max_steps=10, torch_compile=True, torch_compile_backend="aot_eager", optim_args="preset=published")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=[Watch()])
    trainer.train()
    assert trainer.line_search_optimizer.counts["trials"] >= 10
    assert graphs[1] == graphs[-1]


def test_a_search_over_learning_rates_is_said_to_be_none(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("optuna")
    args = arguments(max_steps=2, eval_strategy="steps", eval_steps=2)
    rows = classification_rows()
    trainer = SLSTrainer(model_init=lambda trial: tiny_bert(), args=args, train_dataset=rows, eval_dataset=rows)
    with caplog.at_level(logging.WARNING, "hf_sls"):
        trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)},
            backend="optuna",
            n_trials=1,
            compute_objective=lambda metrics: metrics["eval_loss"],
        )
    assert "is not used" in caplog.text


def test_hyperparameters_of_the_search_are_searched(arguments: Any) -> None:
    pytest.importorskip("optuna")
    args = arguments(max_steps=4, eval_strategy="steps", eval_steps=4)
    rows = classification_rows()
    trainer = SLSTrainer(model_init=lambda trial: tiny_bert(), args=args, train_dataset=rows, eval_dataset=rows)
    seen: list[float] = []

    class Watch(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
            seen.append(optimizer.optimizer.criterion.c)

    trainer.add_callback(Watch())
    best = trainer.hyperparameter_search(
        lambda trial: {"optim_args": trial.suggest_categorical("optim_args", ["c=0.3"])},
        backend="optuna",
        n_trials=2,
        compute_objective=lambda metrics: metrics["eval_loss"],
    )
    assert best.hyperparameters == {"optim_args": "c=0.3"}
    assert seen == [0.3, 0.3]


def test_trainer_state_is_plain_json(arguments: Any, tmp_path: Path) -> None:
    args = arguments(save_strategy="steps", save_steps=3)
    SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows()).train()
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["log_history"][0]["step_size"] > 0


def test_between_two_logs_the_trainer_reads_nothing_of_the_optimizer(
    arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the watch, once in 32 steps. The Trainer asks for the learning rate at every step."""
    reads: list[int] = []
    to_floats = optimizer_module.to_floats
    monkeypatch.setattr(optimizer_module, "to_floats", lambda *values: reads.append(1) or to_floats(*values))
    args = arguments(optim="adam_sls", max_steps=64, logging_steps=64)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.train()
    assert not trainer.line_search_optimizer.search_due
    assert len(reads) <= 3  # twice the watch, and the log


def test_a_first_group_without_gradients_does_not_hide_the_step_size(arguments: Any) -> None:
    """As where a frozen body comes before the head."""
    model = tiny_bert()
    model.bert.requires_grad_(False)
    optimizer = AdamSLS([{"params": model.bert.parameters()}, {"params": model.classifier.parameters()}])
    args = arguments(optim="adam_sls", max_steps=40, logging_steps=1)
    trainer = SLSTrainer(model=model, args=args, train_dataset=classification_rows(), optimizers=(optimizer, None))
    trainer.train()
    assert not optimizer.search_due
    logged = [each["step_size"] for each in trainer.state.log_history if "step_size" in each]
    assert all(step_size > 0 for step_size in logged)
    assert optimizer.last_step_sizes[0] == optimizer.last_step_sizes[1]
