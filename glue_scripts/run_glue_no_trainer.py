"""Fine-tune on a GLUE task in a plain Accelerate loop, to show where the closure goes in a loop of your own.

    python glue_scripts/run_glue_no_trainer.py
    accelerate launch glue_scripts/run_glue_no_trainer.py --task_name mrpc --model_name_or_path bert-base-uncased

Model and data are those of `run_glue.py`. `accelerate launch` sets the number of processes, DDP or FSDP2, and the mixed
precision. `--resume_from_checkpoint` resumes a run from its last finished epoch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from run_glue import DataArguments, ModelArguments, load_model, predicted, tokenized
from tasks import get_task, load_task, official_metric
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, HfArgumentParser, get_scheduler

from hf_sls import LossClosure, create_optimizer


@dataclass
class LoopArguments:
    """How to train."""

    output_dir: str = field(
        default="out", metadata={"help": "Directory for the model, the results and the checkpoint."}
    )
    optim: str = field(default="adam_sls", metadata={"help": "Name of a line-search optimizer."})
    num_train_epochs: int = field(default=5, metadata={"help": "Number of training epochs."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Examples per training batch and process."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples per evaluation batch and process."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimizer step."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Greatest norm of the gradient; 0 for no clipping."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    lr_scheduler_type: str = field(
        default="linear", metadata={"help": "Schedule of the fraction of the step size that is taken."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the head, the dropout and the order of the data."})
    resume_from_checkpoint: bool = field(default=False, metadata={"help": "Resume from the checkpoint in output_dir."})


def main() -> None:
    """Run the script."""
    model_args, data_args, args = HfArgumentParser(
        (ModelArguments, DataArguments, LoopArguments)
    ).parse_args_into_dataclasses()
    output_dir = Path(args.output_dir)
    checkpoint = checkpoint_to_resume(output_dir, args.resume_from_checkpoint)
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    set_seed(args.seed)

    # 1. Data
    task = get_task(data_args.task_name)
    splits = ["train", task.evaluation_splits[0]]
    with accelerator.main_process_first():
        raw = load_task(task, data_args.data_dir, splits, model_args.cache_dir)

    # 2. Model
    model, tokenizer = load_model(model_args, task)

    # 3. Batches
    def loader(split: str, max_samples: int | None, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        with accelerator.main_process_first():
            rows = tokenized(raw[split], task, tokenizer, data_args.max_seq_length, max_samples)
        rows = rows.rename_column("label", "labels")
        return DataLoader(rows, batch_size=batch_size, shuffle=shuffle, collate_fn=DataCollatorWithPadding(tokenizer))

    train_loader = loader("train", data_args.max_train_samples, args.per_device_train_batch_size, shuffle=True)
    eval_loader = loader(splits[1], data_args.max_eval_samples, args.per_device_eval_batch_size, shuffle=False)

    # 4. Optimizer
    optimizer = create_optimizer(args.optim, model.parameters(), weight_decay=args.weight_decay)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, train_loader, eval_loader)
    steps_per_epoch = -(-len(train_loader) // args.gradient_accumulation_steps)
    # Accelerate steps a prepared schedule once for each process.
    schedule_steps = args.num_train_epochs * steps_per_epoch * accelerator.num_processes
    scheduler = accelerator.prepare(get_scheduler(args.lr_scheduler_type, optimizer, 0, schedule_steps))

    # 5. Training
    def compute_loss(batch: dict[str, Tensor]) -> Tensor:
        return model(**batch).loss

    history: list[dict[str, float]] = []
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        history = json.loads((checkpoint / "history.json").read_text())
    metric = official_metric(task, model_args.cache_dir)

    for epoch in range(len(history), args.num_train_epochs):
        model.train()
        train_loader.set_epoch(epoch)
        losses: list[Tensor] = []
        closure: LossClosure | None = None
        for batch in train_loader:
            with accelerator.accumulate(model):
                closure = closure or LossClosure(
                    model, divisor=args.gradient_accumulation_steps, trials=optimizer.optimizer.search_due
                )
                loss = closure.record(partial(compute_loss, batch))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    if args.max_grad_norm > 0:
                        norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                        closure.clipped(norm, args.max_grad_norm)
                    losses.append(closure.loss)
                optimizer.step(closure)
                if accelerator.sync_gradients:
                    closure = None
                scheduler.step()
                optimizer.zero_grad()

        # 6. Evaluation
        model.eval()
        logits, labels = [], []
        for batch in eval_loader:
            with torch.no_grad():
                outputs = model(**batch)
            gathered = accelerator.gather_for_metrics((outputs.logits, batch["labels"]))
            logits.append(gathered[0].float().cpu())
            labels.append(gathered[1].cpu())
        scores = metric(predicted(task, torch.cat(logits).numpy()), torch.cat(labels).numpy())
        step_size = optimizer.param_groups[0]["step_size"]
        mean_loss = float(torch.stack(losses).mean())
        history.append({"epoch": epoch + 1, "loss": mean_loss, "step_size": step_size, **scores})
        accelerator.print(history[-1])
        save_checkpoint(accelerator, output_dir, history)

    # 7. Model
    state_dict = accelerator.get_state_dict(model)
    accelerator.unwrap_model(model).save_pretrained(
        args.output_dir, is_main_process=accelerator.is_main_process, state_dict=state_dict
    )
    if accelerator.is_main_process:
        tokenizer.save_pretrained(args.output_dir)
    accelerator.end_training()


def save_checkpoint(accelerator: Accelerator, output_dir: Path, history: list[dict[str, float]]) -> None:
    """Save to a temporary name first, so that a run killed meanwhile leaves its previous checkpoint."""
    saving = output_dir / "saving"
    if accelerator.is_main_process:
        shutil.rmtree(saving, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(saving))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (saving / "history.json").write_text(json.dumps(history, indent=2) + "\n")
        saving.rename(output_dir / f"epoch-{len(history)}")
        shutil.rmtree(output_dir / f"epoch-{len(history) - 1}", ignore_errors=True)
    accelerator.wait_for_everyone()


def checkpoint_to_resume(output_dir: Path, resume: bool) -> Path | None:
    """Return the checkpoint of the latest epoch, or `None` for a new run.

    Raises:
        FileNotFoundError: there is none to resume from.
        FileExistsError: there is one, and it is not to be resumed from.
    """
    found = sorted(output_dir.glob("epoch-*"), key=lambda path: int(path.name.removeprefix("epoch-")))
    if resume and not found:
        raise FileNotFoundError(f"output_dir={str(output_dir)!r} has no checkpoint epoch-N to resume from.")
    if found and not resume:
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} has the checkpoint {found[-1].name} of another run: "
            "go on with it (--resume_from_checkpoint), remove it, or name another output_dir."
        )
    return found[-1] if found else None


if __name__ == "__main__":
    main()
