"""The picture of a run: loss, step size and the metric over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_run(log_history: Sequence[dict[str, Any]], path: str | Path, metric: str = "eval_accuracy") -> None:
    """Draw loss and step size against steps, both on log axes, and a metric against epochs.

    Works for any Trainer run; with a stock optimizer the step size is its learning rate.

    Args:
        log_history: `trainer.state.log_history`, or the list of that name in `trainer_state.json`.
        path: file to write; the extension says the format (`.png`, `.svg`, `.pdf`).
        metric: the key of the evaluation metric. Without an evaluation its panel is left out.

    Raises:
        ImportError: matplotlib is not installed; `pip install "hf-sls[plot]"`.
        ValueError: there is no training loss in the history.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A picture needs matplotlib: pip install "hf-sls[plot]".') from error

    steps = [entry for entry in log_history if "loss" in entry]
    if not steps:
        raise ValueError("log_history has no entry with a 'loss': nothing was logged in training (logging_steps).")
    # The Trainer evaluates once more after training; the last entry of an epoch is the one that counts.
    evaluations = {entry["epoch"]: entry[metric] for entry in log_history if metric in entry}

    panels = 3 if evaluations else 2
    figure = Figure(figsize=(4 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels)
    for axis, key, label in ((axes[0], "loss", "training loss"), (axes[1], "learning_rate", "step size")):
        axis.plot([entry["step"] for entry in steps], [entry[key] for entry in steps], color="black", linewidth=1.2)
        axis.set(xlabel="step", ylabel=label, yscale="log")
    if evaluations:
        axes[2].plot(list(evaluations), list(evaluations.values()), color="black", marker="o", markersize=4)
        axes[2].set(xlabel="epoch", ylabel=metric.removeprefix("eval_").replace("_", " "))
    for axis in axes:
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
