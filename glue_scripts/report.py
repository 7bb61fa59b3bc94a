"""Write the report of a sweep from its results: Markdown, PNG and SVG, and one HTML page that opens offline.

    python glue_scripts/report.py out-smoke

Losses are averaged as geometric means over the seeds, scores as means; `L` is the mean logarithm of the training
losses. *Passes* are forward passes per step, *time* is that inside the training steps, over the median of the AdamW
runs on the same task and device; runs that were resumed have none. Ranks are over the optimizers that have run on each
task with each seed.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
from curves import Curves, as_rows, draw_curves
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from results import read_results
from scipy.stats import gmean
from transformers import HfArgumentParser

PUBLISHED = Path(__file__).parent / "published.json"
BASELINE = "AdamW"
REQUIRED = (
    *("task", "size", "optimizer", "seed", "settings", "final_loss", "mean_log_loss", "metric", "score"),
    *("score_per_epoch", "losses", "step_sizes", "forward_passes", "backward_passes", "training_seconds"),
    *("resumed", "device", "versions"),
)
"""The keys of a result that the report reads."""
_NAME = ["task", "size", "optimizer"]
_CELL = [*_NAME, "seed"]
_LINES_IN_A_FIGURE = 5


@dataclass
class ReportArguments:
    """Which sweep to report on, and how to draw it."""

    results: str = field(metadata={"help": "Directory of the sweep, with its results.jsonl."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write; by default that directory."})
    optimizers: list[str] = field(default_factory=list, metadata={"help": "Draw only these; by default the best few."})
    smoothing: float = field(default=0.9, metadata={"help": "Decay of the moving average of the loss, in [0, 1)."})

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing} is not allowed: a number in [0, 1) is needed.")


def main() -> None:
    """Run the script."""
    argv = sys.argv[1:]
    (args,) = HfArgumentParser(ReportArguments).parse_args_into_dataclasses(
        ["--results", *argv] if argv and not argv[0].startswith("-") else argv
    )
    try:
        results = read_results(args.results, REQUIRED)
    except ValueError as error:
        raise SystemExit(f"results={args.results!r} cannot be reported on: {error}") from None
    if not results:
        raise SystemExit(f"results={args.results!r} has no finished run: results.jsonl is missing or empty.")
    output_dir = Path(args.output_dir or args.results)
    output_dir.mkdir(parents=True, exist_ok=True)
    runs = table_of_runs(results)
    text = report(runs, output_dir, args)
    (output_dir / "report.md").write_text(text, encoding="utf-8")
    (output_dir / "report.html").write_text(as_page(text, output_dir), encoding="utf-8")
    print(f"{len(runs)} runs: {output_dir / 'report.md'}, {output_dir / 'report.html'}")


def table_of_runs(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per run; where an optimizer has run with several settings, only its last ones are kept."""
    runs = pd.DataFrame(results)
    runs["kind"] = [
        json.dumps([{**result["settings"], "seed": None}, result.get("rules")], sort_keys=True) for result in results
    ]
    runs = runs.drop_duplicates([*_CELL, "kind"], keep="last")
    runs = runs[runs["kind"] == runs.groupby(_NAME)["kind"].transform("last")]
    runs["best_score"] = runs["score_per_epoch"].map(partial(max, default=np.nan))
    runs["passes"] = runs["forward_passes"] / runs["backward_passes"]
    seconds = runs["training_seconds"].where(~runs["resumed"])
    baseline = seconds.where(runs["optimizer"].str.startswith(BASELINE))
    runs["time"] = seconds / baseline.groupby([runs["task"], runs["size"], runs["device"]]).transform("median")
    return runs


