"""Write the tables of README, docs/results/index.md and docs/explanation/cost.md, and README's first figure.

    python docs/results/readme.py

All come from the results beside this file. A table stands between two comments; the first one names it.
tests/test_results.py fails where a table or the figure is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import gmean

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))
sys.path.insert(0, str(Path(__file__).parent))

from evidence import ADAMW, CASES, GPU, PRODIGY, SCHEDULE_FREE, SLS, Case, draw, ratios, rows_of
from lora import RATES
from report import by_optimizer, overall, table_of_runs
from results import read_results

RESULTS = Path(__file__).parent
DOCS = RESULTS.parent
PAGES = (DOCS.parent / "README.md", RESULTS / "index.md", DOCS / "explanation" / "cost.md")
BLOCK = re.compile(r"(<!-- table: (.*?), written by docs/results/readme.py -->\n).*?(<!-- end of table -->)", re.DOTALL)
NOT_RUN = "not run"
SHAPES = {
    "tiny": "BERT-tiny",
    "minilm": "MiniLM",
    "base": "BERT-base",
    "billion": "a BERT of 0.9 billion parameters",
}


def markdown(rows: list[dict[str, str]], texts: int = 1) -> str:
    """Return rows of formatted cells as a Markdown table: the first columns, which are text, to the left."""
    table = pd.DataFrame(rows).fillna("")
    align = ["left"] * texts + ["right"] * (table.shape[1] - texts)
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)


def in_short(rate: float) -> str:
    """Return a learning rate as people write it, 3e-4."""
    return f"{rate:.0e}".replace("e-0", "e-")


def cell(value: float | None, digits: str = ".3f") -> str:
    """Return a figure as the tables show it; "not run" where there is none."""
    return NOT_RUN if value is None or pd.isna(value) else f"{value:{digits}}"


def at_best(values: pd.Series, better: int) -> tuple[float, float]:
    """Return the best of the values by learning rate, and its rate."""
    rate = (better * values).idxmax()
    return float(values[rate]), float(rate)


def with_rate(values: pd.Series, better: int) -> str:
    """Return the best value of an optimizer, with its learning rate if it has one."""
    if values.empty:
        return NOT_RUN
    best, rate = at_best(values, better)
    return f"{best:.3f}" + (f" ({in_short(rate)})" if rate else "")


def scores() -> str:
    """Return what a user gains: `adam_sls`, AdamW untuned, and AdamW at its best learning rate of each task."""
    rows, over_default, over_best = [], [], []
    for case in CASES:
        measure, better = ("score", 1) if len(case.of(ADAMW, "score")) else ("loss", -1)
        ours, adamw = case.of(SLS, measure), case.of(ADAMW, measure)
        if ours.empty or len(adamw) < 2:
            continue
        default, (best, rate) = adamw.get(case.default), at_best(adamw, better)
        if default is not None:
            over_default.append(better * (ours.iloc[0] - default) > 0)
        over_best.append(better * (ours.iloc[0] - best) > 0)
        precision = "" if case.precision == "fp32" else ", bf16"
        steps = "" if measure == "score" else f", {case.measured['steps'].iloc[0]} steps (loss)"
        rows.append(
            {
                "task": f"{case.task}{precision}{steps}",
                SLS: cell(ours.iloc[0]),
                "AdamW, default": cell(default),
                "AdamW, best rate": cell(best),
                "which is": in_short(rate),
            }
        )
    total = (
        f"`adam_sls` is better than AdamW at its default on {sum(over_default)} of {len(over_default)} "
        f"tasks, and better than AdamW at its best rate on {sum(over_best)} of {len(over_best)}."
    )
    return f"{markdown(rows)}\n\n{total}"


def run_of(case: Case) -> str:
    """Return precision and length of the runs of a case."""
    return f"{case.precision}, {case.measured['steps'].iloc[0]:,} steps"


def evidence() -> str:
    """Return evaluation loss and accuracy of `adam_sls` and of what else one might take, and what has not run."""
    tables = []
    for measure, name, better in (("loss", "Evaluation loss", -1), ("score", "Accuracy", 1)):
        rows = []
        for case in CASES:
            adamw = case.of(ADAMW, measure)
            if adamw.empty:  # not run, or a language model, which has no accuracy
                continue
            seeds = case.measured["seeds"].max()
            rows.append(
                {
                    "task": case.task,
                    "run": f"{run_of(case)}, {seeds} seed{'s' if seeds > 1 else ''}, {case.measured['device'].iloc[0]}",
                    SLS: with_rate(case.of(SLS, measure), better),
                    "AdamW, default": cell(adamw.get(case.default)),
                    "AdamW, best of a grid": with_rate(adamw, better) if len(adamw) > 1 else NOT_RUN,
                    PRODIGY: with_rate(case.of(PRODIGY, measure), better),
                    SCHEDULE_FREE: with_rate(case.of(SCHEDULE_FREE, measure), better),
                }
            )
        tables.append(f"**{name}**\n\n{markdown(rows, texts=2)}")
    waiting = [f"{case.task} ({case.precision})" for case in CASES if case.measured.empty]
    pairs = ratios().values()
    over_default = [ours / default for ours, default in pairs if default is not None]
    over_best = [ours for ours, _ in pairs]
    total = (
        f"The evaluation loss of `adam_sls` is {gmean(over_default):.2f} times that of AdamW at its default "
        f"({len(over_default)} tasks), and {gmean(over_best):.2f} times that of AdamW at its best rate "
        f"({len(over_best)} tasks): geometric means of the points of the figure."
    )
    left = f"\n\nNot run yet on a GPU: {'; '.join(waiting)}." if waiting else ""
    return "\n\n".join([*tables, total + left])


def price() -> str:
    """Return what `adam_sls` costs in the runs of the evidence: passes, time and memory over those of AdamW."""
    rows = []
    for case in CASES:
        passes = case.of(SLS, "passes")
        if passes.empty:
            continue
        ratio = {}
        for measure in ("time", "memory"):
            ours, adamw = case.of(SLS, measure), case.of(ADAMW, measure)
            ratio[measure] = ours.iloc[0] / adamw.mean() if len(ours) and len(adamw) else None
        rows.append(
            {
                "task": case.task,
                "run": f"{run_of(case)}, {case.measured['device'].iloc[0]}",
                "forward passes per step": cell(passes.iloc[0], ".2f"),
                "time": "not measured" if ratio["time"] is None else f"{ratio['time']:.1f}",
                "peak memory": "not measured" if ratio["memory"] is None else f"{ratio['memory']:.2f}",
            }
        )
    return markdown(rows, texts=2)


def lora() -> str:
    """Return the runs of lora.py: `adam_sls` in fp32 and bf16, and AdamW's grid; of runs with one seed, the last."""
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {(SLS, "fp32"): {}, (SLS, "bf16"): {}}
    runs |= {(f"AdamW {in_short(rate)}", "fp32"): {} for rate in RATES}
    for row in rows_of(RESULTS / "lora.jsonl"):
        settings = row["settings"]
        name = SLS if settings["learning_rate"] is None else f"AdamW {in_short(settings['learning_rate'])}"
        runs[name, "bf16" if settings["bf16"] else "fp32"][settings["seed"]] = row
    rows = []
    for (optimizer, precision), by_seed in runs.items():
        found: dict[str, str] = {"evaluation loss": NOT_RUN}
        if by_seed:
            of_all = pd.DataFrame(by_seed.values())
            before, after = ([float(each[at]["loss"] or "nan") for each in of_all["evaluations"]] for at in (0, -1))
            found = {
                "evaluation loss": f"{gmean(after):.3f}",
                "lowest to highest": f"{min(after):.3f} to {max(after):.3f}",
                "before training": f"{gmean(before):.3f}",
                "largest step size": in_short(gmean(of_all["step_sizes"].map(max))),
                "forward passes per step": f"{of_all['forward_passes_per_step'].mean():.2f}",
                "seconds": f"{of_all['train_seconds'].mean():.0f}",
            }
        rows.append({"optimizer": optimizer, "precision": precision, "seeds": f"{len(by_seed)}", **found})
    return markdown(rows, texts=2)


