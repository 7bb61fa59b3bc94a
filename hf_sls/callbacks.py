"""`LineSearchCallback`: what a run with a line search shows while it trains."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .landscape import LANDSCAPE_NAME, Landscape, load_landscapes, measure_landscape, save_landscapes
from .optim import FinishedSearch, LineSearchOptimizer, SearchReport

logger = logging.getLogger(__name__)

_NOT_THE_SAME_LOSS = (
    "As a rule the loss is then not the same function in every trial, or not the one that the gradient is of: look for "
    "randomness, state or a detach() of your own in the model or in compute_loss. Or its precision is too low: compute "
    "it in fp32."
)
_ADVICE = {
    "rejected": "Every step size tried was rejected, {report.trials} of them. " + _NOT_THE_SAME_LOSS,
    "inconsistent": "The decrease of the loss was {report.loss_decrease:.1e}, its slope promised "
    "{report.expected_decrease:.1e}. " + _NOT_THE_SAME_LOSS,
    "unresolvable": "The decrease promised is below the rounding of the loss ({report.loss:.3g}). Either the run has "
    "converged and can stop, or the loss is too coarse: compute it in fp32.",
    "no_slope": "The gradient is zero. Look whether the batches have labels (not all -100), whether the loss depends "
    "on the trainable parameters, and whether it is at its minimum already.",
    "non_finite": "The loss or the gradient is NaN or infinite. Look at the batches and the model; under fp16 try "
    "bf16=True instead.",
}
_INCONSISTENT = 3.0


class LineSearchCallback(TrainerCallback):
    """Shows step size and trials on the progress bar, warns of searches that fail, and records landscapes.

    `SLSTrainer` and the mixin have one of their own while they train. Pass another to set its arguments:

        >>> callback = LineSearchCallback(landscape_steps=[1, 50])

    as `SLSTrainer(..., callbacks=[callback])`.

    Args:
        patience: searches in a row that go wrong, after which a warning, once in a run, says how and what to do; at
            least 1. A search goes wrong when it takes no step, or when the loss changes by more than three times what
            its slope promises, up or down.
        landscape_steps: steps, from 1, at which to record the loss along the search direction to `landscape.json` in
            `output_dir`, for `hf-sls landscape`; for a step without a search the next one that has one. A landscape is
            32 forward passes, and does not change the run.

    Raises:
        ValueError: `patience` or a step is below 1.
    """

    def __init__(self, patience: int = 5, landscape_steps: Collection[int] = ()) -> None:
        for name, value in (("patience", patience), *(("landscape_steps", step) for step in landscape_steps)):
            if value < 1:
                raise ValueError(f"{name}={value} is not allowed: steps and searches are counted from 1.")
        self.patience = patience
        self.landscape_steps = sorted(set(landscape_steps))
        self._observed = False
        self.shown_beside: Sequence[TrainerCallback] = ()
        """The callbacks of the trainer, of which one may own a progress bar."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting afresh."""
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
        """Have the optimizer observed where a landscape is due."""
        search = line_search_of(kwargs["optimizer"])
        step = state.global_step + 1
        if search is None or not self._steps_to_come or self._steps_to_come[0] > step:
            return

        def observe(finished: FinishedSearch) -> None:
            self._landscapes.append(replace(measure_landscape(finished), step=step))
            self._steps_to_come = [other for other in self._steps_to_come if other > step]

        search.observer, self._observed = observe, True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the step, save a landscape that was recorded, and warn when searches keep failing."""
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
        self._show(search.param_groups[0]["step_size"], report.trials)
        if report is not self._last_seen:
            self._last_seen = report
            self._warn_of_failures(report, state)

    def _stop_observing(self, optimizer: Any) -> None:
        search = line_search_of(optimizer)
        if search is not None:
            search.observer = None
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
    """Name what is wrong with a search: it took no step, or the loss changed as no loss does that has that slope."""
    if report.outcome == "accepted":
        return "inconsistent" if abs(report.loss_decrease) > _INCONSISTENT * abs(report.expected_decrease) else None
    return "rejected" if report.backtracks else report.outcome


def line_search_of(optimizer: Any) -> LineSearchOptimizer | None:
    """Return the line-search optimizer, without Accelerate's wrapper; `None` for another one."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    return optimizer if isinstance(optimizer, LineSearchOptimizer) else None
