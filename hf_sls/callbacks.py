"""`LineSearchCallback`: progress bar, warnings and landscapes of a run with a line search."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from .landscape import LANDSCAPE_NAME, Landscape, load_landscapes, measure_landscape, save_landscapes
from .optim import FinishedSearch, LineSearchOptimizer, SearchReport
from .optim._validation import check_integer
from .optim.trials import Observer
from .private import public_when_written

logger = logging.getLogger(__name__)

_CHECK_THE_LOSS = (
    "The usual cause is a loss that differs between trials, or whose gradient is that of another function: look for "
    "random numbers, state or a detach() of your own in the model or in compute_loss. Another cause is low precision: "
    "compute the loss in fp32."
)
_ADVICE = {
    "rejected": "All {report.trials} step sizes tried were rejected. " + _CHECK_THE_LOSS,
    "inconsistent": "The loss decreased by {report.loss_decrease:.1e}, and its slope predicts "
    "{report.expected_decrease:.1e}. " + _CHECK_THE_LOSS,
    "unresolvable": "The predicted decrease is below the rounding of the loss ({report.loss:.3g}). Either the run has "
    "converged and can stop, or the loss has too few digits: compute it in fp32.",
    "no_slope": "The gradient is zero. Check whether the batches have labels (not all -100), whether the loss depends "
    "on the trainable parameters, and whether it is at its minimum already.",
    "non_finite": "The loss or the gradient is NaN or infinite. Check the batches and the model; instead of fp16 try "
    "bf16=True.",
}
_MAX_DECREASE_RATIO = 3.0
"""Ratio of the decrease to the predicted decrease, up or down, above which a search went wrong."""


class LineSearchCallback(TrainerCallback):
    """Shows step size and trials on the progress bar, warns when searches fail, and records landscapes.

    `SLSTrainer` and the mixin add one while they train, unless you pass one to set its arguments:

        >>> callback = LineSearchCallback(landscape_steps=[1, 10])

    as `SLSTrainer(..., callbacks=[callback])`.

    Args:
        patience: number of consecutive searches that go wrong before a warning says why and what to do, once in a run;
            at least 1. A search goes wrong when it takes no step, or when the loss changes by more than three times the
            predicted decrease, up or down.
        landscape_steps: steps, counted from 1, at which to record the loss along the search direction to
            `landscape.json` in `output_dir`, for `hf-sls landscape`. Where a step is not searched, the next one that is
            counts. A landscape takes 32 forward passes and does not change the run.

    Raises:
        ValueError: `patience` or a step is not an integer of at least 1.
    """

    def __init__(self, patience: int = 5, landscape_steps: Collection[int] = ()) -> None:
        steps = {step.item() if hasattr(step, "item") else step for step in landscape_steps}  # of numpy or torch
        for name, value in (("patience", patience), *(("landscape_steps", step) for step in steps)):
            check_integer(name, value, low=1)
        self.patience = patience
        self.landscape_steps = sorted(steps)
        self._observed = False
        self._observer: Observer | None = None
        self.shown_beside: Sequence[TrainerCallback] = ()
        """The callbacks of the trainer, one of which may have a progress bar."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reset the counts of the last run."""
        self._last_seen: SearchReport | None = None
        self._failures = 0
        self._has_warned = False
        self._steps_to_come = [step for step in self.landscape_steps if step > state.global_step]
        self._landscapes: list[Landscape] = []
        if self._observed:
            self._stop_observing(kwargs["optimizer"])
        recorded = Path(args.output_dir) / LANDSCAPE_NAME
        if self.landscape_steps and state.global_step and recorded.exists():
            self._landscapes = [past for past in load_landscapes(recorded) if past.step <= state.global_step]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Observe the search of this step if a landscape is due."""
        search = line_search_of(kwargs["optimizer"])
        step = state.global_step + 1
        if search is None or not self._steps_to_come or self._steps_to_come[0] > step:
            return

        if self._observed:  # a step that the end of an epoch has cut short
            self._stop_observing(search)
        before = self._observer = search.observer

        def observe(finished: FinishedSearch) -> None:
            if before is not None:
                before(finished)
            self._landscapes.append(replace(measure_landscape(finished), step=step))
            self._steps_to_come = [other for other in self._steps_to_come if other > step]

        search.observer, self._observed = observe, True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the step, save a landscape if one was recorded, and warn when searches keep failing."""
        search = line_search_of(kwargs["optimizer"])
        if search is None:
            return
        if self._observed:
            self._stop_observing(search)
            if self._landscapes and state.is_world_process_zero:
                save_landscapes(self._landscapes, Path(args.output_dir) / LANDSCAPE_NAME)
        report = search.last_search
        if report is None:
            return
        self._show(search.param_groups[0]["step_size"], search.last_trials)
        if report is not self._last_seen:
            self._last_seen = report
            self._warn_of_failures(report, state)
        elif search.last_trials:  # this batch has looked back
            self._failures = 0

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Name the landscapes that were not recorded, as no search came after their steps."""
        missed = [step for step in self._steps_to_come if step <= state.global_step]
        if missed and line_search_of(kwargs["optimizer"]) is not None and state.is_world_process_zero:
            logger.warning(
                f"landscape_steps={missed} were not recorded: no step from there on was searched. "
                'optim_args="search_rate=inf" searches every step.'
            )

    def _stop_observing(self, optimizer: Any) -> None:
        search = line_search_of(optimizer)
        if search is not None:
            search.observer = self._observer
        self._observed = False

    def _warn_of_failures(self, report: SearchReport, state: TrainerState) -> None:
        problem = _problem(report)
        self._failures = self._failures + 1 if problem else 0
        if problem and self._failures == self.patience and not self._has_warned and state.is_world_process_zero:
            self._has_warned = True
            logger.warning(
                f"The last {self.patience} searches went wrong, up to step {state.global_step} ({problem}). "
                f"{_ADVICE[problem].format(report=report)}"
            )

    def _show(self, step_size: float, trials: int) -> None:
        for callback in self.shown_beside:
            bar = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.set_postfix({"step size": f"{step_size:.2e}", "trials": trials}, refresh=False)
            tracker = getattr(callback, "training_tracker", None)
            if tracker is not None:
                tracker.prefix = f"step size {step_size:.2e}, trials {trials} "


def _problem(report: SearchReport) -> str | None:
    """Return why a search went wrong, a key of `_ADVICE`; `None` if it did not."""
    if report.outcome == "accepted":
        allowed = _MAX_DECREASE_RATIO * abs(report.expected_decrease)
        return "inconsistent" if abs(report.loss_decrease) > allowed else None
    return "rejected" if report.backtracks else report.outcome


def line_search_of(optimizer: Any) -> LineSearchOptimizer | None:
    """Return the line-search optimizer without Accelerate's wrapper; `None` for any other optimizer."""
    while not isinstance(optimizer, LineSearchOptimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer if isinstance(optimizer, LineSearchOptimizer) else None


class PublicTensorBoardCallback(TensorBoardCallback):
    """Writes TensorBoard's files, which a push uploads, without the secrets and paths of the training arguments."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(public_when_written(args), state, control, **kwargs)


def public_tensorboard(callback: TrainerCallback) -> TrainerCallback:
    """Return `callback`, or in the place of transformers' callback for TensorBoard one that writes no secret."""
    return PublicTensorBoardCallback(callback.tb_writer) if type(callback) is TensorBoardCallback else callback
