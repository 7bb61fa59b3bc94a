"""The pictures: of a run, of several, and of one search. They tell their lines apart without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from .landscape import Landscape
from .runs import Run

_STYLES = (("black", "-"), ("#D55E00", "--"), ("#0072B2", ":"), ("#777777", "-."))
_MARKERS = "osD^v"


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
    plot_runs({"": log_history}, path, metric)


def plot_runs(
    log_histories: Mapping[str, Sequence[dict[str, Any]]], path: str | Path, metric: str = "eval_accuracy"
) -> None:
    """Draw several runs in one picture, as `plot_run` does one.

    Their losses and step sizes are drawn thin, and over them the geometric mean of the twentieth of the run around
    each step.

    Args:
        log_histories: `trainer.state.log_history` of each run, by the name for the legend.
        path: as in `plot_run`.
        metric: as in `plot_run`.

    Raises:
        ImportError: matplotlib is not installed; `pip install "hf-sls[plot]"`.
        ValueError: there is no run, or no training loss in the history of one.
    """
    runs = [Run(name, log_history) for name, log_history in log_histories.items()]
    if not runs:
        raise ValueError("log_histories is empty: there is no run to draw.")
    scores = [run.by_epoch(metric) for run in runs]
    panels = 3 if any(scores) else 2
    figure = _figure(3.1 * panels, 2.9 if len(runs) == 1 else 3.2)
    axes = figure.subplots(1, panels)
    for axis, key, label in ((axes[0], "loss", "training loss"), (axes[1], "learning_rate", _step_size_label(runs))):
        for index, run in enumerate(runs):
            logged = [(entry["step"], entry[key]) for entry in run.steps if key in entry]
            _draw(axis, logged, run.name, index, smooth=len(runs) > 1)
        axis.set(xlabel="step", ylabel=label, yscale="log")
        _label_plainly(axis.yaxis)
    if any(scores):
        for index, score in enumerate(scores):
            color, line_style = _style(index)
            marker = _MARKERS[index % len(_MARKERS)]
            axes[2].plot(list(score), list(score.values()), line_style, color=color, marker=marker, markersize=4)
        axes[2].set(xlabel="epoch", ylabel=metric.removeprefix("eval_").replace("_", " "))
        axes[2].locator_params(axis="x", integer=True)
    for axis in axes:
        _tidy(axis)
    if len(runs) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(runs), 4), frameon=False)
    figure.savefig(path, dpi=150)


def plot_landscape(landscape: Landscape, path: str | Path) -> None:
    """Draw the loss along a search direction, the line that the criterion draws, and the steps that were tried.

    Args:
        landscape: of `record_landscapes`, or of a file that `LineSearchCallback` has written.
        path: file to write; the extension says the format (`.png`, `.svg`, `.pdf`).

    Raises:
        ImportError: matplotlib is not installed; `pip install "hf-sls[plot]"`.
    """
    end = landscape.step_sizes[-1]
    start_loss = landscape.losses[0]
    finite = [loss for loss in landscape.losses if isfinite(loss)]
    lowest, highest = min(finite), max(finite)
    height = highest - lowest or 1e-6
    acceptance = [landscape.intercept, landscape.intercept - landscape.rate * end]
    top = min(max(highest, acceptance[0]) + 0.1 * height, highest + 1.5 * height)
    further_up = " (further up)" if min(acceptance) > top else ""

    figure = _figure(5.6, 3.6)
    axis = figure.subplots()
    axis.plot(landscape.step_sizes, landscape.losses, "-", color="black", linewidth=2, label="loss of the batch")
    axis.plot([0, end], acceptance, "--", color="#D55E00", label=f"accepted below this line{further_up}")
    tangent = [start_loss, start_loss - landscape.slope * end]
    axis.plot([0, end], tangent, ":", color="#0072B2", linewidth=2, label="slope at the start")
    accepted = landscape.outcome == "accepted"
    rejected = landscape.tried[:-1] if accepted else landscape.tried
    visible = [(step_size, loss) for step_size, loss in rejected if step_size <= end and isfinite(loss)]
    if visible:
        axis.plot(*zip(*visible), "x", color="black", markersize=8, label="tried, rejected")
    if accepted:
        axis.plot(*landscape.tried[-1], "o", color="black", markersize=9, label="accepted")
    if beyond := len(rejected) - len(visible):
        note = f"{beyond} rejected further right →"
        axis.annotate(note, (0.98, 0.03), xycoords="axes fraction", ha="right", backgroundcolor="white")
    axis.set(
        xlabel="step size",
        ylabel="loss",
        xlim=(0, end),
        ylim=(lowest - 0.3 * height, top),
        title=f"step {landscape.step}: {landscape.outcome}, {landscape.step_size:.2e}",
    )
    axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
    axis.legend(frameon=False)
    _tidy(axis)
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A picture needs matplotlib: pip install "hf-sls[plot]".') from error
    return Figure(figsize=(width, height), layout="constrained")


def _style(index: int) -> tuple[str, str]:
    return _STYLES[index % len(_STYLES)]


def _draw(axis: Any, logged: list[tuple[float, float]], name: str, index: int, smooth: bool) -> None:
    color, line_style = _style(index)
    steps, values = zip(*logged)
    if not smooth:
        axis.plot(steps, values, line_style, color=color, linewidth=1.2)
        return
    axis.plot(steps, values, "-", color=color, linewidth=0.6, alpha=0.3)
    axis.plot(steps, _geometric_mean(values), line_style, color=color, linewidth=1.8, label=name)


def _geometric_mean(values: Sequence[float]) -> Any:
    """Return the mean over the twentieth of the values around each; less of them at the ends."""
    import numpy

    logs = numpy.log(numpy.where(numpy.asarray(values) > 0, values, numpy.nan))
    window = numpy.ones(2 * (len(logs) // 40) + 1)
    known = numpy.isfinite(logs)
    total = numpy.convolve(numpy.where(known, logs, 0), window, mode="same")
    count = numpy.convolve(known, window, mode="same")
    return numpy.exp(numpy.divide(total, count, out=numpy.full(len(logs), numpy.nan), where=count > 0))


def _step_size_label(runs: Sequence[Run]) -> str:
    kinds = {run.uses_line_search for run in runs}
    return "step size" if kinds == {True} else "learning rate" if kinds == {False} else "step size, learning rate"


def _label_plainly(axis: Any) -> None:
    """Write 0.7 for 7 x 10^-1, at as many ticks as there is room for."""
    from matplotlib.ticker import FuncFormatter

    low, high = axis.get_view_interval()
    room = high / low
    digits = "123456789" if room < 3 else "12346" if room < 10 else "125" if room < 100 else "1"
    formatter = FuncFormatter(lambda value, _: f"{value:.3g}" if f"{value:e}"[0] in digits else "")
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(formatter)


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.3, which="both", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
