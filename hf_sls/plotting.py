"""Plots of one run, of several runs, and of one search, and the style that the scripts of the project share.

Lines differ in their dashes as well as in colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from .landscape import Landscape
from .runs import Run

BLACK, RED, BLUE, GREY, GREEN, PINK = "black", "#D55E00", "#0072B2", "#777777", "#009E73", "#CC79A7"
_STYLES = (
    (BLACK, "-", "o"),
    (RED, "--", "s"),
    (BLUE, ":", "D"),
    (GREY, "-.", "^"),
    (GREEN, (0, (5, 1)), "v"),
    (PINK, (0, (3, 1, 1, 1)), "P"),
)


def plot_run(log_history: Sequence[dict[str, Any]], path: str | Path, metric: str = "eval_accuracy") -> None:
    """Plot loss and step size against steps, both on log axes, and an evaluation metric against epochs.

    The run may have any optimizer; with a stock one the learning rate takes the place of the step size. The title has
    the number of steps, the cost of the search, and the last score.

    Args:
        log_history: `trainer.state.log_history`, or the list of that name in `trainer_state.json`.
        path: file to write; its extension sets the format (`.png`, `.svg`, `.pdf`).
        metric: key of the evaluation metric. Its panel is left out if the history has fewer than two values of it.

    Raises:
        ImportError: matplotlib is not installed; `pip install "hf-sls[plot]"`.
        ValueError: the history has no training loss.
    """
    plot_runs({"": log_history}, path, metric)


def plot_runs(
    log_histories: Mapping[str, Sequence[dict[str, Any]]], path: str | Path, metric: str = "eval_accuracy"
) -> None:
    """Plot several runs in one figure, in the panels of `plot_run`.

    Thin lines are the losses as logged. Thick lines are their moving geometric mean, over a window of a twentieth of
    the run around each step. The window narrows to the step itself at the start of the run. Step sizes are drawn as
    logged. The axis of a score between 0 and 1 covers at least a range of 0.2.

    Args:
        log_histories: `trainer.state.log_history` of each run, by its name in the legend.
        path: as in `plot_run`.
        metric: as in `plot_run`.

    Raises:
        ImportError: matplotlib is not installed; `pip install "hf-sls[plot]"`.
        ValueError: there is no run, or a history has no training loss.
    """
    runs = [Run(name, log_history) for name, log_history in log_histories.items()]
    if not runs:
        raise ValueError("log_histories={} is not allowed: at least one run is needed.")
    scores = [run.by_epoch(metric) for run in runs]
    has_curve = any(len(score) > 1 for score in scores)
    panels = 3 if has_curve else 2
    figure = new_figure(3.1 * panels, 3.2)
    axes = figure.subplots(1, panels)
    for index, run in enumerate(runs):
        style = line_style(index, linewidth=1.8 if len(runs) > 1 else 1.2, label=as_label(run.name))
        steps, losses = run.logged("loss")
        if len(runs) > 1:
            axes[0].plot(steps, losses, **{**style, "linewidth": 0.6, "linestyle": "-", "alpha": 0.3, "label": None})
            losses = _geometric_mean(losses)
        axes[0].plot(steps, losses, **style)
        axes[1].plot(*run.logged("learning_rate"), **style)
    for axis, label in ((axes[0], "training loss"), (axes[1], _step_size_label(runs))):
        axis.set(xlabel="step", ylabel=label, yscale="log")
        axis.locator_params(axis="x", integer=True)
    leave_out_the_end_of_a_schedule(axes[1])
    for axis in axes[:2]:
        label_plainly(axis.yaxis)
    if has_curve:
        for index, score in enumerate(scores):
            axes[2].plot(list(score), list(score.values()), **line_style(index, markersize=4))
        axes[2].set(xlabel="epoch", ylabel=metric_label(metric))
        axes[2].locator_params(axis="x", integer=True)
        widen_score_axis(axes[2])
    for axis in axes:
        tidy(axis)
    if len(runs) > 1:
        add_legend(figure)
    else:
        figure.suptitle(as_label(_title(runs[0], metric)), fontsize="medium")
    figure.savefig(path, dpi=150)


def plot_landscape(landscape: Landscape, path: str | Path) -> None:
    """Plot the loss along a search direction, the criterion's line of acceptance, and the step sizes tried.

    Args:
        landscape: from `record_landscapes`, or from a file that `LineSearchCallback` has written.
        path: file to write; its extension sets the format (`.png`, `.svg`, `.pdf`).

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

    figure = new_figure(5.6, 3.6)
    axis = figure.subplots()
    axis.plot(landscape.step_sizes, landscape.losses, "-", color=BLACK, linewidth=2, label="loss of the batch")
    axis.plot([0, end], acceptance, "--", color=RED, label=f"accepted below this line{further_up}")
    tangent = [start_loss, start_loss - landscape.slope * end]
    axis.plot([0, end], tangent, ":", color=BLUE, linewidth=2, label="slope at the start")
    accepted = landscape.outcome == "accepted"
    count = len(landscape.tried) - accepted if landscape.rejected is None else landscape.rejected
    rejected = landscape.tried[:count]
    visible = [(step_size, loss) for step_size, loss in rejected if step_size <= end and isfinite(loss)]
    if visible:
        axis.plot(*zip(*visible), "x", color=BLACK, markersize=8, label="tried, rejected")
    if accepted:
        axis.plot(*landscape.tried[-1], "o", color=BLACK, markersize=9, label="accepted")
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
    tidy(axis)
    figure.savefig(path, dpi=150)


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure of that size, in inches, without a window or a global state.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "hf-sls[plot]".') from error
    return Figure(figsize=(width, height), layout="constrained")


