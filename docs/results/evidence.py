"""The evidence for `adam_sls`: which runs answer "is it for me?", in one format, and the figure of README.

readme.py writes the tables and the figure.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from scipy.stats import gmean

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))

from report import table_of_runs
from results import read_results

from hf_sls.plotting import BLACK, RED, add_legend, new_figure, tidy

RESULTS = Path(__file__).parent
GPU = RESULTS / "gpu"
FIGURE = RESULTS / "evidence.svg"
SLS, ADAMW, PRODIGY, SCHEDULE_FREE = "`adam_sls`", "AdamW", "Prodigy", "schedule-free"
TRAINER, TRL = 5e-5, 2e-5
"""The learning rates of `TrainingArguments` and of TRL's `SFTConfig` where nobody sets one."""


@dataclass(frozen=True)
class Run:
    """One run with AdamW, or with an optimizer that is compared with it.

    Attributes:
        optimizer: one of the four names above.
        rate: the learning rate; `None` where there is none to choose.
        seed: of the run.
        steps: number of training steps.
        loss: evaluation loss after the last step; NaN if it was not finite.
        score: accuracy on the evaluation rows, in [0, 1]; `None` for a language model.
        passes: forward passes per step.
        time: of the whole run, in seconds or over AdamW's on the same device; comparable within a task; `None` or NaN
            where the machine did other work.
        memory: peak memory in MiB; `None` where it was not measured.
        device: where it ran.
    """

    optimizer: str
    rate: float | None
    seed: int
    steps: int
    loss: float
    score: float | None
    passes: float
    time: float | None
    memory: float | None
    device: str


@dataclass(frozen=True)
class Case:
    """One task in one precision.

    Attributes:
        task: name of the task and the model.
        precision: fp32, bf16 autocast, ...
        read: returns the stored runs.
        default: AdamW's learning rate where nobody sets one.
        label: name in the figure; `None` leaves the case out.
    """

    task: str
    precision: str
    read: Callable[[], list[Run]]
    default: float = TRAINER
    label: str | None = None

    @cached_property
    def measured(self) -> pd.DataFrame:
        """Means over the seeds, a row an optimizer and learning rate (0 where there is none).

        Only seeds that `adam_sls` has count, where it has run, and only rows with all of these seeds.
        """
        runs = pd.DataFrame([vars(run) for run in self.read()], columns=list(Run.__annotations__))
        ours = runs.loc[runs["optimizer"] == SLS, "seed"]
        runs = runs[runs["seed"].isin(ours if len(ours) else runs["seed"])].drop_duplicates(
            ["optimizer", "rate", "seed"], keep="last"
        )
        means = runs.fillna({"rate": 0.0}).groupby(["optimizer", "rate"])
        table = means.agg(
            seeds=("seed", "nunique"),
            steps=("steps", "first"),
            loss=("loss", lambda values: gmean(values, nan_policy="propagate")),
            score=("score", "mean"),
            passes=("passes", "mean"),
            time=("time", "mean"),
            memory=("memory", "mean"),
            device=("device", "first"),
        )
        return table[table["seeds"] == table["seeds"].max()]

    def of(self, optimizer: str, measure: str = "loss") -> pd.Series:
        """Return a measure of an optimizer by learning rate; an empty series where it has not run."""
        table = self.measured
        table = table[table.index.get_level_values("optimizer") == optimizer]
        return table[measure].droplevel("optimizer").astype(float).dropna()


def of_default(task: str) -> list[Run]:
    """Return the runs of a task in one-default.jsonl; `cpu` is processor time, evaluation included."""
    names = {"adam_sls": SLS, "adamw_torch": ADAMW}
    return [
        Run(
            names[row["optim"]],
            row["rate"],
            row["seed"],
            row["steps"],
            row["eval_loss"],
            row["score"],
            row["passes"],
            row["cpu"],
            None,
            "CPU",
        )
        for row in rows_of(RESULTS / "one-default.jsonl")
        if row["task"] == task
    ]


