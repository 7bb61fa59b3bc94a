"""Write the figures of README from the results beside this file.

    python docs/results/readme.py

A test holds README to them. The sweeps are those of `glue_scripts/sweep.py`, the benchmarks of `hf_sls.benchmark`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent.parent
BLOCK = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)

sys.path.insert(0, str(ROOT / "glue_scripts"))

from report import against_best_baseline, by_optimizer, overall, table_of_runs  # noqa: E402


def sweep(name: str) -> pd.DataFrame:
    """Return the runs of a sweep."""
    rows = pd.read_parquet(RESULTS / name / "results.parquet")
    for column in ("settings", "scores", "versions"):
        rows[column] = rows[column].map(json.loads)
    return table_of_runs(rows.to_dict("records"))


def benchmark(name: str, optimizer: str) -> dict[str, Any]:
    """Return the figures of one optimizer in a benchmark."""
    figures: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["figures"]
    return figures[optimizer]


def figures() -> str:
    """Return the table of README."""
    table = by_optimizer(sweep("small"))
    means = overall(table)
    best = means[means.index.str.startswith("AdamW")]["final loss"].idxmin()
    costs = {
        "adam_sls": benchmark("benchmark-minilm-500-steps", "adam_salsa"),
        best: benchmark("benchmark-minilm-500-steps", "AdamW"),
        "salsa-optimizer SaLSA": benchmark("benchmark-minilm-128-tokens", "salsa-optimizer SaLSA"),
    }
    labels = {
        "adam_sls": "`adam_sls`, nothing tuned",
        best: f"{best}, the learning rate of least loss",
        "salsa-optimizer SaLSA": "salsa-optimizer 0.1.0, SaLSA",
    }
    columns = ("forward passes per step", "time of the run", "peak memory")
    head = ["", "final loss (geometric mean)", "accuracy (mean)", *columns]
    lines = [head, ["---"] * len(head)]
    for name, cost in costs.items():
        quality = [
            f"{means.loc[name, column]:.3f}" if name in means.index else "" for column in ("final loss", "score")
        ]
        lines.append(
            [labels[name], *quality, *(f"{cost[k]:.2f}" for k in ("passes_per_step", "run_time", "peak_memory"))]
        )
    comparison = against_best_baseline(table, "adam_sls")
    picked = [f"{row['task']} {row['best AdamW']}" for _, row in comparison.iterrows()]
    drawn = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{drawn}\n\nAdamW's learning rates of least loss: {', '.join(picked)}.\n"


def main() -> None:
    """Rewrite the block of README between its markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda match: f"{match[1]}\n{figures()}\n{match[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
