"""Read runs of the Trainer from disk, and summarize their logs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from .checkpoints import last_complete_checkpoint
from .metrics import final_loss, mean_log_loss

MEAN_LOG_LOSS = "mean log loss"
_NOT_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "samples")
_DIAGNOSTICS = re.compile(r"eval_(.*_)?(entropy|num_tokens|mean_token_accuracy|margin|(min|mean|max)_reward|.*/.*)")
"""What TRL logs beside the loss."""
_LOWER_IS_BETTER = re.compile(r".*(loss|perplexity|entropy|error|_(mse|rmse|mae|wer|cer|ter))")


@dataclass(frozen=True)
class Run:
    """The log of a training run, which may be finished, interrupted or in progress.

    Attributes:
        name: the name to show for it.
        log_history: `trainer.state.log_history`, or the list of that name in `trainer_state.json`.

    Raises:
        ValueError: there is no training loss in the history.
    """

    name: str
    log_history: Sequence[dict[str, Any]]

    def __post_init__(self) -> None:
        if not self.steps:
            of_run = f" of {self.name}" if self.name else ""
            raise ValueError(
                f"log_history{of_run} has no entry with a 'loss': nothing was logged during training (logging_steps)."
            )

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The log entries with a training loss."""
        return [entry for entry in self.log_history if "loss" in entry]

    @property
    def metrics(self) -> list[str]:
        """The keys of the evaluation metrics, the most telling first.

        Those of `compute_metrics` come before `eval_loss`, then come the losses of further evaluation sets and the
        diagnostics that TRL logs; each kind is in the order of the log.
        """
        keys = dict.fromkeys(key for entry in self.log_history for key in entry if key.startswith("eval_"))
        return sorted((key for key in keys if not key.endswith(_NOT_METRICS)), key=_rank)

    @property
    def uses_line_search(self) -> bool:
        """Whether a line search found the step sizes."""
        return "step_size" in self.steps[-1]

    def logged(self, key: str) -> tuple[list[float], list[float]]:
        """Return the steps with a training loss at which `key` was logged, and its values."""
        entries = [entry for entry in self.steps if key in entry]
        return [entry["step"] for entry in entries], [entry[key] for entry in entries]

    def by_epoch(self, metric: str) -> dict[float, float]:
        """Return a metric by epoch; of several evaluations at one epoch the last one counts."""
        return {entry["epoch"]: entry[metric] for entry in self.log_history if metric in entry}

    def summary(self, metric: str | None) -> dict[str, float]:
        """Return the numbers by which runs are compared; what the log does not have is NaN.

        Args:
            metric: the key of an evaluation metric, or `None`. The best value is the greatest, but the least of a
                loss, an error, an entropy or a perplexity.
        """
        losses = [entry["loss"] for entry in self.steps]
        end: dict[str, Any] = next((entry for entry in reversed(self.log_history) if "train_loss" in entry), {})
        passes = math.nan if self.uses_line_search else 1.0
        found = {
            "final loss (last twentieth)": final_loss(losses),
            MEAN_LOG_LOSS: mean_log_loss(losses) if min(losses) > 0 else math.nan,
            "loss, geometric mean": geometric_mean(losses) if min(losses) > 0 else math.nan,
            "steps": float(self.steps[-1]["step"]),
            "forward passes per step": end.get("train_forward_passes_per_step", passes),
            "train_runtime in s": end.get("train_runtime", math.nan),
        }
        if metric is not None:
            scores = list(self.by_epoch(metric).values()) or [math.nan]
            best = min if _LOWER_IS_BETTER.fullmatch(metric) else max
            found |= {f"best {metric}": best(scores), f"last {metric}": scores[-1]}
        return found


def _rank(metric: str) -> int:
    if _DIAGNOSTICS.fullmatch(metric):
        return 3
    return 1 if metric == "eval_loss" else 2 if metric.endswith("_loss") else 0


def choose_metric(runs: Sequence[Run]) -> str | None:
    """Return the first metric that every run has, else the first that one of them has; `None` without an evaluation."""
    known = sorted(dict.fromkeys(metric for run in runs for metric in run.metrics), key=_rank)
    shared = [metric for metric in known if all(metric in run.metrics for run in runs)]
    return next(iter(shared or known), None)


def load_run(path: str | Path, name: str | None = None) -> Run:
    """Read a run from its `output_dir`, or from a `trainer_state.json`.

    Args:
        path: the file, or a directory that has it, or has it in its last checkpoint.
        name: the name to show; by default the last part of the path.

    Raises:
        FileNotFoundError: there is no such directory, or no `trainer_state.json` in it.
        ValueError: the file is not a `trainer_state.json`, or nothing was logged during training.
    """
    path = Path(path)
    file = path if path.is_file() else _state_file(path)
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a {TRAINER_STATE_NAME}: {error!r}.") from error
    return Run(name if name is not None else path.resolve().name, history)


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read several runs, named by the last parts of their paths, or by their whole paths if two of those are equal."""
    names = [Path(path).resolve().name for path in paths]
    whole = len(set(names)) < len(names)
    return [load_run(path, str(path) if whole else None) for path in paths]


def _state_file(directory: Path) -> Path:
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no directory {directory}. A run is the output_dir of its Trainer.")
    checkpoint = last_complete_checkpoint(directory)
    candidates = [directory, *([Path(checkpoint)] if isinstance(checkpoint, str) else [])]
    for candidate in candidates:
        if (candidate / TRAINER_STATE_NAME).is_file():
            return candidate / TRAINER_STATE_NAME
    raise FileNotFoundError(
        f"{directory} has no {TRAINER_STATE_NAME}, and neither has a checkpoint in it: call trainer.save_state() after "
        "training, or save checkpoints (save_strategy)."
    )
