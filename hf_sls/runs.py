"""Runs of the Trainer on disk: what their logs say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from .checkpoints import last_complete_checkpoint
from .metrics import final_loss, mean_log_loss

MEAN_LOG_LOSS = "L, mean log loss"
_NOT_METRICS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "samples")


@dataclass(frozen=True)
class Run:
    """A finished, interrupted or running training run, by its log.

    Attributes:
        name: what to call it.
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
                f"log_history{of_run} has no entry with a 'loss': nothing was logged in training (logging_steps)."
            )

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The entries of training."""
        return [entry for entry in self.log_history if "loss" in entry]

    @property
    def metrics(self) -> list[str]:
        """The keys of the evaluation metrics, those of `compute_metrics` first, and `eval_loss` last."""
        keys = dict.fromkeys(key for entry in self.log_history for key in entry if key.startswith("eval_"))
        own = [key for key in keys if not key.endswith(_NOT_METRICS)]
        return [*own, *(key for key in keys if key == "eval_loss")]

    @property
    def uses_line_search(self) -> bool:
        """Whether its steps were found by a line search."""
        return "step_size" in self.steps[-1]

    def by_epoch(self, metric: str) -> dict[float, float]:
        """Return a metric by epoch; the Trainer evaluates once more after training, and the last one counts."""
        return {entry["epoch"]: entry[metric] for entry in self.log_history if metric in entry}

    def summary(self, metric: str | None) -> dict[str, float]:
        """Return the numbers that two runs are compared by; one that the log does not have is NaN.

        Args:
            metric: the key of an evaluation metric; less is better where it ends in `loss`.
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
            best = min if metric.endswith("loss") else max
            found |= {f"best {metric}": best(scores), f"last {metric}": scores[-1]}
        return found


def load_run(path: str | Path, name: str | None = None) -> Run:
    """Read a run from its `output_dir`, or from a `trainer_state.json`.

    Args:
        path: the directory, with a `trainer_state.json` in it or in its last checkpoint; or that file.
        name: what to call the run; the last part of the path by default.

    Raises:
        FileNotFoundError: there is no such directory, or no `trainer_state.json` in it.
        ValueError: the file is no `trainer_state.json`, or nothing was logged in training.
    """
    path = Path(path)
    file = path if path.is_file() else _state_file(path)
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a {TRAINER_STATE_NAME}: {error!r}.") from error
    return Run(name if name is not None else path.resolve().name, history)


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read several runs, named by the last parts of their paths, or by the whole paths where those are the same."""
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
        f"{directory} has no {TRAINER_STATE_NAME}, nor has a checkpoint in it: call trainer.save_state() after "
        "training, or save checkpoints (save_strategy)."
    )
