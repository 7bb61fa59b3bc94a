"""Fine-tune a model on a GLUE task: step size against batch size, and one step size for each layer.

    python docs/experiments/glue.py --task_name mnli --max_steps 60 --per_device_train_batch_size 8

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import accuracy, parse_arguments, run
from tasks import get_task, load_task
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding


@dataclass
class GlueArguments:
    """Which model and which task."""

    model_name_or_path: str = field(metadata={"help": "Model on the Hub, or a directory."})
    task_name: str = field(default="mnli", metadata={"help": "cola, mnli, mrpc, qnli, qqp, rte, sst2 or wnli."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Directory with train and validation files; else from the Hub."}
    )
    max_seq_length: int = field(default=64, metadata={"help": "Tokens after which an example is cut."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many examples."})

    def __post_init__(self) -> None:
        if get_task(self.task_name).is_regression:
            raise ValueError(f"task_name={self.task_name!r} is a regression; a task with labels is needed.")
        for name in ("max_seq_length", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: an integer of at least 1 is needed.")


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(GlueArguments, per_device_train_batch_size=32, per_device_eval_batch_size=64)
    source = experiment.model_name_or_path
    experiment.model_name_or_path = Path(source).parent.name if Path(source).is_dir() else source
    task = get_task(experiment.task_name)
    tokenizer = AutoTokenizer.from_pretrained(source)
    raw = load_task(task, experiment.data_dir, ["train", task.evaluation_splits[0]])

    def prepared(split: str, limit: int | None) -> Any:
        rows = raw[split].select(range(min(limit or len(raw[split]), len(raw[split]))))
        return rows.map(
            lambda batch: tokenizer(
                *(batch[column] for column in task.columns), truncation=True, max_length=experiment.max_seq_length
            ),
            batched=True,
            remove_columns=list(task.columns),
        )

    def build_model() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=len(task.labels), ignore_mismatched_sizes=True
        )

    run(
        task.name,
        experiment,
        args,
        build_model,
        prepared("train", experiment.max_train_samples),
        prepared(task.evaluation_splits[0], experiment.max_eval_samples),
        accuracy,
        DataCollatorWithPadding(tokenizer),
    )


if __name__ == "__main__":
    main()
