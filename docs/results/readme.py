"""Write the figures of README, docs/choosing.md and one-default.md from the results beside this file.

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
from results import read_results

RESULTS = Path(__file__).parent
PAGES = (RESULTS.parent.parent / "README.md", RESULTS.parent / "choosing.md", RESULTS / "one-default.md")
BLOCK = re.compile(
    r"(<!-- figures of (.*?), written by docs/results/readme.py -->\n).*?(<!-- end of figures -->)", re.DOTALL
)


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


_GRID = "one-default.jsonl"


def one_default() -> str:
    """Return the table of README and of the page on the default: `adam_sls` against the best AdamW of each task.

    The best learning rate is that of least evaluation loss, a mean over the seeds that both have run.
    """
    runs = pd.read_json(RESULTS / _GRID, lines=True)
    rows: dict[str, list[float | int | str]] = {}
    ratios = []
    for task, of_task in runs.groupby("task", sort=False):
        ours = of_task[of_task["optim"] == "adam_sls"]
        grid = of_task[(of_task["optim"] != "adam_sls") & of_task["seed"].isin(ours["seed"])]
        if grid.empty:
            continue
        rates = grid.groupby("rate").agg({"eval_loss": gmean, "score": "mean", "seed": "nunique"})
        rates = rates[rates["seed"] == rates["seed"].max()]
        best = rates.loc[rates["eval_loss"].idxmin()]
        common = ours[ours["seed"].isin(grid["seed"])]
        ratios.append(float(gmean(common["eval_loss"])) / best["eval_loss"])
        rows[str(task)] = [
            len(common),
            float(gmean(common["eval_loss"])),
            best["eval_loss"],
            f"{best.name:g}",
            ratios[-1],
            common["score"].mean(),
            rates["score"].max(),
            common["passes"].mean(),
        ]
    columns = ["seeds", "evaluation loss", "best AdamW", "at", "ratio", "score", "AdamW's best", "passes"]
    table = pd.DataFrame(rows, index=columns).T
    formats = ("", ".0f", ".3f", ".3f", "", ".2f", ".3f", ".3f", ".2f")
    total = f"Geometric mean of the {len(ratios)} ratios {gmean(ratios):.3f}, the worst {max(ratios):.2f}."
    return f"{table.to_markdown(floatfmt=formats)}\n\n{total}"


def on_a_gpu() -> str:
    """Return the sentence of README on a GPU."""
    times = {bits: cost(f"benchmark-h200{bits}", "adam_sls")[1] for bits in ("", "-bf16")}
    return (
        "On an [H200](docs/explanation/cost.md#measured), which waits for the host with so small a model, 500 steps\n"
        f"of 128 tokens took the rule of before, which searched one step in eleven, {times['']:.2f} of AdamW's time\n"
        f"in fp32 and {times['-bf16']:.2f} under bf16."
    )


TABLES: dict[str, Callable[[], str]] = {
    "one default": one_default,
    "one default again": one_default,
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