def sweep_table(name: str) -> str:
    """Return the optimizers that have run on each task with each seed of a sweep, by their training loss."""
    table = overall(by_optimizer(table_of_runs(read_results(RESULTS / name))))
    table = table[["final loss", "score", "passes", "time"]].reset_index()
    table.columns = pd.Index(["optimizer", "training loss", "accuracy", "forward passes per step", "time"])
    table = table.astype(object).where(table.notna(), None)
    return table.to_markdown(index=False, floatfmt=("", ".3f", ".3f", ".2f", ".2f"), missingval="not measured")


def benchmark(path: Path) -> tuple[str, dict[str, Any]]:
    """Return where a benchmark has run, and its figures per optimizer."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    arguments, machine = results["arguments"], results["machine"]
    cores = {1: "one CPU core", 2: "two CPU cores"}
    where = (
        cores.get(machine["threads"], f"{machine['threads']} CPU cores")
        if arguments["device"] == "cpu"
        else machine["processor"]
    )
    shape = SHAPES[arguments["shape"]]
    precision = "bf16" if arguments["bf16"] else "fp32"
    if arguments.get("dtype") == "bfloat16":
        precision = "parameters in bf16"
    tokens = f"{arguments['batch_size']} x {arguments['sequence_length']} tokens"
    link = f"../results/{path.relative_to(RESULTS).as_posix()}"
    return f"[{shape}, {tokens}, {precision}, {where}]({link})", results["figures"]


def costs(optimizer: str, paths: Iterable[Path]) -> str:
    """Return time and memory of an optimizer over those of torch's fused AdamW, a row a benchmark."""
    rows = []
    for path in paths:
        where, figures = benchmark(path)
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


