"""A training run as a row of a file of results: settings, curves, evaluations, cost, versions and device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from results import read_results
from rules import rules_of
from transformers import Trainer, TrainingArguments

import hf_sls

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


def training_settings(args: TrainingArguments, optim: str | None = None) -> dict[str, Any]:
    """Return the training arguments that distinguish runs.

    Args:
        args: the arguments of the run.
        optim: the optimizer, if it is not `args.optim`. A line search and Prodigy have no learning rate.
    """
    optim = optim or str(getattr(args.optim, "value", args.optim))
    tuned = optim != "prodigy" and optim not in hf_sls.optim.OPTIMIZERS
    return {
        "optim": optim,
        "learning_rate": args.learning_rate if tuned else None,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{name: getattr(args, name) for name in _SETTINGS},
    }


def has_run(path: str | Path, task: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a file has a run with these settings and, of a line search, the present rules; print if it has."""
    rules = rules_of(settings["optim"], settings["optim_args"])
    found = any(
        (row["task"], row["settings"]) == (task, settings) and rules in (None, row["optimizer"])
        for row in read_results(path)
    )
    if found:
        print(f"{task}, {settings['optim']}, seed {settings['seed']}: already in {path}")
    return found


def add_run(path: str | Path, task: str, settings: Mapping[str, Any], trainer: Trainer, seconds: float) -> None:
    """Add a finished run to a file, from the main process.

    Args:
        path: the file, with a JSON object per line; it is created where it is missing.
        task: name of the task.
        settings: what distinguishes the run from others.
        trainer: the trainer, after training.
        seconds: time in the training steps.
    """
    if not trainer.is_world_process_zero():
        return
    row = {"task": task, "settings": settings, **_measured(trainer), "train_seconds": round(seconds, 2)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{task}, {settings['optim']}, seed {settings['seed']}: loss {final_loss(row):.4g}, added to {path}")


def final_loss(row: Mapping[str, Any]) -> float:
    """Return the mean training loss over the last twentieth of the steps; NaN if one of them was not finite."""
    return hf_sls.final_loss([math.nan if loss is None else loss for loss in row["losses"]])


def _measured(trainer: Trainer) -> dict[str, Any]:
    """Return curves, evaluations, cost, versions and device of a run."""
    history = trainer.state.log_history
    steps = [entry for entry in history if "loss" in entry]
    evaluations = {entry["epoch"]: entry for entry in history if "eval_loss" in entry}
    search = getattr(trainer, "line_search_optimizer", None)
    device = trainer.args.device
    on_gpu = device.type == "cuda"
    return {
        "optimizer": search.describe() if search else _described(trainer.optimizer),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "losses": [_rounded(entry["loss"]) for entry in steps],
        "step_sizes": [_rounded(entry["learning_rate"]) for entry in steps],
        "evaluations": [
            {
                "epoch": round(epoch, 4),
                **{
                    name.removeprefix("eval_"): _rounded(entry[name])
                    for name in ("eval_loss", "eval_accuracy")
                    if name in entry
                },
            }
            for epoch, entry in evaluations.items()
        ],
        "forward_passes_per_step": _rounded(search.forward_passes_per_step if search else 1.0),
        "skipped_steps": search.counts["skipped_steps"] if search else 0,
        "versions": {module.__name__: module.__version__ for module in (hf_sls, torch, transformers)},
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {torch.get_num_threads()} threads",
        "date": date.today().isoformat(),
        **({"peak_mebibytes": round(torch.cuda.max_memory_allocated(device) / 2**20)} if on_gpu else {}),
    }


def _described(optimizer: Any) -> str:
    """Return the name and the arguments of a stock optimizer, which may be wrapped by Accelerate."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    arguments = (f"{name}={value}" for name, value in optimizer.defaults.items() if value not in (None, False, 0))
    return f"{type(optimizer).__name__}({', '.join(arguments)})"


def _rounded(value: float) -> float | None:
    """Return a value with five significant digits; `None` if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
