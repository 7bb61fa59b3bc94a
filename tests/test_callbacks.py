"""What a run shows while it trains: the logs, the progress bar, the warning, the landscapes."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from hf_sls import LineSearchCallback, SLSTrainer
from hf_sls.callbacks import line_search_of
from hf_sls.landscape import load_landscapes
from hf_sls.optim import OPTIMIZERS

from .conftest import classification_rows, losses, step_sizes, tiny_bert


class Reports(TrainerCallback):
    """Keeps what each step reported."""

    def __init__(self) -> None:
        self.reports: list[Any] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.reports.append(optimizer.optimizer.last_report)


def trained(arguments: Any, callbacks: Any = (), trainer_class: Any = SLSTrainer, **settings: Any) -> SLSTrainer:
    args = arguments(**settings)
    trainer = trainer_class(
        model=tiny_bert(), args=args, train_dataset=classification_rows(), callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


def logged(trainer: SLSTrainer, name: str) -> list[Any]:
    return [entry.get(name) for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("optim", ["adam_sls", "sgd_sls", "ponos"])
def test_slope_and_ratio_are_means_over_the_accepted_searches(optim: str, arguments: Any) -> None:
    watch = Reports()
    trainer = trained(
        arguments,
        [watch],
        optim=optim,
        max_steps=12,
        logging_steps=3,
        optim_args="search_rate=0.3" if optim != "adam_sls" else "c=0.2",
    )
    for index, (slope, ratio) in enumerate(zip(logged(trainer, "slope"), logged(trainer, "criterion_ratio"))):
        accepted = [report for report in watch.reports[3 * index : 3 * index + 3] if report.outcome == "accepted"]
        if not accepted:
            assert (slope, ratio) == (None, None)
            continue
        assert slope == pytest.approx(sum(report.slope for report in accepted) / len(accepted))
        assert ratio == pytest.approx(sum(report.criterion_ratio for report in accepted) / len(accepted))
        assert ratio >= 1
    assert any(ratio is not None for ratio in logged(trainer, "criterion_ratio"))


def test_the_ratio_is_that_of_the_armijo_condition(arguments: Any) -> None:
    watch = Reports()
    settings = {"optim": "sgd_sls", "optim_args": "c=0.2,search_rate=inf", "lr_scheduler_type": "constant"}
    trained(arguments, [watch], max_steps=8, **settings)
    accepted = [report for report in watch.reports if report.outcome == "accepted"]
    assert len(accepted) > 4
    for report in accepted:
        asked = 0.2 * report.step_size * report.slope
        assert report.criterion_ratio == pytest.approx(report.loss_decrease / asked)


def test_skipped_steps_are_logged(arguments: Any) -> None:
    class SometimesNaN(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.state.global_step in (2, 3) else loss

    trainer = trained(arguments, trainer_class=SometimesNaN, max_steps=6, logging_steps=3, logging_nan_inf_filter=False)
    assert logged(trainer, "ls_skipped_steps") == pytest.approx([1 / 3, 1 / 3])


def test_each_layer_of_plasls_is_logged_by_name(arguments: Any) -> None:
    trainer = trained(arguments, optim="plasls", optim_args="blocks=2,joint_steps=1,c=0.9", max_steps=24)
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    names = ["embeddings", "blocks_1", "blocks_2", "head"]
    assert [name for name in last if name.startswith("step_size/")] == [f"step_size/{name}" for name in names]
    found = {group["layer_name"]: group["step_size"] for group in trainer.line_search_optimizer.param_groups}
    assert {name: last[f"step_size/{name}"] for name in names} == found
    assert len(set(found.values())) > 1


def test_the_numbers_reach_tensorboard(arguments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = trained(arguments, optim="plasls", optim_args="blocks=2", max_steps=4, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    own = ("slope", "criterion_ratio", "loss_decrease", "ls_trials", "ls_backtracks", "ls_skipped_steps")
    for name in ("step_size", "step_size/embeddings", "step_size/head", *own):
        values = [scalar.value for scalar in events.Scalars(f"train/{name}")]
        assert values == pytest.approx([value for value in logged(trainer, name) if value is not None], rel=1e-5)
        assert values


def test_the_progress_bar_shows_the_step(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []
    monkeypatch.setattr(ProgressCallback, "on_train_end", lambda self, *a, **k: bars.append(self.training_bar))
    trainer = trained(arguments, disable_tqdm=False, max_steps=3)
    assert bars[0].postfix == f"step size={step_sizes(trainer)[-1]:.2e}, trials=1"


def test_a_step_that_was_not_searched_shows_no_trials(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(LineSearchCallback, "_show", lambda self, step_size, trials: shown.append(trials))
    trainer = trained(arguments, max_steps=6, optim="sgd_sls", optim_args="search_rate=0.1,search_credit=2")
    assert shown == logged(trainer, "ls_trials")
    assert shown.count(0) > 1


def test_the_bar_of_a_notebook_shows_it_too(arguments: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython")
    from transformers.utils.notebook import NotebookTrainingTracker

    monkeypatch.setattr(NotebookTrainingTracker, "display", lambda self: None)
    tracker = NotebookTrainingTracker(3, ["Step"])
    notebook = TrainerCallback()
    notebook.training_tracker = tracker
    trainer = trained(arguments, [notebook], max_steps=3)
    assert tracker.prefix == f"step size {step_sizes(trainer)[-1]:.2e}, trials 1 "


def test_a_stock_optimizer_has_no_such_callback(arguments: Any) -> None:
    args = arguments(TrainingArguments, optim="adamw_torch")
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    assert "LineSearchCallback" not in trainer.callback_handler.callback_list


def test_a_callback_that_is_passed_takes_the_place_of_the_own(arguments: Any) -> None:
    callback = LineSearchCallback(patience=2)
    trainer = SLSTrainer(model=tiny_bert(), args=arguments(), train_dataset=classification_rows(), callbacks=[callback])
    trainer.train()
    assert trainer._line_search_callbacks() == [callback]


def test_the_own_callback_is_there_in_training_only(arguments: Any) -> None:
    seen: list[bool] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("LineSearchCallback" in trainer.callback_handler.callback_list)

    trainer = SLSTrainer(model=tiny_bert(), args=arguments(), train_dataset=classification_rows(), callbacks=[Watch()])
    stock = list(trainer.callback_handler.callbacks)
    trainer.train()
    assert seen == [True, True, True]
    assert trainer.callback_handler.callbacks == stock


class NaN(SLSTrainer):
    """A loss that is NaN from the fourth step on."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        return loss * float("nan") if self.state.global_step >= 3 else loss


