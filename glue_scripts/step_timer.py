"""Time spent in the training steps of a run."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepTimer(TrainerCallback):
    """Adds up the time inside the training steps, without evaluation, checkpoints, logs and data loading.

    On a CPU it counts processor time, which does not depend on other processes. On an accelerator it counts wall time
    until the device has finished the step, so the device should do nothing else. Each entry of the training log has the
    time since the previous entry as `step_seconds`.

    Attributes:
        seconds: the time so far, in seconds.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._logged = 0.0

    def on_step_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self._began = _now(args)

    def on_step_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self.seconds += _now(args) - self._began

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "loss" in state.log_history[-1]:
            state.log_history[-1]["step_seconds"] = self.seconds - self._logged
            self._logged = self.seconds


def _now(args: TrainingArguments) -> float:
    if args.device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()