def of_experiments(path: Path, task: str, **where: Any) -> list[Run]:
    """Return the runs of a task with the settings `where`, in a file that docs/experiments or run_sft.py write."""
    runs = []
    for row in rows_of(path):
        settings = row["settings"]
        optimizer = _optimizer(settings["optim"], settings["lr_scheduler_type"], settings["optim_args"])
        if row["task"] != task or optimizer is None or any(settings.get(key) != value for key, value in where.items()):
            continue
        last = row["evaluations"][-1]
        on_gpu = not row["device"].startswith("cpu")
        runs.append(
            Run(
                optimizer,
                settings["learning_rate"],
                settings["seed"],
                len(row["losses"]),
                math.nan if last["loss"] is None else last["loss"],
                last.get("accuracy"),
                row["forward_passes_per_step"],
                row["train_seconds"] if on_gpu else None,
                row.get("peak_mebibytes"),
                row["device"] if on_gpu else "CPU",
            )
        )
    return runs


def of_sweep(folder: str, task: str) -> list[Run]:
    """Return the runs of a task in a sweep of glue_scripts/sweep.py; their times are over AdamW's."""
    rows = rows_of(RESULTS / folder / "results.jsonl")
    times = table_of_runs(rows)["time"]  # by the number of the row
    runs = []
    for number, row in enumerate(rows):
        settings = row["settings"]
        optim = row["peer"] or settings.get("optim", "adam_sls")
        optimizer = _optimizer(optim, settings.get("lr_scheduler_type", "linear"), settings.get("optim_args"))
        if row["task"] != task or optimizer is None or ", on " in row["optimizer"]:  # a repetition on another machine
            continue
        runs.append(
            Run(
                optimizer,
                settings.get("learning_rate"),
                row["seed"],
                len(row["losses"]),
                row["scores"]["eval_loss"],
                row["score"],
                row["forward_passes"] / len(row["losses"]),
                times.get(number),
                None,
                row["device"].split(",")[0],
            )
        )
    return runs


def _optimizer(optim: str, schedule: str, optim_args: str | None) -> str | None:
    """Return the name of an optimizer as the page shows it; `None` if the page does not."""
    if optim_args is not None:
        return None
    shown = {
        ("adam_sls", "linear"): SLS,
        ("adamw_torch", "linear"): ADAMW,
        ("adamw_torch_fused", "linear"): ADAMW,
        ("prodigy", "cosine"): PRODIGY,
        ("schedule_free_adamw", "constant"): SCHEDULE_FREE,
    }
    return shown.get((optim, schedule))