def line_style(index: int, **settings: Any) -> dict[str, Any]:
    """Return the arguments of `Axes.plot` for the line at `index`: color, dashes, and a marker with a `markersize`."""
    color, dashes, marker = _STYLES[index % len(_STYLES)]
    return {"color": color, "linestyle": dashes, **({"marker": marker} if "markersize" in settings else {}), **settings}


def tidy(axis: Any) -> None:
    """Add a light grid, and remove the spines at the top and the right."""
    axis.grid(alpha=0.3, which="both", linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def widen_score_axis(axis: Any, least: float = 0.2) -> None:
    """Widen the y axis of scores between 0 and 1 to a range of `least`, so that small differences look small."""
    low, high = axis.get_ylim()
    data = axis.dataLim
    if 0 <= data.y0 <= data.y1 <= 1 and high - low < least:
        margin = 0.02
        bottom = min(max((low + high - least) / 2, -margin), 1 + margin - least)
        axis.set_ylim(bottom, bottom + least)


def leave_out_the_end_of_a_schedule(axis: Any) -> None:
    """Limit a logarithmic axis of step sizes to four powers of ten: a cosine schedule ends at nearly zero."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, high / 1e4), high)


def label_plainly(axis: Any) -> None:
    """Label a logarithmic axis (`axis.xaxis` or `axis.yaxis`) with 0.7 and 2e-5, at as many ticks as fit."""
    from matplotlib.ticker import FuncFormatter

    low, high = axis.get_view_interval()
    room = high / low
    digits = "123456789" if room < 3 else "12346" if room < 10 else "125" if room < 100 else "1"

    def label(value: float, _: int) -> str:
        if f"{value:e}"[0] not in digits:
            return ""
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{value:.3g}" if value > 5e-4 else f"{float(mantissa):g}e{int(exponent)}"

    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(FuncFormatter(label))


def as_label(name: str) -> str:
    """Return a name as matplotlib shows it literally: a `$` is no formula, a leading `_` does not hide it."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def metric_label(metric: str) -> str:
    """Return the name of an evaluation metric as plots show it: "evaluation loss", or "f1" for `eval_f1`."""
    return "evaluation loss" if metric == "eval_loss" else metric.removeprefix("eval_").replace("_", " ")


def add_legend(figure: Any) -> None:
    """Add the legend of the first axes above the figure, in as many columns as its width has room for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for columns in range(len(labels), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _geometric_mean(values: Sequence[float]) -> Any:
    """Return the moving geometric mean over a twentieth of the values around each.

    At the start the window reaches as far ahead as back, so the first mean is the first value. At the end it ends.
    """
    import numpy

    logs = numpy.log(numpy.where(numpy.asarray(values) > 0, values, numpy.nan))
    half = len(logs) // 40
    means = []
    for index in range(len(logs)):
        reach = min(half, index)
        window = logs[index - reach : index + reach + 1]
        known = window[numpy.isfinite(window)]
        means.append(numpy.exp(known.mean()) if len(known) else numpy.nan)
    return means


def _title(run: Run, metric: str) -> str:
    """Return the name of a run, its number of steps, the cost of its search, and its last score."""
    summary = run.summary(metric)
    last = summary[f"last {metric}"]
    passes = summary["forward passes per step"]
    facts = [
        f"{summary['steps']:.0f} steps",
        *([f"{passes:.2f} forward passes per step"] if passes > 1 else []),
        *([f"{metric_label(metric)} {last:.3f}"] if isfinite(last) else []),
    ]
    return f"{run.name}: {', '.join(facts)}" if run.name else ", ".join(facts)


def _step_size_label(runs: Sequence[Run]) -> str:
    kinds = {run.uses_line_search for run in runs}
    return "step size" if kinds == {True} else "learning rate" if kinds == {False} else "step size, learning rate"
