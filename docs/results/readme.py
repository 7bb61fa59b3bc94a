"""Write the tables of README, docs/results/index.md and docs/explanation/cost.md from the results beside this file.

    python docs/results/readme.py

A table stands between two comments; the first one names it. tests/test_results.py fails where a table is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import gmean

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))

from report import by_optimizer, overall, table_of_runs
from results import read_results

RESULTS = Path(__file__).parent
DOCS = RESULTS.parent
PAGES = (DOCS.parent / "README.md", RESULTS / "index.md", DOCS / "explanation" / "cost.md")
BLOCK = re.compile(r"(<!-- table: (.*?), written by docs/results/readme.py -->\n).*?(<!-- end of table -->)", re.DOTALL)
UNTUNED = 5e-5
"""The learning rate of `TrainingArguments` where nobody sets one."""

NAMES = {
    "mnist": "MNIST, perceptron, batch 128",
    "mnist_b32": "MNIST, batch 32",
    "mnist_b512": "MNIST, batch 512",
    "cnn": "CIFAR-10, small ResNet",
    "noisy": "tiny BERT, a fifth of the labels wrong",
    "gpt2": "GPT-2 on Shakespeare",
    "sst2": "SST-2, MiniLM",
    "mrpc": "MRPC, MiniLM",
    "qnli": "QNLI, MiniLM",
    "mnli": "MNLI, MiniLM",
}
FINE_TUNING = ("sst2", "mrpc", "qnli", "mnli")


def markdown(rows: list[dict[str, str]], texts: int = 1) -> str:
    """Return rows of formatted cells as a Markdown table: the first columns, which are text, to the left."""
    table = pd.DataFrame(rows).fillna("")
    align = ["left"] * texts + ["right"] * (table.shape[1] - texts)
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)


def in_short(rate: float) -> str:
    """Return a learning rate as people write it, 3e-4."""
    return f"{rate:.0e}".replace("e-0", "e-")


@cache
def default_runs() -> pd.DataFrame:
    """Return means over the seeds that `adam_sls` has, a row a task and learning rate; 0 is `adam_sls`."""
    runs = pd.read_json(RESULTS / "one-default.jsonl", lines=True)
    ours = runs[runs["optim"] == "adam_sls"].set_index("task")
    runs = runs[[seed in set(ours.loc[[task], "seed"]) for task, seed in zip(runs["task"], runs["seed"], strict=True)]]
    means = runs.fillna({"rate": 0.0}).groupby(["task", "rate"], sort=False)
    table = means.agg(
        seeds=("seed", "nunique"),
        eval_loss=("eval_loss", gmean),
        train_loss=("final", gmean),
        score=("score", "mean"),
        passes=("passes", "mean"),
    )
    return table[table["seeds"] == table.groupby("task")["seeds"].transform("max")]


def of_task(task: str) -> tuple[pd.Series, pd.DataFrame]:
    """Return the figures of `adam_sls` on a task, and those of AdamW, a row a learning rate."""
    table = default_runs().loc[task]
    return table.loc[0.0], table.drop(0.0)


def scores() -> str:
    """Return what a user gains: `adam_sls`, AdamW untuned, and AdamW at its best learning rate of each task."""
    rows, over_untuned, over_best = [], [], []
    for task, name in NAMES.items():
        ours, adamw = of_task(task)
        measure = "eval_loss" if pd.isna(ours["score"]) else "score"
        better = 1 if measure == "score" else -1
        best = (better * adamw[measure]).idxmax()
        untuned = adamw[measure].get(UNTUNED)
        if untuned is not None:
            over_untuned.append(better * (ours[measure] - untuned) > 0)
        over_best.append(better * (ours[measure] - adamw.loc[best, measure]) > 0)
        rows.append(
            {
                "task": name if measure == "score" else f"{name} (evaluation loss)",
                "`adam_sls`": f"{ours[measure]:.3f}",
                f"AdamW, {in_short(UNTUNED)}": "not run" if untuned is None else f"{untuned:.3f}",
                "AdamW, best rate": f"{adamw.loc[best, measure]:.3f}",
                "which is": in_short(best),
            }
        )
    total = (
        f"`adam_sls` is better than AdamW at {in_short(UNTUNED)} on {sum(over_untuned)} of {len(over_untuned)} "
        f"tasks, and better than AdamW at its best rate on {sum(over_best)} of {len(over_best)}."
    )
    return f"{markdown(rows)}\n\n{total}"


def losses() -> str:
    """Return the evaluation losses from random weights, over those of AdamW, and the cost."""
    rows, over = [], {"untuned": [], "best": []}
    for task, name in NAMES.items():
        if task in FINE_TUNING:
            continue
        ours, adamw = of_task(task)
        best = adamw["eval_loss"].idxmin()
        over["untuned"].append(ours["eval_loss"] / adamw.loc[UNTUNED, "eval_loss"])
        over["best"].append(ours["eval_loss"] / adamw.loc[best, "eval_loss"])
        rows.append(
            {
                "task": name,
                "seeds": f"{ours['seeds']:.0f}",
                "`adam_sls`": f"{ours['eval_loss']:.3f}",
                f"AdamW, {in_short(UNTUNED)}": f"{adamw.loc[UNTUNED, 'eval_loss']:.3f}",
                "AdamW, best rate": f"{adamw.loc[best, 'eval_loss']:.3f}",
                "which is": in_short(best),
                "over the best": f"{over['best'][-1]:.2f}",
                "forward passes per step": f"{ours['passes']:.2f}",
            }
        )
    rows.append(
        {
            "task": "geometric mean of the ratios",
            f"AdamW, {in_short(UNTUNED)}": f"{gmean(over['untuned']):.2f} times",
            "over the best": f"{gmean(over['best']):.2f}",
        }
    )
    return markdown(rows)


def fine_tuning() -> str:
    """Return training loss, accuracy and evaluation loss in fine-tuning, a row a task and a column an optimizer."""
    rows = []
    for task in FINE_TUNING:
        ours, adamw = of_task(task)
        for column, name in (("train_loss", "training loss"), ("score", "accuracy"), ("eval_loss", "evaluation loss")):
            row = {"task": NAMES[task] if column == "train_loss" else "", "figure": name}
            row["`adam_sls`"] = f"{ours[column]:.3f}"
            rates = adamw[column].sort_index().items()
            rows.append(row | {f"AdamW, {in_short(rate)}": f"{value:.3f}" for rate, value in rates})
    return markdown(rows, texts=2)


def sweep_table(name: str) -> str:
    """Return the optimizers that have run on each task with each seed of a sweep, by their training loss."""
    table = overall(by_optimizer(table_of_runs(read_results(RESULTS / name))))
    table = table[["final loss", "score", "passes", "time"]].reset_index()
    table.columns = pd.Index(["optimizer", "training loss", "accuracy", "forward passes per step", "time"])
    return table.to_markdown(index=False, floatfmt=("", ".3f", ".3f", ".2f", ".2f"))


def benchmark(name: str) -> tuple[str, dict[str, Any]]:
    """Return where a benchmark has run, and its figures per optimizer."""
    results: dict[str, Any] = json.loads((RESULTS / f"benchmark-{name}.json").read_text(encoding="utf-8"))
    arguments, machine = results["arguments"], results["machine"]
    where = "two CPU cores" if arguments["device"] == "cpu" else machine["processor"]
    shape = {"minilm": "MiniLM", "tiny": "BERT-tiny"}[arguments["shape"]]
    precision = "bf16" if arguments["bf16"] else "fp32"
    tokens = f"{arguments['batch_size']} x {arguments['sequence_length']} tokens"
    return f"[{shape}, {tokens}, {precision}, {where}](../results/benchmark-{name}.json)", results["figures"]


def costs(optimizer: str, names: tuple[str, ...]) -> str:
    """Return time and memory of an optimizer over those of torch's fused AdamW, a row a benchmark."""
    rows = []
    for name in names:
        where, figures = benchmark(name)
        cost = figures[optimizer]
        low, high = cost["step_time_low"], cost["step_time_high"]
        rows.append(
            {
                "run": where,
                "step time (low to high)": f"{cost['step_time']:.2f} ({low:.2f} to {high:.2f})",
                "whole run": f"{cost['run_time']:.2f}",
                "forward passes per step": f"{cost['passes_per_step']:.2f}",
                "peak memory": f"{cost['peak_memory']:.3f}",
            }
        )
    return markdown(rows)


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": scores,
    "evaluation loss": losses,
    "fine-tuning": fine_tuning,
    "small-minilm": partial(sweep_table, "small-minilm"),
    "mrpc-minilm": partial(sweep_table, "mrpc-minilm"),
    "one trial": partial(costs, "one trial on every step", ("minilm-128-tokens-no-dropout", "h200", "h200-bf16")),
    "salsa-optimizer": partial(costs, "salsa-optimizer SaLSA", ("minilm-128-tokens", "minilm", "tiny")),
}


def main() -> None:
    """Rewrite the blocks between the markers."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """Return a page with the blocks between its markers written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    main()
