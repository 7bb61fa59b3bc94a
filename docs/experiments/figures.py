"""The figures of the experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import curves
import numpy as np
from curves import Curves, as_rows, draw_range
from matplotlib.figure import Figure

from hf_sls.plotting import GREY, add_legend, as_label, label_plainly, line_style, new_figure, tidy

Record = dict[str, Any]


def draw_curves(groups: Mapping[str, Sequence[Record]], metric: str, path: Path, description: str) -> None:
    """Plot loss, step size and a metric of runs, with the mean and the range over the seeds.

    The losses are smoothed by a moving geometric mean over the last fortieth of the run.

    Args:
        groups: the runs of each line.
        metric: the metric of the evaluations, `"accuracy"` or `"loss"`.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    lines = {}
    for label, records in groups.items():
        losses = as_rows([record["losses"] for record in records])
        evaluations = [record["evaluations"] for record in records]
        lines[label] = Curves(
            losses=np.exp(averaged(np.log(losses), window=max(1, losses.shape[1] // 40))),
            step_sizes=as_rows([record["step_sizes"] for record in records]),
            epochs=np.array([entry["epoch"] for entry in evaluations[0]]),
            scores=np.array([[entry.get(metric) for entry in entries] for entries in evaluations], dtype=float),
        )
    figure = curves.draw_curves(lines, "training loss", "accuracy" if metric == "accuracy" else "evaluation loss")
    finish(figure, path, description)


def draw_law(
    groups: Mapping[str, Mapping[float, Sequence[float]]],
    fits: Mapping[str, tuple[float, float]],
    axis_label: str,
    path: Path,
    description: str,
) -> None:
    """Plot step sizes against a size, both on log axes, with the range over the seeds and the fitted power law.

    Args:
        groups: for each line, the step sizes of the seeds at each size.
        fits: for each line, the exponent and the logarithm of the factor.
        axis_label: name of the size.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    figure = new_figure(8, 4.6)
    axis = figure.subplots()
    for index, (label, points) in enumerate(groups.items()):
        places = np.array(list(points))
        logs = [np.log(values) for values in points.values()]
        middle = np.exp([values.mean() for values in logs])
        low, high = (np.exp([edge(values) for values in logs]) for edge in (np.min, np.max))
        error = [np.maximum(middle - low, 0), np.maximum(high - middle, 0)]
        axis.errorbar(places, middle, yerr=error, **line_style(index, markersize=5, linestyle="none", capsize=2))
        exponent, offset = fits[label]
        axis.plot(places, np.exp(offset) * places**exponent, **line_style(index))
        axis.plot([], [], **line_style(index, markersize=5, label=as_label(label)))
    axis.set(xlabel=axis_label, ylabel="step size", xscale="log", yscale="log")
    sizes = sorted({size for points in groups.values() for size in points})
    if sizes[-1] < 1000:
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axis.set_xticks([], minor=True)
    add_legend(figure)
    finish(figure, path, description)


def draw_panels(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], ylabel: str, path: Path, description: str
) -> None:
    """Plot a score against several settings, one panel each, with the mean and the range over the seeds.

    Args:
        panels: for each setting and each line, the scores of the seeds at each value.
        ylabel: name of the score.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    figure = new_figure(10, 3.4)
    for axis, (setting, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        values = sorted({value for points in lines.values() for value in points})
        for index, (label, points) in enumerate(lines.items()):
            style = line_style(index, markersize=4, label=as_label(label))
            places = np.array([values.index(value) for value in points])
            draw_range(axis, places, np.array(list(points.values())).T, style, logarithmic=False)
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set(xlabel=setting.replace("_", " "), ylabel=ylabel)
    add_legend(figure)
    finish(figure, path, description)


def draw_ratios(ratios: Mapping[str, Mapping[str, float]], path: Path, description: str) -> None:
    """Plot the ratios of each task on a line of its own, on a log axis, sorted by the first ratio.

    Args:
        ratios: for each task, the ratio of each line; the lines are the same for all tasks.
        path: the PNG to write.
        description: kept in the file, as its metadata.
    """
    labels = list(next(iter(ratios.values())))
    first = labels[0]
    tasks = sorted(ratios, key=lambda task: ratios[task][first], reverse=True)
    figure = new_figure(8, 1.4 + 0.24 * len(tasks))
    axis = figure.subplots()
    axis.axvline(1, color=GREY, linewidth=0.8)
    for index, label in enumerate(labels):
        style = line_style(index, label=as_label(label), linestyle="none", markersize=6 if label == first else 4)
        axis.plot([ratios[task][label] for task in tasks], range(len(tasks)), **style)
    axis.set_yticks(range(len(tasks)), [as_label(task.replace("_", " ")) for task in tasks])
    axis.set(xscale="log", xlabel="evaluation loss, over that of the best learning rate for the task")
    label_plainly(axis.xaxis)
    add_legend(figure)
    finish(figure, path, description)


def averaged(values: np.ndarray, window: int) -> np.ndarray:
    """Return the moving mean over the last `window` columns, over fewer at the beginning."""
    return np.stack([values[:, max(0, i + 1 - window) : i + 1].mean(axis=1) for i in range(values.shape[1])], axis=1)


def finish(figure: Figure, path: Path, description: str) -> None:
    """Tidy the axes and write the figure."""
    for axis in figure.axes:
        tidy(axis)
    figure.savefig(path, dpi=100, metadata={"Description": description})
