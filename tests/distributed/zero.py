"""Runs with DeepSpeed's ZeRO, one after the other in each of two processes; prints a JSON line with their results."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType

from hf_sls import SLSTrainer, SLSTrainingArguments
from tests.conftest import language_rows, losses, step_sizes, tiny_gpt2


def train(stage: int | None, resume_from: str | None = None, **settings: Any) -> dict[str, Any]:
    """Train with a stage of ZeRO in each of two processes, or without DeepSpeed in this one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if stage is not None:
        # Accelerate takes a process without a GPU for the only one if it is to use DeepSpeed.
        PartialState(cpu=True)
        PartialState._shared_state.update(distributed_type=DistributedType.DEEPSPEED, _cpu=False)
        settings["accelerator_config"] = {"use_configured_state": True}
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
        sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        settings["deepspeed"] = {"zero_optimization": zero, **dict.fromkeys(sizes, "auto")}
    args = SLSTrainingArguments(
        use_cpu=stage is None,
        per_device_train_batch_size=4 if stage is None else 2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        weight_decay=0.1,
        max_steps=6,
        optim_args="search_rate=inf",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **{"save_strategy": "no", **settings},
    )
    trainer = SLSTrainer(model=tiny_gpt2(dropout=0.0), args=args, train_dataset=language_rows(64))
    trainer.train(resume_from_checkpoint=resume_from)
    counts = trainer.line_search_optimizer.counts
    return {"losses": losses(trainer), "step_sizes": step_sizes(trainer), "counts": counts}


def main() -> None:
    """Run each stage, and resume the second and the third half-way, in the directory of the argument."""
    os.environ.pop("ACCELERATE_USE_CPU")
    os.chdir(sys.argv[1])
    results = {}
    for stage in (1, 2, 3):
        results[f"zero-{stage}"] = train(stage, output_dir=f"{stage}", save_strategy="steps", save_steps=3)
        results[f"zero-{stage} resumed"] = train(stage, output_dir="resumed", resume_from=f"{stage}/checkpoint-3")
    if os.environ["RANK"] == "0":
        print("RESULT", json.dumps(results), flush=True)
    os._exit(0)  # gloo's threads can abort the interpreter's own exit


if __name__ == "__main__":
    main()
