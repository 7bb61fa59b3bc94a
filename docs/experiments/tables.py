"""The results on the pages: tables of optimizers, and fits of power laws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import mean
from figures import draw_curves, draw_law, draw_panels, draw_ratios
from recording import final_loss
from scipy.stats import linregress

Record = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """The runs behind one line of a table: those of a task with the settings `where`."""

    label: str
    task: str
    where: Mapping[str, Any]

    def select(self, records: Sequence[Record]) -> list[Record]:
        """Return the runs in the order of their seeds; of runs with the same settings, the last."""
        chosen = {
            frozenset(record["settings"].items()): record
            for record in records
            if record["task"] == self.task
            and all(record["settings"].get(name) == value for name, value in self.where.items())
        }
        return sorted(chosen.values(), key=lambda record: record["settings"]["seed"])


@dataclass(frozen=True)
class Comparison:
    """A page that compares optimizers: a table of all, and curves of the line searches and the best others."""

    name: str
    lines: Sequence[Curve]
    metric: str = "accuracy"

    def results(self, records: Sequence[Record], figure: Path) -> str:
        """Return the part of the page that is written from the results, and draw its figure."""
        groups = {line.label: runs for line in self.lines if (runs := line.select(records))}
        header = ["optimizer", "seeds", "final loss", "mean log loss"]
        header += ["accuracy" if self.metric == "accuracy" else "evaluation loss"]
        header += ["step size changes by", "forward passes per step", "seconds"]
        rows = [self._row(label, runs) for label, runs in groups.items()]
        chosen = [record for runs in groups.values() for record in runs]
        draw_curves(shown(groups), self.metric, figure, fingerprint(chosen))
        return "\n\n".join([settings_of(chosen), table(header, rows), f"![{self.name}]({figure.name})"])

    def _row(self, label: str, runs: list[Record]) -> list[str]:
        scores = [runs_score(record, self.metric) for record in runs]
        return [
            label,
            str(len(runs)),
            spread([final_loss(record) for record in runs], "{:.4g}", geometric=True),
            f"{np.mean([mean(np.log(np.array(record['losses'], dtype=float))) for record in runs]):.3f}",
            spread(scores, "{:.3f}"),
            f"{100 * np.mean([step_change(record) for record in runs]):.1f} %",
            f"{np.mean([record['forward_passes_per_step'] for record in runs]):.2f}",
            f"{np.mean([record['train_seconds'] for record in runs]):.1f}",
        ]


@dataclass(frozen=True)
class Variation:
    """A page that changes one setting at a time, to see whether one choice of optimizer serves for all values."""

    name: str
    lines: Sequence[Curve]
    varied: Mapping[str, Sequence[float]]

    def results(self, records: Sequence[Record], figure: Path) -> str:
        """Return the part of the page that is written from the results, and draw its figure."""
        groups = {
            setting: {
                line.label: {
                    value: replace(line, where={**line.where, setting: value}).select(records) for value in values
                }
                for line in self.lines
            }
            for setting, values in self.varied.items()
        }
        chosen = {
            json.dumps(record["settings"]): record
            for of_setting in groups.values()
            for of_line in of_setting.values()
            for runs in of_line.values()
            for record in runs
        }
        scores = {
            setting: {
                label: {value: [runs_score(run, "accuracy") for run in runs] for value, runs in points.items() if runs}
                for label, points in of_setting.items()
            }
            for setting, of_setting in groups.items()
        }
        draw_panels(scores, "accuracy", figure, fingerprint(list(chosen.values())))
        tables = [
            table(
                [f"`{setting}`", *of_setting],
                [
                    [f"{value:g}", *(self._cell(points[value]) for points in of_setting.values())]
                    for value in self.varied[setting]
                ],
            )
            for setting, of_setting in groups.items()
        ]
        return "\n\n".join([settings_of(list(chosen.values())), *tables, f"![{self.name}]({figure.name})"])

    @staticmethod
    def _cell(runs: list[Record]) -> str:
        if not runs:
            return ""
        loss = geometric_mean([final_loss(record) for record in runs])
        return f"{loss:.4g} / {np.mean([runs_score(record, 'accuracy') for record in runs]):.3f}"


@dataclass(frozen=True)
class Law:
    """A page that fits a power law of step size against another size, to lines with at least three sizes."""

    name: str
    lines: Sequence[Curve]
    size: str
    axis_label: str
    paper: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def results(self, records: Sequence[Record], figure: Path) -> str:
        """Return the part of the page that is written from the results, and draw its figure."""
        groups = {line.label: line.select(records) for line in self.lines}
        points = {label: steps for label, runs in groups.items() if len(steps := self._points(runs)) > 2}
        points |= {label: {size: [step] for size, step in steps.items()} for label, steps in self.paper.items()}
        fits = {label: fit(steps) for label, steps in points.items()}
        sizes = sorted({size for steps in points.values() for size in steps})
        rows = [
            [label, str(max(map(len, steps.values()))), self._exponent(label, groups.get(label, []), steps)]
            + [f"{geometric_mean(steps[size]):.2e}" if size in steps else "" for size in sizes]
            for label, steps in points.items()
        ]
        header = ["", "seeds", "exponent", *(f"{size:,.0f}" for size in sizes)]
        chosen = [record for label in points if label in groups for record in groups[label]]
        draw_law(points, fits, self.axis_label, figure, fingerprint(chosen))
        return "\n\n".join([settings_of(chosen), table(header, rows), f"![{self.name}]({figure.name})"])

    def _points(self, runs: list[Record]) -> dict[float, list[float]]:
        points: dict[float, list[float]] = {}
        for record in sorted(runs, key=self._size_of):
            points.setdefault(self._size_of(record), []).append(typical_step_size(record))
        return points

    def _size_of(self, record: Record) -> float:
        return record.get(self.size) or record["settings"][self.size]

    def _exponent(self, label: str, runs: list[Record], steps: dict[float, list[float]]) -> str:
        """Return the exponent of all points, with its standard error over the seeds, or of the fit for one seed."""
        sizes, values = flat(steps)
        whole = linregress(np.log(sizes), np.log(values))
        seeds = {record["settings"]["seed"] for record in runs}
        of_seeds = [self._points([record for record in runs if record["settings"]["seed"] == seed]) for seed in seeds]
        slopes = [fit(points)[0] for points in of_seeds if points.keys() == steps.keys()]
        if len(slopes) < 2:
            return f"{whole.slope:.2f} ± {whole.stderr:.2f} (of the fit)"
        error = np.std(slopes, ddof=1) / np.sqrt(len(slopes))
        return f"{whole.slope:.2f} ± {error:.2f}"


@dataclass(frozen=True)
class Ratios:
    """A page with a row for each task: evaluation losses, over that of the learning rate which is best for the task.

    The first line of a task is compared with the others, which have one learning rate each.
    """

    name: str
    lines: Sequence[Curve]

    def results(self, records: Sequence[Record], figure: Path) -> str:
        """Return the part of the page that is written from the results, and draw its figure."""
        groups: dict[str, dict[str, list[Record]]] = {}
        for line in self.lines:
            if runs := line.select(records):
                groups.setdefault(line.task, {})[line.label] = runs
        ratios = {task: self._ratios(runs) for task, runs in groups.items()}
        labels = list(dict.fromkeys(line.label for line in self.lines))
        means = [geometric_mean([of_task[label] for of_task in ratios.values()]) for label in labels]
        worst = [max(of_task[label] for of_task in ratios.values()) for label in labels]
        rows = [
            [f"`{task}`", *(f"{ratios[task][label]:.2f}" for label in labels), *self._more(runs[labels[0]])]
            for task, runs in groups.items()
        ]
        rows += [
            ["geometric mean", *(f"{value:.2f}" for value in means), "", "", ""],
            ["largest", *(f"{value:.2f}" for value in worst), "", "", ""],
        ]
        header = ["kind", *labels, f"loss of {labels[0]}", "its step size", "forward passes per step"]
        chosen = [record for of_task in groups.values() for runs in of_task.values() for record in runs]
        draw_ratios(ratios, figure, fingerprint(chosen))
        return "\n\n".join([settings_of(chosen), table(header, rows), f"![{self.name}]({figure.name})"])

    @staticmethod
    def _ratios(runs: Mapping[str, list[Record]]) -> dict[str, float]:
        """Return the loss of each line of a task over the least of all lines but the first; infinite if not finite."""
        means = {label: geometric_mean([runs_score(run, "loss") for run in of_line]) for label, of_line in runs.items()}
        finite = {label: mean if np.isfinite(mean) else np.inf for label, mean in means.items()}
        least = min(list(finite.values())[1:])
        return {label: loss / least for label, loss in finite.items()}

    @staticmethod
    def _more(runs: list[Record]) -> list[str]:
        return [
            spread([runs_score(run, "loss") for run in runs], "{:.3g}", geometric=True),
            spread([max(run["step_sizes"]) for run in runs], "{:.1e}", geometric=True),
            f"{np.mean([run['forward_passes_per_step'] for run in runs]):.2f}",
        ]


def shown(groups: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """Return all line searches, and AdamW and SGD with the learning rate of least final loss."""
    losses: dict[str, dict[str, float]] = {}
    for label, runs in groups.items():
        if runs[0]["settings"]["learning_rate"] is not None:
            loss = geometric_mean([final_loss(record) for record in runs])
            losses.setdefault(runs[0]["settings"]["optim"], {})[label] = loss if np.isfinite(loss) else np.inf
    best = [min(of_labels, key=of_labels.__getitem__) for of_labels in losses.values()]
    return {
        label: runs for label, runs in groups.items() if runs[0]["settings"]["learning_rate"] is None or label in best
    }


def runs_score(record: Record, metric: str) -> float:
    """Return the metric of the last evaluation; NaN if there was none."""
    return mean([entry.get(metric) for entry in record["evaluations"][-1:]] or [None])


def step_change(record: Record) -> float:
    """Return the mean absolute change of the logarithm of the step size from one step to the next."""
    logs = np.log([size for size in record["step_sizes"] if size])
    return float(np.mean(np.abs(np.diff(logs))))


def typical_step_size(record: Record) -> float:
    """Return the geometric mean of the step sizes over the second half of a run."""
    sizes = record["step_sizes"]
    return geometric_mean(sizes[len(sizes) // 2 :])


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return float(np.exp(np.mean(np.log(np.array(values, dtype=float)))))


def flat(steps: Mapping[float, Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return sizes and step sizes as two lists of equal length."""
    pairs = [(size, value) for size, values in steps.items() for value in values]
    return [size for size, _ in pairs], [value for _, value in pairs]