def memory(optimizer: str, paths: Iterable[Path]) -> str:
    """Return the peak memory of an optimizer over that of torch's fused AdamW, a row a benchmark."""
    found = [benchmark(path) for path in paths]
    rows = [{"run": where, "peak memory": f"{figures[optimizer]['peak_memory']:.3f}"} for where, figures in found]
    return markdown(rows)


def on_a_gpu() -> str:
    """Return time and memory of `adam_sls` on a GPU, and the outcome of the CUDA tests, as far as gpu.py has run."""
    paths = sorted(GPU.glob("time-*.json"))
    text = costs("adam_sls", paths) if paths else "Time and memory of a step of `adam_sls` on a GPU: not measured."
    tests = GPU / "tests.json"
    if not tests.is_file():
        return f"{text}\n\nThe CUDA tests: no stored run."
    found = json.loads(tests.read_text(encoding="utf-8"))
    failed = found["failures"] + found["errors"]
    names = f" ({', '.join(found['failed'])})" if failed else ""
    return (
        f"{text}\n\nThe CUDA tests on {found['device']}, torch {found['torch']}, transformers {found['transformers']}, "
        f"{found['date']}: {found['tests'] - failed - found['skipped']} passed, {failed} failed{names}, "
        f"{found['skipped']} skipped."
    )


def stored(*names: str) -> tuple[Path, ...]:
    """Return the paths of benchmarks beside this file."""
    return tuple(RESULTS / f"benchmark-{name}.json" for name in names)


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": scores,
    "evidence": evidence,
    "price": price,
    "LoRA": lora,
    "small-minilm": partial(sweep_table, "small-minilm"),
    "mrpc-minilm": partial(sweep_table, "mrpc-minilm"),
    "on a GPU": on_a_gpu,
    "one trial": partial(costs, "one trial on every step", stored("minilm-128-tokens-no-dropout", "h200", "h200-bf16")),
    "500 steps": partial(costs, "adam_sls", stored("minilm-500-steps")),
    "memory": partial(memory, "adam_sls", stored("base-memory", "minilm-memory-bf16")),
    "salsa-optimizer": partial(costs, "salsa-optimizer SaLSA", stored("minilm-128-tokens", "minilm", "tiny")),
}


def main() -> None:
    """Rewrite the blocks between the markers, and draw the figure."""
    draw()
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(text: str) -> str:
    """Return a page with the blocks between its markers written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    main()
