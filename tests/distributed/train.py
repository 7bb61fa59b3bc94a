"""One training run, alone or under torchrun; prints its losses and step sizes as JSON on the main process."""

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


def main() -> None:
    """Train as the JSON argument says."""
    settings = json.loads(sys.argv[1])
    name, sharded = settings.pop("model"), settings.pop("fsdp2", False)
    trainer_class = BrokenOnOneRank if settings.pop("broken", False) else SLSTrainer
    resumed, count = settings.pop("resume_from", None), settings.pop("rows", 64)
    model, rows = MODELS[name]
    defaults: dict[str, Any] = {"max_steps": 6, "save_strategy": "no", "optim_args": "search_rate=inf"}
    args = SLSTrainingArguments(
        **{**defaults, **settings}, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    trainer = trainer_class(model=model(), args=args, train_dataset=rows(count))
    if sharded:
        shard_on_cpu(trainer)
    if name == "bert":
        trainer.model_accepts_loss_kwargs = False
    trainer.train(resume_from_checkpoint=resumed)
    gathered = [torch.zeros(()) for _ in range(args.world_size)]
    checksum = sum(parameter.detach().double().abs().sum() for parameter in trainer.model.parameters()).float()
    if args.world_size > 1 and not sharded:
        torch.distributed.all_gather(gathered, checksum)
        assert all(torch.equal(other, gathered[0]) for other in gathered), "the ranks have drifted apart"
    if trainer.is_world_process_zero():
        counts = trainer.line_search_optimizer.counts
        print("RESULT", json.dumps({"losses": losses(trainer), "step_sizes": step_sizes(trainer), "counts": counts}))
    trainer.accelerator.end_training()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads can abort the interpreter's own exit


if __name__ == "__main__":
    main()
