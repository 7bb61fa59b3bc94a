"""Fine-tune a pretrained language model on text, all its weights or LoRA.

    python docs/experiments/fine_tuning.py --model HuggingFaceTB/SmolLM2-135M --optim adam_sls --bf16
    python docs/experiments/fine_tuning.py --model folder --data_path plays.txt --lora_rank 8 --weights bfloat16 --bf16

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl. LoRA
needs `pip install peft`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import parse_arguments, run
from language import TextArguments, load_texts, sequences
from transformers import AutoModelForCausalLM, AutoTokenizer

WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class FineTuningArguments(TextArguments):
    """Which model, and which of its weights are trained."""

    model: str = field(default="HuggingFaceTB/SmolLM2-135M", metadata={"help": "Model on the Hub, or a folder."})
    sequence_length: int = field(default=256, metadata={"help": "Tokens in a sequence."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many sequences."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA on all linear layers; 0 trains all weights."})
    weights: str = field(
        default="float32",
        metadata={"help": "dtype of the pretrained weights, float32 or bfloat16; LoRA's are float32."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights={self.weights!r} is not allowed: one of {', '.join(WEIGHTS)} is needed.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank={self.lora_rank} is not allowed: an integer of at least 0 is needed.")


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        FineTuningArguments, num_train_epochs=1, per_device_train_batch_size=8, per_device_eval_batch_size=16
    )
    tokenizer = AutoTokenizer.from_pretrained(experiment.model)
    train, test = (
        sequences(tokenizer(text)["input_ids"], experiment.sequence_length, limit, half)
        for text, limit, half in zip(
            load_texts(experiment),
            (experiment.max_train_samples, experiment.max_eval_samples),
            ("training", "evaluation"),
            strict=True,
        )
    )

    def build_model() -> Any:
        model = AutoModelForCausalLM.from_pretrained(experiment.model, dtype=WEIGHTS[experiment.weights])
        if experiment.lora_rank == 0:
            return model
        from peft import LoraConfig, get_peft_model

        rank = experiment.lora_rank
        config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        return get_peft_model(model, config)

    args.prediction_loss_only = True
    run("fine_tuning", {**asdict(experiment), "model": Path(experiment.model).name}, args, build_model, train, test)


if __name__ == "__main__":
    main()
