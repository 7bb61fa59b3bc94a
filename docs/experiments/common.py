"""One run of an experiment: arguments, training, and a line in the file of results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction, HfArgumentParser, IntervalStrategy, set_seed
from transformers.trainer_utils import SaveStrategy

from hf_sls import SLSTrainer, SLSTrainingArguments

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))

from recording import add_run, has_run, training_settings
from run_peer import ProdigyTrainer
from step_timer import StepTimer

RESULTS = Path(__file__).parents[1] / "results" / "experiments.jsonl"

_SOURCES = ("data_path", "data_dir", "cache_dir")


@dataclass
class RunArguments(SLSTrainingArguments):
    """`SLSTrainingArguments` that log every step, evaluate every epoch, and save nothing but a line of results."""

    output_dir: str = field(default="out", metadata={"help": "Required by the Trainer; nothing is written to it."})
    results_file: str = field(
        default=str(RESULTS), metadata={"help": "File to add the run to; it is not repeated if it is there."}
    )
    eval_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to evaluate."})
    save_strategy: SaveStrategy | str = field(default="no", metadata={"help": "When to save a checkpoint."})
    logging_steps: float = field(default=1, metadata={"help": "Steps between two logs."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to leave NaN and infinite losses out of the log."}
    )
    report_to: str | None = field(default="none", metadata={"help": "Trackers to report to."})
    prodigy: bool = field(
        default=False, metadata={"help": "Train with Prodigy, with the settings of its README, whatever `optim` says."}
    )


def parse_arguments(*kinds: Any, **defaults: Any) -> Any:
    """Read the command line into dataclasses of the given kinds and `RunArguments`, with other defaults."""
    parser = HfArgumentParser((*kinds, RunArguments))
    parser.set_defaults(**defaults)
    return parser.parse_args_into_dataclasses()


def run(
    task: str,
    experiment: Mapping[str, Any],
    args: RunArguments,
    build_model: Callable[[], Any],
    train_dataset: Dataset[Any],
    eval_dataset: Dataset[Any],
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    data_collator: Any = None,
) -> None:
    """Train once and add a line to the results, unless the results have a run with the same settings.

    Args:
        task: name of the task in the results.
        experiment: the experiment's own arguments by name; all but the paths are recorded as settings.
        args: the training arguments.
        build_model: returns the model; called after the seed is set.
        train_dataset: as for the Trainer.
        eval_dataset: as for the Trainer.
        compute_metrics: as for the Trainer.
        data_collator: as for the Trainer.
    """
    settings = {
        **{name: value for name, value in experiment.items() if name not in _SOURCES},
        "train_samples": len(train_dataset),  # type: ignore[arg-type]
        "eval_samples": len(eval_dataset),  # type: ignore[arg-type]
        **training_settings(args, "prodigy" if args.prodigy else None),
    }
    if has_run(args.results_file, task, settings):
        return
    set_seed(args.seed)
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    timer = StepTimer()
    trainer = (ProdigyTrainer if args.prodigy else SLSTrainer)(
        model=build_model(),
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        compute_metrics=compute_metrics,
        data_collator=data_collator,
        callbacks=[timer],
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is the mean of a batch: transformers issue 47688
    trainer.train()
    add_run(args.results_file, task, settings, trainer, timer.seconds)


def mean(values: Iterable[float | None]) -> float:
    """Return the mean; NaN if a value is missing."""
    return float(np.mean([math.nan if value is None else value for value in values]))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the fraction of rows whose largest logit is that of the label."""
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": float((logits.argmax(axis=-1) == prediction.label_ids).mean())}
