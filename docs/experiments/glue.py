"""Fine-tune a model on a GLUE task: step size against batch size, and one step size for each layer.

    python docs/experiments/glue.py --task_name mnli --max_steps 60 --per_device_train_batch_size 8

Model and data are those of `glue_scripts/run_glue.py`, with its arguments. The run is added to
docs/results/experiments.jsonl.
"""

from __future__ import annotations

from pathlib import Path

from common import accuracy, parse_arguments, run
from run_glue import DataArguments, ModelArguments, load_model, tokenized
from tasks import get_task, load_task
from transformers import DataCollatorWithPadding


def main() -> None:
    """Run the script."""
    sizes = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64, "max_seq_length": 64}
    model_args, data_args, args = parse_arguments(ModelArguments, DataArguments, task_name="mnli", **sizes)
    task = get_task(data_args.task_name)
    if task.is_regression:
        raise ValueError(f"task_name={task.name!r} is a regression; a task with labels is needed.")
    source = Path(model_args.model_name_or_path)
    settings = {
        "model_name_or_path": source.parent.name if source.is_dir() else str(source),
        "task_name": task.name,
        "max_seq_length": data_args.max_seq_length,
        "max_train_samples": data_args.max_train_samples,
        "max_eval_samples": data_args.max_eval_samples,
    }
    raw = load_task(task, data_args.data_dir, ["train", task.evaluation_splits[0]], model_args.cache_dir)
    _, tokenizer = load_model(model_args, task)
    run(
        task.name,
        settings,
        args,
        lambda: load_model(model_args, task)[0],
        tokenized(raw["train"], task, tokenizer, data_args.max_seq_length, data_args.max_train_samples),
        tokenized(
            raw[task.evaluation_splits[0]], task, tokenizer, data_args.max_seq_length, data_args.max_eval_samples
        ),
        accuracy,
        DataCollatorWithPadding(tokenizer),
    )


if __name__ == "__main__":
    main()
