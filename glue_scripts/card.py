"""The model card of a run: the data, the scores, and the command that repeats the run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from tasks import HUB_DATASET, Task
from transformers import HfArgumentParser

from hf_sls.model_card import publishable

DEMO_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_NAMES = {
    "accuracy": "accuracy",
    "f1": "f1",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
}


def card_settings(
    task: Task,
    base_model: str | None,
    scores: dict[str, dict[str, float]],
    max_eval_samples: int | None,
    snippet: str,
    picture: str | None,
) -> dict[str, Any]:
    """Return the arguments of `trainer.push_to_hub` and `trainer.create_model_card` for a GLUE run.

    Args:
        task: the GLUE task.
        base_model: name on the Hub of the model that was fine-tuned, or `None`.
        scores: metrics of each evaluated split, by split; their names start with `eval`.
        max_eval_samples: number of examples evaluated, or `None` for all.
        snippet: Markdown that says how to repeat the run.
        picture: file name of the picture of the run, or `None`.
    """
    name = f"GLUE {task.name.upper()}"
    return {
        "finetuned_from": base_model,
        "tasks": "text-classification",
        "language": "en",
        "dataset_tags": HUB_DATASET,
        "dataset_args": task.name,
        "dataset": name,
        "eval_results": [
            EvalResult(
                task_type="text-classification",
                task_name="Text Classification",
                dataset_type=HUB_DATASET,
                dataset_name=name if max_eval_samples is None else f"{name}, first {max_eval_samples} examples",
                dataset_config=task.name,
                dataset_split=split,
                metric_type=hub_name,
                metric_name=metric.replace("_", " ").capitalize(),
                metric_value=value,
            )
            for split, metrics in scores.items()
            for key, value in metrics.items()
            for metric, hub_name in _HUB_NAMES.items()
            if key.endswith(f"_{metric}")
        ],
        "snippet": snippet,
        "picture": picture,
    }


def how_to_repeat(parser: HfArgumentParser, script: str) -> str:
    """Return Markdown with the command line of this run, with the arguments that differ from their defaults.

    Secrets and arguments without effect on the model are left out. Of a local path only the last part is kept.
    """
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    else:
        given = vars(parser.parse_args())
    defaults = vars(parser.parse_args([]))
    changed = publishable({name: value for name, value in given.items() if value != defaults[name]})
    words = [f"--{name} {_on_the_command_line(name, value)}" for name, value in changed.items()]
    command = " \\\n    ".join([f"python {script}", *words])
    return f"In a clone of hf_sls:\n\n```bash\n{command}\n```"


def _on_the_command_line(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return shlex.quote(json.dumps(value))
    if isinstance(value, list):
        return shlex.join(map(str, value))
    is_local = name.endswith(("_dir", "_path", "_name", "_file")) and Path(str(value)).exists()
    return shlex.quote(Path(value).absolute().name if is_local else str(getattr(value, "value", value)))