def fit(steps: Mapping[float, Sequence[float]]) -> tuple[float, float]:
    """Return exponent and logarithm of the factor of the power law, by least squares on the logarithms."""
    sizes, values = flat(steps)
    line = linregress(np.log(sizes), np.log(values))
    return float(line.slope), float(line.intercept)


def spread(values: Sequence[float], form: str, geometric: bool = False) -> str:
    """Return the mean, with the range in brackets if there are several values."""
    middle = geometric_mean(values) if geometric else float(np.mean(values))
    if np.isnan(middle):
        return "not finite"
    text = form.format(middle)
    return text if len(values) < 2 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def settings_of(records: Sequence[Record]) -> str:
    """Return a sentence with the settings that all runs share, and what they ran on."""
    of_first = records[0]["settings"]
    unused = "num_train_epochs" if of_first.get("max_steps", -1) > 0 else "max_steps"
    shared = [
        f"`{name}` {value}"
        for name, value in of_first.items()
        if value and name != unused and all(record["settings"].get(name) == value for record in records)
    ]
    versions = sorted({", ".join(f"{name} {of}" for name, of in record["versions"].items()) for record in records})
    devices = sorted({record["device"] for record in records})
    return f"{len(records)} runs, all with {', '.join(shared)}. With {'; '.join(versions)}, on {'; '.join(devices)}."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def fingerprint(records: Sequence[Record]) -> str:
    """Return a short hash of the runs that a figure shows."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16]
