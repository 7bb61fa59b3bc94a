"""Curves of runs, with the range over their seeds: what the report of a sweep and docs/experiments draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_sls.plotting import (
    add_legend,
    as_label,
    label_plainly,
    leave_out_the_end_of_a_schedule,
    line_style,
    new_figure,
    tidy,
    widen_score_axis,
)


@dataclass(frozen=True)
class Curves:
    """The runs of one optimizer, one row per seed. NaN, and a step size of 0, leave a gap.

    Attributes:
        losses: shape (seeds, steps).
        step_sizes: shape (seeds, steps).
        epochs: of the evaluations, shape (evaluations,).
        scores: shape (seeds, evaluations).
    """

    losses: np.ndarray
    step_sizes: np.ndarray
    epochs: np.ndarray
    scores: np.ndarray


def draw_curves(lines: Mapping[str, Curves], loss_label: str, score_label: str) -> Figure:
    """Plot loss and step size against steps on log axes, and the score against epochs if there are several."""
    evaluations = max((curves.scores.shape[1] for curves in lines.values() if curves.scores.size), default=0)
    panels = 3 if evaluations > 1 else 2
    figure: Figure = new_figure(10 * panels / 3, 3.4)
    loss, step_size, *score = figure.subplots(1, panels)
    for index, (name, curves) in enumerate(lines.items()):
        style = line_style(index, label=as_label(name), linewidth=1.4)
        step_sizes = np.where(curves.step_sizes > 0, curves.step_sizes, np.nan)
        draw_range(loss, np.arange(curves.losses.shape[1]) + 1, curves.losses, style)
        draw_range(step_size, np.arange(step_sizes.shape[1]) + 1, step_sizes, style)
        if score and curves.scores.size:
            dots = line_style(index, markersize=4, linewidth=1.4)
            draw_range(score[0], curves.epochs, curves.scores, dots, logarithmic=False)
    for axis, label in ((loss, loss_label), (step_size, "step size")):
        axis.set(xlabel="step", ylabel=label, yscale="log")
    leave_out_the_end_of_a_schedule(step_size)
    for axis in (loss, step_size):
        label_plainly(axis.yaxis)
    for axis in score:
        axis.set(xlabel="epoch", ylabel=as_label(score_label))
        axis.locator_params(axis="x", integer=True)
        widen_score_axis(axis)
    for axis in figure.axes:
        tidy(axis)
    add_legend(figure)
    return figure


def draw_range(axis: Axes, x: np.ndarray, values: np.ndarray, style: dict[str, Any], logarithmic: bool = True) -> None:
    """Plot the mean over the rows of `values`, geometric if `logarithmic`, and shade from the least to the greatest."""
    mean = np.exp(np.log(values).mean(axis=0)) if logarithmic else values.mean(axis=0)
    axis.plot(x, mean, **style)
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.15, linewidth=0)


def as_rows(curves: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return curves as an array of shape (seeds, length of the shortest), with NaN for `None`."""
    length = min(map(len, curves))
    return np.array([curve[:length] for curve in curves], dtype=float)