class Constant(SLSTrainer):
    """A loss that does not depend on the parameters."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 0 * super().compute_loss(*args, **kwargs) + 1


class Ascending(SLSTrainer):
    """A loss that is higher in every trial."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) + 10 * self.in_trial


class OwnNoise(SLSTrainer):
    """A loss with noise from a generator in an object of its own, which no replay knows of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.noise = SimpleNamespace(generator=random.Random(0))
        super().__init__(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) * (1 + self.noise.generator.gauss(0, 0.02))


@pytest.mark.filterwarnings("ignore:The loss of this batch", "ignore:The first search tried")
@pytest.mark.parametrize(
    ("trainer_class", "advice"),
    [
        (NaN, r"to step 6 \(non_finite\). The loss or the gradient is NaN"),
        (Constant, r"to step 3 \(no_slope\). The gradient is zero"),
        (Ascending, r"to step 3 \(rejected\). All \d+ step sizes tried were rejected.*random numbers"),
        (OwnNoise, r"to step \d+ \(inconsistent\). The loss decreased by .*, and its slope predicts .*random numbers"),
    ],
)
def test_searches_that_keep_failing_are_warned_of_once(
    trainer_class: Any, advice: str, arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LineSearchCallback(patience=3)
    optim = "adam_sls" if trainer_class is OwnNoise else "sgd_sls"
    settings = {"optim": optim, "optim_args": "search_rate=inf", "max_steps": 12}
    if trainer_class is OwnNoise:
        settings["max_steps"] = 40  # the first thirty look back
    with caplog.at_level(logging.WARNING, "hf_sls.callbacks"):
        trained(arguments, [callback], trainer_class, **settings)
    (record,) = [record for record in caplog.records if record.name == "hf_sls.callbacks"]
    assert re.match(rf"The last 3 searches went wrong, up {advice}", record.getMessage())


def test_bad_batches_between_good_ones_are_not_warned_of(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    class EveryFourth(SLSTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs) * (float("nan") if self.state.global_step % 4 == 3 else 1.0)

    trainer = trained(arguments, [LineSearchCallback(patience=3)], EveryFourth, optim="adam_sls", max_steps=20)
    assert trainer.line_search_optimizer.counts["skipped_steps"] == 5
    assert "searches went wrong" not in caplog.text


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_healthy_runs_are_not_warned_of(optim: str, arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    trained(arguments, [LineSearchCallback(patience=3)], optim=optim, optim_args="search_rate=inf", max_steps=20)
    assert [record for record in caplog.records if record.name == "hf_sls.callbacks"] == []


@pytest.mark.parametrize("optim", ["adam_sls", "plasls", "ponos"])
def test_landscapes_change_nothing_and_say_what_the_search_saw(optim: str, arguments: Any, tmp_path: Path) -> None:
    often = {"optim": optim, "max_steps": 9, "optim_args": "search_rate=inf"}
    plain = trained(arguments, **often)
    watch = Reports()
    callback = LineSearchCallback(landscape_steps=[1, 4, 8])
    observed = trained(arguments, [callback, watch], **often)
    assert losses(observed) == losses(plain)
    assert step_sizes(observed) == step_sizes(plain)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(parameter, observed.model.get_parameter(name))
    landscapes = load_landscapes(tmp_path / "run")
    assert [landscape.step for landscape in landscapes][:2] == [1, 4]
    for landscape in landscapes:
        report = watch.reports[landscape.step - 1]
        assert landscape.losses[0] == report.loss
        assert len(landscape.tried) == report.trials
        assert landscape.tried[-1][0] == landscape.step_size == landscape.step_sizes[16]
        assert landscape.losses[16] == pytest.approx(landscape.tried[-1][1], rel=1e-5)
        if report.outcome != "not_searched":  # a step that has looked back is drawn as if it had been tried
            assert (landscape.outcome, landscape.slope) == (report.outcome, report.slope)
            assert landscape.losses[0] - landscape.tried[-1][1] == pytest.approx(report.loss_decrease)


def test_a_landscape_of_a_step_without_search_is_that_of_the_next_with_one(arguments: Any, tmp_path: Path) -> None:
    callback = LineSearchCallback(landscape_steps=[3, 4])
    trained(arguments, [callback], max_steps=12, optim_args="look_back=false,search_credit=1,search_rate=0.2")
    (landscape,) = load_landscapes(tmp_path / "run")
    assert 4 < landscape.step <= 12


@pytest.mark.parametrize(("wrong_labels", "agree"), [(True, False), (False, True)])
def test_batches_that_do_not_agree_are_told_once(
    wrong_labels: bool, agree: bool, arguments: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """Labels that have nothing to do with the rows, and labels that say what is in them."""
    rows = classification_rows(400)
    generator = torch.Generator().manual_seed(0)
    for row in rows.rows:
        coin = int(torch.randint(2, (), generator=generator))
        row["labels"] = torch.tensor(coin if wrong_labels else int(row["input_ids"][0]) % 2)
    settings = {"max_steps": 60, "per_device_train_batch_size": 4 if wrong_labels else 32}
    trainer = SLSTrainer(model=tiny_bert(), args=arguments(**settings), train_dataset=rows)
    trainer.train()
    assert trainer.line_search_optimizer.is_uncertain != agree
    said = [each for each in recwarn if "without a clear answer" in str(each.message)]
    assert len(said) == (0 if agree else 1)


def test_landscapes_that_never_came_are_named(arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    steps = {"max_steps": 40, "learning_rate": 5e-5}
    with caplog.at_level(logging.WARNING, "hf_sls.callbacks"):
        trainer = trained(arguments, [LineSearchCallback(landscape_steps=[1, 39, 50])], **steps)
    assert not trainer.line_search_optimizer.search_due
    assert "landscape_steps=[39] were not recorded" in caplog.text


def test_a_resumed_run_keeps_the_landscapes_of_before(arguments: Any, tmp_path: Path) -> None:
    saved = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "optim_args": "search_rate=inf"}
    trained(arguments, [LineSearchCallback(landscape_steps=[2])], **saved)
    callback = LineSearchCallback(landscape_steps=[2, 5])
    trainer = SLSTrainer(
        model=tiny_bert(), args=arguments(**saved), train_dataset=classification_rows(), callbacks=[callback]
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert [landscape.step for landscape in load_landscapes(tmp_path / "run")] == [2, 5]


def test_an_observer_of_the_user_sees_every_step_beside_the_landscapes(arguments: Any) -> None:
    seen: list[int] = []

    class Observing(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            line_search_of(kwargs["optimizer"]).observer = lambda search: seen.append(search.step)

    trained(arguments, [Observing(), LineSearchCallback(landscape_steps=[2])], max_steps=4)
    assert seen == [1, 2, 3, 4]


def test_an_interrupted_step_leaves_no_observer_to_the_next_run(arguments: Any, tmp_path: Path) -> None:
    class Interrupted(SLSTrainer):
        interrupts = True

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.interrupts and self.state.global_step == 1:
                raise KeyboardInterrupt
            return super().compute_loss(*args, **kwargs)

    trainer = Interrupted(
        model=tiny_bert(),
        args=arguments(optim_args="search_rate=inf"),
        train_dataset=classification_rows(),
        callbacks=[LineSearchCallback(landscape_steps=[2])],
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.interrupts = False
    trainer.train()
    assert [landscape.step for landscape in load_landscapes(tmp_path / "run")] == [2]
    assert trainer.line_search_optimizer.observer is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience=0 is not allowed"),
        ({"patience": 2.5}, r"patience=2\.5 is not allowed"),
        ({"patience": "5"}, "patience='5' is not allowed"),
        ({"landscape_steps": [3, 0]}, "landscape_steps=0 is not allowed"),
    ],
)
def test_counts_that_are_no_integers_of_at_least_one_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LineSearchCallback(**settings)


def test_landscape_steps_may_be_an_array() -> None:
    assert LineSearchCallback(landscape_steps=np.arange(1, 30, 10)).landscape_steps == [1, 11, 21]
    assert LineSearchCallback(landscape_steps=torch.tensor([3, 3])).landscape_steps == [3]


def test_another_optimizer_is_left_alone() -> None:
    callback, state = (
        LineSearchCallback(landscape_steps=[1]),
        SimpleNamespace(global_step=0, is_world_process_zero=True),
    )
    args = SimpleNamespace(output_dir="nowhere")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    callback.on_train_begin(args, state, None)
    callback.on_step_begin(args, state, None, optimizer=optimizer)
    callback.on_step_end(args, state, None, optimizer=optimizer)
    assert not hasattr(optimizer, "observer")