def by_optimizer(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean, spread and best over the seeds, for each task, size and optimizer."""
    grouped = runs.groupby(["size", "task", "optimizer"], sort=False)
    return grouped.agg(
        seeds=("seed", "nunique"),
        final_loss=("final_loss", gmean),
        lowest_loss=("final_loss", "min"),
        highest_loss=("final_loss", "max"),
        score=("score", "mean"),
        score_std=("score", "std"),
        best_score=("best_score", "mean"),
        mean_log_loss=("mean_log_loss", "mean"),
        passes=("passes", "mean"),
        time=("time", "median"),
    )


def overall(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over the tasks and average ranks of the optimizers that have run on every task with every seed."""
    seeds = table["seeds"].unstack("optimizer")
    complete = seeds.columns[(seeds == seeds.max().max()).all()]
    table = table[table.index.get_level_values("optimizer").isin(complete)]
    tasks = table.groupby(["size", "task"])
    ranks = pd.DataFrame(
        {
            "rank by loss": tasks["final_loss"].rank(na_option="bottom"),
            "rank by score": tasks["score"].rank(ascending=False, na_option="bottom"),
            "rank by L": tasks["mean_log_loss"].rank(na_option="bottom"),
        }
    )
    by_name = table.groupby("optimizer", sort=False)
    means = pd.DataFrame(
        {
            "final loss": by_name["final_loss"].agg(gmean),
            "score": by_name["score"].mean(),
            "L": by_name["mean_log_loss"].mean(),
            "passes": by_name["passes"].mean(),
            "time": by_name["time"].agg(gmean),
        }
    )
    return means.join(ranks.groupby("optimizer", sort=False).mean()).sort_values("final loss")


def against_best_baseline(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Compare `name` on each task with the AdamW of least loss: loss ratio, score difference, time ratio.

    An AdamW that has run with fewer seeds than `name` is left out.
    """
    rows = []
    for (size, task), of_task in table.groupby(["size", "task"], sort=False):
        of_task = of_task.droplevel(["size", "task"])
        if name not in of_task.index:
            continue
        ours = of_task.loc[name]
        is_baseline = of_task.index.str.startswith(BASELINE) & (of_task["seeds"] >= ours["seeds"])
        baselines = of_task[is_baseline & of_task["final_loss"].notna()]
        if baselines.empty:
            continue
        best = baselines.loc[baselines["final_loss"].idxmin()]
        rows.append(
            {
                "task": f"{task}, {size}",
                "best AdamW": best.name,
                "loss ratio": ours["final_loss"] / best["final_loss"],
                "score difference": ours["score"] - best["score"],
                "time ratio": ours["time"] / best["time"],
            }
        )
    return pd.DataFrame(rows)


def time_to_loss(runs: pd.DataFrame, targets: tuple[float, ...], decay: float) -> pd.DataFrame:
    """Return the steps and the time until the smoothed training loss reaches a target, as medians over tasks and seeds.

    The time is in units of the median run of AdamW on the same task and device. It is infinite for a run that never
    reaches the target. Optimizers that have not run on every task with every seed are left out.
    """
    cells = runs.groupby("optimizer")["optimizer"].transform("size")
    runs = runs[cells == cells.max()]
    reached = []
    for _, run in runs.iterrows():
        averaged = np.array(_smoothed(run["losses"], decay))
        for target in targets:
            below = np.flatnonzero(averaged <= target)
            steps = below[0] + 1 if len(below) else np.inf
            time = _fraction_of_time(run, steps) * run["time"]
            reached.append({"optimizer": run["optimizer"], "loss": target, "steps": steps, "time": time})
    medians = pd.DataFrame(reached).groupby(["optimizer", "loss"], sort=False).median().unstack("loss")
    medians.columns = [f"{what} to {target:g}" for what, target in medians.columns]
    return medians.sort_values(list(medians.columns))


def _fraction_of_time(run: pd.Series, steps: float) -> float:
    """Return the fraction of the time spent in the first `steps`; steps without a time of their own count equally."""
    seconds = run.get("step_seconds")
    if steps == np.inf or not isinstance(seconds, list) or None in seconds:
        return steps / len(run["losses"])
    return sum(seconds[: int(steps)]) / sum(seconds)


def report(runs: pd.DataFrame, output_dir: Path, args: ReportArguments) -> str:
    """Return the report as Markdown, and write its figures to `output_dir`."""
    table = by_optimizer(runs)
    means = overall(table)
    versions = sorted({", ".join(f"{k} {v}" for k, v in versions.items()) for versions in runs["versions"]})
    made_on = f"{'; '.join(sorted(map(str, runs['device'].unique())))}. Versions: {'; '.join(versions)}."
    parts = [
        f"# Report on {_plain(Path(args.results).resolve().name)}",
        f"{len(runs)} runs on {_plain(made_on)}",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "## All tasks",
        _markdown(means.reset_index()) if len(means) else "No optimizer has run on each task yet.",
    ]
    comparison = against_best_baseline(table, "adam_sls")
    if len(comparison):
        mean = {
            "task": "all",
            "loss ratio": gmean(comparison["loss ratio"]),
            "time ratio": gmean(comparison["time ratio"]),
        }
        mean["score difference"] = comparison["score difference"].mean()
        comparison = pd.concat([comparison, pd.DataFrame([mean])], ignore_index=True)
        parts += ["## `adam_sls` against the AdamW of least loss, picked for each task", _markdown(comparison)]
    for size, of_size in runs.groupby("size", sort=False):
        reached = time_to_loss(of_size, (0.5, 0.2, 0.1), args.smoothing)
        parts += [
            f"## Steps and time to a training loss, {_plain(size)}",
            f"Averaged with decay {args.smoothing:g}; medians over tasks and seeds, in units of AdamW's whole run.",
            _markdown(reached.map(lambda x: "never" if x == np.inf else f"{x:.3f}" if x == x else None).reset_index()),
        ]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    parts += [f"Published values below, where there are any: {published['source']}."]
    order = list(means.index) + [name for name in runs["optimizer"].unique() if name not in means.index]
    for (size, task), of_task in table.groupby(["size", "task"], sort=False):
        title = _plain(f"{task}, {size}")
        of_task = of_task.sort_values("final_loss")
        rows = of_task.droplevel(["size", "task"])
        of_runs = runs[(runs["task"] == task) & (runs["size"] == size)]
        losses = zip(rows["final_loss"], rows["lowest_loss"], rows["highest_loss"])
        scores = zip(rows["score"], rows["score_std"])
        shown = pd.DataFrame(
            {
                "seeds": rows["seeds"],
                "final loss (low to high)": [f"{mean:.4f} ({low:.4f} to {high:.4f})" for mean, low, high in losses],
                of_runs["metric"].iloc[0]: [
                    f"{mean:.3f}" + (f" ± {std:.3f}" if std == std else "") for mean, std in scores
                ],
                "best epoch": rows["best_score"],
                "L": rows["mean_log_loss"],
                "passes": rows["passes"],
                "time": rows["time"],
            }
        )
        for what in ("final_loss", "score", "best_epoch"):
            values = published[what].get(size, {}).get(task, {})
            if set(values) & set(rows.index):
                shown[f"published {what.replace('_', ' ')}, BERT-base"] = [values.get(name) for name in rows.index]
        parts += [f"## {title}", _markdown(shown.reset_index())]
        names = [name for name in args.optimizers if name in rows.index] or _in_the_picture(rows, order)
        for smoothing in dict.fromkeys((args.smoothing, 0.0)):
            stem = re.sub(r"[^\w.-]+", "_", f"{task}-{size}{'' if smoothing else '-raw'}")
            figure = curves(of_runs, names, smoothing)
            for extension in ("png", "svg"):
                figure.savefig(
                    output_dir / f"{stem}.{extension}", dpi=120, metadata=None if extension == "png" else {"Date": None}
                )
            parts.append(f"![{title}: loss, step size, score]({stem}.png)")
    return "\n\n".join(parts) + "\n"


def _in_the_picture(rows: pd.DataFrame, order: list[str]) -> list[str]:
    """Return `adam_sls`, the AdamW of least loss, Adam as published, then the others in the order given."""
    baselines = rows[rows.index.str.startswith(BASELINE)]["final_loss"].dropna()
    first = ["adam_sls", *([baselines.idxmin()] if len(baselines) else []), "Adam, cosine, 2e-5"]
    return [name for name in dict.fromkeys([*first, *order]) if name in rows.index][:_LINES_IN_A_FIGURE]


def curves(runs: pd.DataFrame, names: list[str], smoothing: float) -> Figure:
    """Plot loss, step size and score of the named optimizers: mean and range over the seeds."""
    lines = {}
    for name in names:
        own = runs[runs["optimizer"] == name]
        scores = as_rows(list(own["score_per_epoch"]))
        lines[name] = Curves(
            losses=as_rows([_smoothed(losses, smoothing) for losses in own["losses"]]),
            step_sizes=as_rows(list(own["step_sizes"])),
            epochs=np.arange(scores.shape[1]) + 1,
            scores=scores,
        )
    average = f", average with decay {smoothing:g}" if smoothing else ""
    return draw_curves(lines, f"training loss{average}", str(runs["metric"].iloc[0]))


def _smoothed(values: list[float], decay: float) -> list[float]:
    """Return the exponential moving average, which ends before the first loss that is NaN or infinite."""
    losses = pd.Series(values, dtype=float)
    averaged = losses.ewm(alpha=1 - decay).mean() if decay else losses
    return list(averaged.where(np.isfinite(losses).cummin()))


def _markdown(table: pd.DataFrame) -> str:
    table = table.rename(columns=_plain).map(lambda cell: _plain(cell) if isinstance(cell, str) else cell)
    table = table.replace(np.inf, np.nan).astype(object)
    return table.where(table.notna(), None).to_markdown(index=False, floatfmt=".3f", missingval="")


def _plain(text: Any) -> str:
    """Return a name from the results as Markdown that shows it as it is: no HTML, link, picture or cell of its own."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(text).split()))


def as_page(text: str, directory: Path) -> str:
    """Return Markdown as an HTML page that embeds the pictures of `directory`.

    HTML in the text is shown as text. A picture from elsewhere, a link to another directory included, is left out.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def embed(match: re.Match[str]) -> str:
        picture = (directory / unquote(match["source"])).resolve()
        if not (picture.parent == directory.resolve() and picture.suffix == ".png" and picture.is_file()):
            return ""
        data = base64.b64encode(picture.read_bytes()).decode()
        return match[0].replace(match["source"], f"data:image/png;base64,{data}", 1)

    body = re.sub(r'<img src="(?P<source>[^"]*)"[^>]*>', embed, body)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(text.splitlines()[0].lstrip("# "))}</title>
<style>
body {{ font: 15px system-ui; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ padding: .25rem .6rem; border-bottom: 1px solid #ccc }}
</style>
</head>
<body>{body}</body>
</html>
"""


if __name__ == "__main__":
    main()
