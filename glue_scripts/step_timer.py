"""How long the training steps of a run take."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainingArguments


class StepTimer(TrainerCallback):
    """Adds up the seconds inside the training steps: without evaluations, checkpoints, logs and the loading of data.

    On a CPU these are seconds of its cores, the same whatever else they do meanwhile; on an accelerator, of the clock.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_step_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self._began = _now(args)

    def on_step_end(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self.seconds += _now(args) - self._began


def _now(args: TrainingArguments) -> float:
    return time.process_time() if args.device.type == "cpu" else time.perf_counter()
