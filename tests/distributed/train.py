"""One run of the Trainer, in one process or in each of several; as a module, it prints its result as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from hf_sls import SLSTrainer, SLSTrainingArguments
from tests.conftest import classification_rows, language_rows, losses, step_sizes, tiny_bert, tiny_gpt2
from tests.features.cases import Normalized, shard_on_cpu

MODELS: dict[str, Any] = {
    "gpt2": (lambda: tiny_gpt2(dropout=0.0), language_rows),
    "bert": (lambda: tiny_bert(dropout=0.0), classification_rows),
    "batchnorm": (Normalized, classification_rows),
}


class BrokenOnOneRank(SLSTrainer):
    """On the last rank, step 2 has a loss of NaN, and the trials of step 4."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, or NaN."""
        loss = super().compute_loss(*args, **kwargs)
        last = self.args.process_index == self.args.world_size - 1
        broken = self.state.global_step == 2 or (self.state.global_step == 4 and self.in_trial)
        return loss * float("nan") if last and broken else loss


class FailingOnOneRank(SLSTrainer):
    """On the last rank a trial of step 2 fails; with `auto_find_batch_size` each one of more than two rows."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, or raise."""
        if self.in_trial and self.args.process_index == self.args.world_size - 1:
            if self.args.auto_find_batch_size and len(inputs["labels"]) > 2:
                raise RuntimeError("CUDA out of memory.")
            if not self.args.auto_find_batch_size and self.state.global_step == 2:
                raise ValueError("the table of prices has no row for today")
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train as the settings say, and return losses, step sizes, counts and the error that broke training off.

    Most settings are training arguments. With `one_gpu` all processes share the first GPU; `loss_scale` is what the
    gradient scaler begins with.
    """
    loss_scale = settings.pop("loss_scale", None)
    if settings.pop("one_gpu", False):
        os.environ["LOCAL_RANK"] = "0"
    name, sharded = settings.pop("model"), settings.pop("fsdp2", False)
    trainer_class = {"": SLSTrainer, "loss": BrokenOnOneRank, "trial": FailingOnOneRank}[settings.pop("broken", "")]
    resumed, count = settings.pop("resume_from", None), settings.pop("rows", 64)
    model, rows = MODELS[name]
    defaults: dict[str, Any] = {"max_steps": 6, "save_strategy": "no", "optim_args": "search_rate=inf"}
    defaults["use_cpu"] = not torch.cuda.is_available()
    args = SLSTrainingArguments(**{**defaults, **settings}, logging_steps=1, report_to="none", disable_tqdm=True)
    trainer = trainer_class(model=model(), args=args, train_dataset=rows(count))
    if sharded:
        shard_on_cpu(trainer)
    if loss_scale is not None:
        trainer.accelerator.scaler = torch.amp.GradScaler(args.device.type, init_scale=loss_scale)
    if name == "bert":
        trainer.model_accepts_loss_kwargs = False
    error = None
    try:
        trainer.train(resume_from_checkpoint=resumed)
    except (RuntimeError, ValueError) as caught:
        if trainer_class is not FailingOnOneRank:
            raise
        error = str(caught)
    if args.world_size > 1 and not trainer.is_fsdp_enabled:
        checksum = sum(parameter.detach().double().abs().sum() for parameter in trainer.model.parameters())
        gathered = trainer.accelerator.gather(checksum.reshape(1))
        assert len(gathered.unique()) == 1, "the ranks have drifted apart"
    trainer.accelerator.end_training()
    counts = trainer.line_search_optimizer.counts
    return {"losses": losses(trainer), "step_sizes": step_sizes(trainer), "counts": counts, "error": error}


def main() -> None:
    """Train as the JSON argument says."""
    result = train(json.loads(sys.argv[1]))
    if int(os.environ.get("RANK", "0")) == 0:
        print("RESULT", json.dumps(result), flush=True)
    os._exit(0)  # gloo's threads can abort the interpreter's own exit


if __name__ == "__main__":
    main()
