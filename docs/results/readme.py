"""Write the figures of README and of docs/choosing.md from the results beside this file.

    python docs/results/readme.py

A test holds both to them.
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
from sweep import read_results

RESULTS = Path(__file__).parent
PAGES = (RESULTS.parent.parent / "README.md", RESULTS.parent / "choosing.md")
BLOCK = re.compile(
    r"(<!-- figures of (.*?), written by docs/results/readme.py -->\n).*?(<!-- end of figures -->)", re.DOTALL
)


def quality(runs: pd.DataFrame) -> tuple[float, float]:
    """Return the geometric mean of the final losses and the mean accuracy."""
    return float(gmean(runs["final_loss"])), float(runs["score"].mean())


def complete(runs: pd.DataFrame) -> list[str]:
    """Return the optimizers that have run on each task with each seed."""
    cells = runs.groupby("optimizer").size()
    return list(cells[cells == runs.groupby(["task", "seed"]).ngroups].index)


def best_adamw(runs: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return AdamW's runs at the best learning rate by final loss or score, picked for each task."""
    adamw = runs[runs["optimizer"].str.startswith("AdamW") & runs["optimizer"].isin(complete(runs))]
    means = adamw.groupby(["task", "optimizer"]).agg({"final_loss": gmean, "score": "mean"})[by].groupby("task")
    best = set(means.idxmin() if by == "final_loss" else means.idxmax())
    return adamw[[cell in best for cell in zip(adamw["task"], adamw["optimizer"])]]


def cost(benchmark: str, optimizer: str) -> list[float]:
    """Return forward passes per step, time of the run and peak memory over fused AdamW's."""
    figures: dict[str, Any] = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["figures"]
    return [figures[optimizer][key] for key in ("passes_per_step", "run_time", "peak_memory")]


@cache
def runs_of(name: str) -> pd.DataFrame:
    """Return the runs of a sweep."""
    return table_of_runs(read_results(RESULTS / name))


def sweep_table(name: str) -> str:
    """Return a table of docs/choosing.md: the optimizers that have run on each task with each seed, by their loss."""
    table = overall(by_optimizer(runs_of(name)))[["final loss", "score", "passes", "time"]]
    table.columns = pd.Index(["loss", "accuracy", "passes", "time"])
    return table.to_markdown(floatfmt=("", ".3f", ".3f", ".2f", ".2f"))


def figures() -> str:
    """Return the table of README."""
    runs = runs_of("small-minilm")
    cost_of_adamw = cost("benchmark-minilm-500-steps", "AdamW")
    rows: dict[str, list[float]] = {
        "`adam_sls`, nothing tuned": [
            *quality(runs[runs["optimizer"] == "adam_sls"]),
            *cost("benchmark-minilm-500-steps", "adam_salsa"),
        ]
    }
    for what, by in (("least loss", "final_loss"), ("best accuracy", "score")):
        adamw = best_adamw(runs, by)
        rates = ", ".join(sorted({name.removeprefix("AdamW ") for name in adamw["optimizer"]}))
        name = f"AdamW, the learning rate of {what} for each task ({rates})"
        rows[name] = [*quality(adamw), *cost_of_adamw]
    rows["salsa-optimizer 0.1.0, SaLSA"] = [
        *quality(runs[runs["optimizer"] == "salsa-optimizer SaLSA"]),
        *cost("benchmark-minilm-128-tokens", "salsa-optimizer SaLSA"),
    ]
    columns = ["final loss (geometric mean)", "accuracy (mean)", "forward passes per step", "time", "peak memory"]
    return pd.DataFrame(rows, index=columns).T.to_markdown(floatfmt=("", ".3f", ".3f", ".2f", ".2f", ".2f"))


def whole_task() -> str:
    """Return the sentence of README on MRPC in full."""

    def said(sweep: str, *optimizers: str) -> list[str]:
        table = overall(by_optimizer(runs_of(sweep)))
        return ["{:.3f} and {:.3f}".format(*table.loc[name, ["final loss", "score"]]) for name in optimizers]

    ours, low, high = said("mrpc-minilm", "adam_sls", "AdamW 1e-4", "AdamW 3e-4")
    ours_again, low_again = said("large-minilm", "adam_sls", "AdamW 1e-4")
    return (
        "On [MRPC in full](docs/choosing.md#a-whole-task) (575 steps, one seed), loss and accuracy: `adam_sls`\n"
        f"{ours}, AdamW {low} at 1e-4, {high} at 3e-4. Over three more runs each\n"
        f"`adam_sls` {ours_again}, AdamW at 1e-4 {low_again}."
    )


def on_a_gpu() -> str:
    """Return the sentence of README on a GPU."""
    times = {bits: cost(f"benchmark-h200{bits}", "adam_sls")[1] for bits in ("", "-bf16")}
    return (
        "On an [H200](docs/explanation/cost.md#measured), which waits for the host with so small a model, 500 steps\n"
        f"of 128 tokens take `adam_sls` {times['']:.2f} of AdamW's time in fp32 and {times['-bf16']:.2f} under bf16."
    )


TABLES: dict[str, Callable[[], str]] = {
    "both sides": figures,
    "a whole task": whole_task,
    "a GPU": on_a_gpu,
    "small-minilm": partial(sweep_table, "small-minilm"),
    "mrpc-minilm": partial(sweep_table, "mrpc-minilm"),
    "large-minilm": partial(sweep_table, "large-minilm"),
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
