"""One run of an experiment: arguments, training, and a line in the file of results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers import EvalPrediction, HfArgumentParser, IntervalStrategy, set_seed
from transformers.trainer_utils import SaveStrategy

import hf_sls
from hf_sls import SLSTrainer, SLSTrainingArguments

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))

from results import read_results
from rules import rules_of
from run_peer import ProdigyTrainer
from step_timer import StepTimer

RESULTS = Path(__file__).parents[1] / "results" / "experiments.jsonl"

_SETTINGS = (
    "optim_args",
    "warmup_steps",
    "max_grad_norm",
    "weight_decay",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "seed",
)
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
        **training_settings(args),
    }
    rules = None if args.prodigy else rules_of(settings["optim"], settings["optim_args"])
    if any(
        (line["task"], line["settings"]) == (task, settings) and rules in (None, line["optimizer"])
        for line in read_results(args.results_file)
    ):
        print(f"{task}, {settings['optim']}, seed {args.seed}: already in {args.results_file}")
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
    record = {"task": task, "settings": settings, **measured(trainer), "train_seconds": round(timer.seconds, 2)}
    path = Path(args.results_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not trainer.is_world_process_zero():
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{task}, {settings['optim']}, seed {args.seed}: loss {final_loss(record):.4g}, added to {path}")


def training_settings(args: RunArguments) -> dict[str, Any]:
    """Return the training arguments that distinguish runs; a line search and Prodigy have no learning rate."""
    optim = "prodigy" if args.prodigy else str(getattr(args.optim, "value", args.optim))
    tuned = optim != "prodigy" and optim not in hf_sls.optim.OPTIMIZERS
    return {
        "optim": optim,
        "learning_rate": args.learning_rate if tuned else None,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{name: getattr(args, name) for name in _SETTINGS},
    }


def measured(trainer: SLSTrainer) -> dict[str, Any]:
    """Return the results of a run: curves, evaluations, cost, versions and device."""
    history = trainer.state.log_history
    steps = [entry for entry in history if "loss" in entry]
    evaluations = {entry["epoch"]: entry for entry in history if "eval_loss" in entry}
    search = trainer.line_search_optimizer
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    device = trainer.args.device
    on_gpu = device.type == "cuda"
    return {
        "optimizer": search.describe() if search else described(trainer.optimizer),
        "parameters": parameters,
        "losses": [rounded(entry["loss"]) for entry in steps],
        "step_sizes": [rounded(entry["learning_rate"]) for entry in steps],
        "evaluations": [
            {
                "epoch": round(epoch, 4),
                **{
                    name.removeprefix("eval_"): rounded(entry[name])
                    for name in ("eval_loss", "eval_accuracy")
                    if name in entry
                },
            }
            for epoch, entry in evaluations.items()
        ],
        "forward_passes_per_step": rounded(search.forward_passes_per_step if search else 1.0),
        "skipped_steps": search.counts["skipped_steps"] if search else 0,
        "versions": {module.__name__: module.__version__ for module in (hf_sls, torch, transformers)},
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {torch.get_num_threads()} threads",
        "date": date.today().isoformat(),
        **({"peak_mebibytes": round(torch.cuda.max_memory_allocated(device) / 2**20)} if on_gpu else {}),
    }


def described(optimizer: Any) -> str:
    """Return the name and the arguments of a stock optimizer, which may be wrapped by Accelerate."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    arguments = (f"{name}={value}" for name, value in optimizer.defaults.items() if value not in (None, False, 0))
    return f"{type(optimizer).__name__}({', '.join(arguments)})"


def rounded(value: float) -> float | None:
    """Return a value with five significant digits; `None` if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def final_loss(record: dict[str, Any]) -> float:
    """Return the mean training loss over the last twentieth of the steps; NaN if one of them was not finite."""
    return hf_sls.final_loss([math.nan if loss is None else loss for loss in record["losses"]])


def mean(values: Iterable[float | None]) -> float:
    """Return the mean; NaN if a value is missing."""
    return float(np.mean([math.nan if value is None else value for value in values]))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the fraction of rows whose largest logit is that of the label."""
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": float((logits.argmax(axis=-1) == prediction.label_ids).mean())}
