"""Training that fails on one of several processes; started by `test_failures.py`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_sls import SLSTrainer, SLSTrainingArguments, processes
from tests.conftest import language_rows, tiny_gpt2

_SLOW = "slow everywhere"
"""Nothing fails, and training goes on for longer than a process waits for another one that failed."""


def failing(scenario: str) -> int:
    """Return the process that fails; the first one also keeps the store."""
    return 0 if "with the store" in scenario else 1


class Failing(SLSTrainer):
    """Fails at step 2 on one process, or on all in the scenarios named `everywhere`; `alone` fails at the start."""

    scenario = ""

    def fails(self, where: str) -> bool:
        """Return whether to fail now, in the pass or callback of that name."""
        step = 0 if where == "alone" else 2
        here = "everywhere" in self.scenario or self.args.process_index == failing(self.scenario)
        return here and where in self.scenario and self.state.global_step == step and not self.in_trial

    def get_train_dataloader(self) -> Any:
        """Return the batches, or fail before the first collective call."""
        if self.fails("alone"):
            no_price()
        return super().get_train_dataloader()

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, or fail in the forward or backward pass."""
        if self.fails("out of memory") and len(inputs["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.fails("interrupt"):
            raise KeyboardInterrupt("stop")
        if self.fails("slow"):
            time.sleep(3)
        if self.fails("forward"):
            raise ValueError("no price for today")
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.fails("backward"):
            loss.register_hook(no_price)
        return loss


class FailingCallback(TrainerCallback):
    """Fails at the end of step 2."""

    def __init__(self, trainer: Failing) -> None:
        self._trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Fail, on one process."""
        if self._trainer.fails("callback"):
            no_price()


def wait_for(file: Path) -> None:
    """Wait until another process has written a file."""
    while not file.exists():
        time.sleep(0.1)


def no_price(*args: Any) -> None:
    """Fail."""
    raise ValueError("no price for today")


def train(output: Path, scenario: str) -> Failing:
    """Train six steps; `out of memory` does so with `auto_find_batch_size`."""
    args = SLSTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        max_steps=6,
        per_device_train_batch_size=4,
        auto_find_batch_size="out of memory" in scenario,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if "alone" in scenario and args.process_index != failing(scenario):
        wait_for(output / "failed")
        scenario = _SLOW
    trainer = Failing(model=tiny_gpt2(dropout=0.0), args=args, train_dataset=language_rows(64))
    trainer.scenario = scenario
    trainer.add_callback(FailingCallback(trainer))
    trainer.train()
    return trainer


def main(rank: int, port: int, output: Path, scenario: str) -> None:
    """Be one of two processes; where training fails on one, it catches the exception and lives on.

    In the scenarios named `ends` it does not catch it, in `alone` the other one starts to train only then.
    """
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    log = os.open(output / f"process-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    if "alone" in scenario:
        processes._GRACE_SECONDS = 1.0
    try:
        trainer = train(output, scenario)
    except (Exception, KeyboardInterrupt) as error:
        if "ends" in scenario:
            raise
        print(f"CAUGHT {type(error).__name__}: {error}", flush=True)
        if "everywhere" not in scenario:
            (output / "failed").touch()
            if "alone" not in scenario:
                time.sleep(600)
        trainer = train(output, _SLOW if "alone" in scenario else "the same process group works")
    print(f"FINISHED {trainer.state.global_step} steps of {trainer.state.train_batch_size} rows", flush=True)
    os._exit(0)  # gloo's threads can abort the interpreter's own exit
