"""The figures of the experiments, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

STYLES = (("black", "-", "o"), ("black", "--", "s"), ("0.5", "-", "^"), ("0.5", "--", "D"), ("0.5", ":", "v"))
Record = dict[str, Any]


def draw_curves(groups: Mapping[str, Sequence[Record]], metric: str, path: Path, description: str) -> None:
    """Draw loss, step size and a metric of runs: the mean over the seeds, and the range of them shaded.

    Args:
        groups: the runs of each line, at most five lines.
        metric: what of an evaluation to draw, `"accuracy"` or `"loss"`.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, step_size, evaluation = figure.subplots(1, 3)
    for (label, records), (color, line, marker) in zip(groups.items(), STYLES, strict=False):
        style = {"color": color, "linestyle": line, "linewidth": 1.3}
        losses = curves(records, "losses")
        window = max(1, losses.shape[1] // 40)
        draw_range(loss, np.arange(losses.shape[1]) + 1, averaged(np.log(losses), window), {**style, "label": label})
        sizes = curves(records, "step_sizes")
        sizes[sizes <= 0] = np.nan
        draw_range(step_size, np.arange(sizes.shape[1]) + 1, np.log(sizes), style)
        scores = np.array([[entry.get(metric) for entry in record["evaluations"]] for record in records], dtype=float)
        if scores.size:
            epochs = np.array([entry["epoch"] for entry in records[0]["evaluations"]])
            dots = {**style, "marker": marker, "markersize": 4}
            draw_range(evaluation, epochs, scores, dots, logarithmic=False)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    loss.yaxis.set_major_formatter(LogFormatter())
    loss.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))
    step_size.set(xlabel="step", ylabel="step size", yscale="log")
    evaluation.set(xlabel="epoch", ylabel="accuracy" if metric == "accuracy" else "evaluation loss")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    finish(figure, path, description)


def draw_law(
    groups: Mapping[str, Mapping[float, Sequence[float]]],
    fits: Mapping[str, tuple[float, float]],
    axis_label: str,
    path: Path,
    description: str,
) -> None:
    """Draw step sizes against a size, both on log axes, with the range over the seeds and the fitted power law.

    Args:
        groups: of each line, the step sizes of the seeds at each size.
        fits: of each line, exponent and logarithm of the factor.
        axis_label: what the size is.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axis = figure.subplots()
    for (label, points), (color, line, marker) in zip(groups.items(), STYLES * 2, strict=False):
        places = np.array(list(points))
        logs = [np.log(values) for values in points.values()]
        middle = np.exp([values.mean() for values in logs])
        low, high = (np.exp([edge(values) for values in logs]) for edge in (np.min, np.max))
        axis.errorbar(
            places,
            middle,
            yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            color=color,
            marker=marker,
            linestyle="none",
            markersize=5,
            capsize=2,
        )
        exponent, offset = fits[label]
        axis.plot(places, np.exp(offset) * places**exponent, color=color, linestyle=line)
        axis.plot([], [], color=color, linestyle=line, marker=marker, label=label)
    axis.set(xlabel=axis_label, ylabel="step size", xscale="log", yscale="log")
    sizes = sorted({size for points in groups.values() for size in points})
    if sizes[-1] < 1000:
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axis.set_xticks([], minor=True)
    figure.legend(loc="outside right center", frameon=False)
    finish(figure, path, description)


def draw_panels(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], ylabel: str, path: Path, description: str
) -> None:
    """Draw a score against one setting after the other: the mean over the seeds, and the range of them shaded.

    Args:
        panels: of each setting and each line, the scores of the seeds at each value.
        ylabel: what the score is.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axis, (setting, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        values = sorted({value for points in lines.values() for value in points})
        for (label, points), (color, line, marker) in zip(lines.items(), STYLES, strict=False):
            style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "label": label}
            places = np.array([values.index(value) for value in points])
            draw_range(axis, places, np.array(list(points.values())).T, style, logarithmic=False)
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set(xlabel=setting.replace("_", " "), ylabel=ylabel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    finish(figure, path, description)


def curves(records: Sequence[Record], name: str) -> np.ndarray:
    """Return a curve of all runs as an array of shape (runs, steps); what was not finite is NaN."""
    length = min(len(record[name]) for record in records)
    return np.array([record[name][:length] for record in records], dtype=float)


def averaged(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean over the last `window` columns, or those there are."""
    return np.stack([values[:, max(0, i + 1 - window) : i + 1].mean(axis=1) for i in range(values.shape[1])], axis=1)


def draw_range(
    axis: Axes, places: np.ndarray, values: np.ndarray, style: dict[str, Any], logarithmic: bool = True
) -> None:
    """Draw the mean over the rows and shade from the least to the greatest; logarithms are drawn as numbers."""
    lines = [values.mean(axis=0), values.min(axis=0), values.max(axis=0)]
    middle, low, high = map(np.exp, lines) if logarithmic else lines
    axis.plot(places, middle, **style)
    axis.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)


def finish(figure: Figure, path: Path, description: str) -> None:
    """Add a grid and write the figure."""
    for axis in figure.axes:
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100, metadata={"Description": description})