@cache
def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of results, read once."""
    return read_results(path)


FIRST_500 = "MiniLM, 500 rows"
TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "qnli": "QNLI", "mnli": "MNLI"}
_SCRATCH, _GPT2 = RESULTS / "experiments.jsonl", {"width": 128, "batch_size": 8, "max_steps": 200}
_MNIST = {"width": 256, "batch_size": 128, "max_steps": -1, "label_noise": 0.0}

CASES = (
    Case("MNIST, perceptron, batch 128", "fp32", partial(of_experiments, _SCRATCH, "mnist", **_MNIST), label="MNIST"),
    Case("MNIST, batch 32", "fp32", partial(of_default, "mnist_b32"), label="MNIST, batch 32"),
    Case("MNIST, batch 512", "fp32", partial(of_default, "mnist_b512"), label="MNIST, batch 512"),
    Case("CIFAR-10, small ResNet", "fp32", partial(of_default, "cnn"), label="CIFAR-10, ResNet"),
    Case("tiny BERT, a fifth of the labels wrong", "fp32", partial(of_default, "noisy"), label="BERT, wrong labels"),
    Case(
        "GPT-2 on Shakespeare", "fp32", partial(of_experiments, _SCRATCH, "language", **_GPT2), label="GPT-2, 200 steps"
    ),
    Case("GPT-2 on Shakespeare", "fp32", partial(of_default, "gpt2"), label="GPT-2, 300 steps"),
    *(
        Case(f"{name}, {FIRST_500}", "fp32", partial(of_default, task), label=f"{name}, MiniLM")
        for task, name in TASKS.items()
    ),
    *(
        Case(f"{name}, {FIRST_500}", "bf16 autocast", partial(of_sweep, "small-minilm", task))
        for task, name in TASKS.items()
    ),
    Case("MRPC in full, MiniLM", "bf16 autocast", partial(of_sweep, "mrpc-minilm", "mrpc")),
    *(
        Case(
            "MRPC in full, MiniLM" if task == "mrpc" else f"{name}, MiniLM, 10,000 rows",
            "bf16 autocast",
            partial(of_experiments, GPU / ("mrpc.jsonl" if task == "mrpc" else "glue.jsonl"), task, bf16=True),
        )
        for task, name in TASKS.items()
    ),
    Case(
        "SmolLM2-135M, LoRA, short texts",
        "fp32",
        partial(of_experiments, RESULTS / "lora.jsonl", "sft", bf16=False),
        default=TRL,
        label="SmolLM2, LoRA",
    ),
    *(
        Case(
            f"SmolLM2-135M, {name}",
            "bf16 autocast",
            partial(of_experiments, GPU / f"{part}.jsonl", "sft", bf16=True),
            default=TRL,
        )
        for part, name in (("lora", "LoRA"), ("full", "all weights"))
    ),
)


def ratios() -> dict[str, tuple[float, float | None]]:
    """Return the evaluation losses over that of AdamW at its best rate: of `adam_sls`, and of AdamW's default."""
    found = {}
    for case in CASES:
        ours, adamw = case.of(SLS), case.of(ADAMW)
        if case.label is not None and len(ours) and len(adamw) > 1:
            default = adamw.get(case.default)
            best = adamw.min()
            found[case.label] = (
                round(float(ours.iloc[0] / best), 4),
                None if default is None else round(float(default / best), 4),
            )
    return found


def fingerprint(points: dict[str, tuple[float, float | None]]) -> str:
    """Return a short hash of what the figure shows, which the file keeps as its description."""
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()[:16]


def draw(path: Path = FIGURE) -> None:
    """Plot, a line a task, how far `adam_sls` and AdamW's default are from AdamW at its best learning rate."""
    points = ratios()
    matplotlib.rcParams.update({"font.size": 11, "svg.hashsalt": "hf_sls", "svg.fonttype": "path"})
    figure = new_figure(5.4, 0.8 + 0.34 * len(points))
    axis = figure.subplots()
    heights = range(len(points), 0, -1)
    for height, (ours, default) in zip(heights, points.values()):
        if default is not None:
            axis.plot([ours, default], [height, height], "-", color=BLACK, alpha=0.3, linewidth=2, zorder=1)
            axis.plot(default, height, "s", color=RED, fillstyle="none", markersize=8, markeredgewidth=1.8)
        axis.plot(ours, height, "o", color=BLACK, markersize=9)
    finite = [value for pair in points.values() for value in pair if value is not None]
    axis.set_xscale("log")
    axis.set(
        yticks=list(heights),
        yticklabels=list(points),
        xlim=(min(0.9, 0.92 * min(finite)), 1.15 * max(finite)),
        ylim=(0.4, len(points) + 0.6),
    )
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    tidy(axis)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.plot([], [], "o", color=BLACK, markersize=9, label="adam_sls")
    axis.plot([], [], "s", color=RED, fillstyle="none", markersize=8, markeredgewidth=1.8, label="AdamW, default")
    axis.axvline(1, color=BLACK, linewidth=1, linestyle="--", zorder=0, label="AdamW, tuned")
    figure.supxlabel("evaluation loss relative to tuned AdamW: left is better", fontsize="medium")
    add_legend(figure)
    figure.savefig(path, metadata={"Date": None, "Description": fingerprint(points)})
