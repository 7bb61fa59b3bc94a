"""The features of a Trainer run, each alone and combined, and one run with a choice of them.

An *engine* feature changes how the numbers of a run come about and not the numbers: they are those of one process, with
the same global batch. A *workload* feature changes the numbers, and then for every engine alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_sls import LineSearchTrainerMixin, SLSTrainer

from ..conftest import VOCABULARY, Rows, classification_rows, language_rows, losses, step_sizes, tiny_bert, tiny_gpt2

STEPS, GLOBAL_BATCH = 6, 8


class SLSSeq2SeqTrainer(LineSearchTrainerMixin, Seq2SeqTrainer):
    """The mixin on another trainer."""


@dataclass(frozen=True)
class Feature:
    """What a feature changes in a run.

    Attributes:
        settings: training arguments.
        trainer: arguments of the trainer.
        model: changes the model.
        build: makes another model, and its data.
        processes: how many there are.
        sharded: whether FSDP2 shards the model.
        resumed: whether the run is broken off half-way, and resumed by another trainer.
        precise: whether the parameters are in fp64; rounding is then far below any mistake of scaling.
        rough: whether the loss has so few digits that its curvature, and so the step size, is anybody's guess.
        mean_loss: whether the model returns the mean of a batch whatever `num_items_in_batch` is (transformers #47688).
        excludes: features that it cannot be combined with.
        engine: whether it is an engine feature.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    model: Callable[[nn.Module], nn.Module] = lambda model: model
    build: Callable[[], tuple[nn.Module, Rows]] | None = None
    processes: int = 1
    sharded: bool = False
    resumed: bool = False
    precise: bool = True
    rough: bool = False
    mean_loss: bool = False
    excludes: tuple[str, ...] = ()
    engine: bool = False


class Normalized(nn.Module):
    """Batch normalization before a linear head."""

    def __init__(self) -> None:
        super().__init__()
        set_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.normalization = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return logits, and the loss where there are labels."""
        logits = self.head(self.normalization(self.embedding(input_ids).mean(dim=1)))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


def seq2seq() -> tuple[nn.Module, Rows]:
    set_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, dropout_rate=0.0, **sizes)
    rows = [{**row, "decoder_input_ids": row["labels"].roll(1)} for row in language_rows(64).rows]
    return T5ForConditionalGeneration(config), Rows(rows)


def vision() -> tuple[nn.Module, Rows]:
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=8, patch_size=4, hidden_dropout_prob=0.0, num_labels=2, **sizes)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = (images.mean(dim=(1, 2, 3)) > 0).long()
    return ViTForImageClassification(config), Rows(
        [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
    )


def frozen(model: nn.Module) -> nn.Module:
    for parameter in list(model.parameters())[:3]:
        parameter.requires_grad_(False)
    return model


def lora(model: nn.Module) -> nn.Module:
    set_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True)
    return get_peft_model(model, config)


def smooth_cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    logits = outputs["logits"].flatten(0, -2)
    loss = nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=0.2)
    return loss / (num_items_in_batch if num_items_in_batch is not None else labels.numel())


CUT = ("accumulation", "DDP", "FSDP2")
"""They cut a batch in parts, and so draw other dropout masks, and see other statistics of a batch."""
RANDOM = (*CUT, "evaluation")
"""Making a data loader draws from the random stream too, with every optimizer."""
UNSHIFTED = ("compile", "FSDP2")
"""The Trainer does not see the name of a wrapped causal LM, and so smooths labels that it has not shifted."""
WRITTEN_UNDER_OTHER_NAMES = ("resume",)
"""transformers 5.23 saves a ViT under names that its Trainer does not read back."""
WITHOUT_CONFIG = ("BatchNorm",)
"""The Trainer asks the configuration of a model before it smooths its labels."""

ENGINES = {
    name: replace(feature, engine=True)
    for name, feature in {
        "accumulation": Feature(settings={"gradient_accumulation_steps": 2}),
        "DDP": Feature(processes=2, excludes=("FSDP2",)),
        "FSDP2": Feature(processes=2, sharded=True),
        "gradient checkpointing": Feature(
            settings={"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        ),
        "compile": Feature(settings={"torch_compile": True, "torch_compile_backend": "aot_eager"}),
        "resume": Feature(settings={"save_strategy": "steps", "save_steps": STEPS // 2}, resumed=True),
        "evaluation": Feature(settings={"eval_strategy": "steps", "eval_steps": 2}),
        "empty cache": Feature(settings={"torch_empty_cache_steps": 1}),
        "find batch size": Feature(settings={"auto_find_batch_size": True}),
        "workers": Feature(settings={"dataloader_num_workers": 1}),
    }.items()
}
WORKLOADS = {
    "plain": Feature(),
    "bf16": Feature(settings={"bf16": True}, precise=False),
    "bf16 parameters": Feature(
        model=lambda model: model.to(torch.bfloat16), precise=False, rough=True, excludes=("bf16",)
    ),
    "label smoothing": Feature(settings={"label_smoothing_factor": 0.1}, excludes=(*UNSHIFTED, *WITHOUT_CONFIG)),
    "compute_loss_func": Feature(trainer={"compute_loss_func": smooth_cross_entropy}, excludes=("label smoothing",)),
    "frozen": Feature(model=frozen),
    "weight decay": Feature(settings={"weight_decay": 0.1}),
    "clipping": Feature(settings={"max_grad_norm": 0.05}),
    "schedule": Feature(settings={"lr_scheduler_type": "cosine", "warmup_steps": 2}),
    "LoRA": Feature(model=lora, excludes=("frozen", "classification", "vision", "seq2seq", "BatchNorm")),
    "dropout": Feature(build=lambda: (tiny_gpt2(dropout=0.1), language_rows(64)), excludes=RANDOM),
    "NEFTune": Feature(settings={"neftune_noise_alpha": 5.0}, excludes=(*RANDOM, "vision", "BatchNorm")),
    "classification": Feature(build=lambda: (tiny_bert(dropout=0.0), classification_rows(64)), mean_loss=True),
    "vision": Feature(build=vision, mean_loss=True, excludes=WRITTEN_UNDER_OTHER_NAMES),
    "seq2seq": Feature(build=seq2seq, mean_loss=True, excludes=("FSDP2",)),
    "BatchNorm": Feature(
        build=lambda: (Normalized(), classification_rows(64)), excludes=(*CUT, "gradient checkpointing")
    ),
    "plasls": Feature(settings={"optim": "plasls", "optim_args": "joint_steps=2"}),
    "sgd_sls": Feature(settings={"optim": "sgd_sls"}, excludes=("plasls",)),
}
if torch.cuda.is_available():
    WORKLOADS["fp16"] = Feature(
        settings={"fp16": True}, precise=False, excludes=("bf16", "bf16 parameters", "DDP", "FSDP2")
    )
FEATURES = {**WORKLOADS, **ENGINES}


def combines(names: Iterable[str]) -> bool:
    """Whether the features can be in one run: none excludes another, and at most one brings a model."""
    chosen = {name: FEATURES[name] for name in names}
    excluded = {other for feature in chosen.values() for other in feature.excludes}
    return not excluded & set(chosen) and sum(feature.build is not None for feature in chosen.values()) <= 1


def singles_and_pairs() -> list[tuple[str, ...]]:
    """Return each feature, and each pair that can be in one run."""
    pairs = [pair for pair in itertools.combinations(FEATURES, 2) if "plain" not in pair and combines(pair)]
    return [*((name,) for name in FEATURES), *pairs]


def processes(names: Iterable[str]) -> int:
    """Return how many processes a run with these features has."""
    return max((FEATURES[name].processes for name in names), default=1)


def is_sharded(names: Iterable[str]) -> bool:
    """Whether FSDP2 shards the model in a run with these features."""
    return any(FEATURES[name].sharded for name in names)


def run(names: Iterable[str], output_dir: Path) -> dict[str, Any]:
    """Train for six steps with these features, in this process or as one of several.

    Returns:
        The losses and step sizes of each step, and the counts of the optimizer.
    """
    names = tuple(names)
    trainer = _trainer(names, output_dir)
    trainer.train()
    if any(FEATURES[name].resumed for name in names):
        trainer = _trainer(names, output_dir)
        trainer.train(resume_from_checkpoint=str(output_dir / f"checkpoint-{STEPS // 2}"))
    assert trainer.line_search_optimizer is not None
    return {
        "losses": losses(trainer),
        "step_sizes": step_sizes(trainer),
        "counts": trainer.line_search_optimizer.counts,
    }


def _trainer(names: tuple[str, ...], output_dir: Path) -> Any:
    features = [FEATURES[name] for name in names]
    torch._dynamo.reset()
    build = next((feature.build for feature in features if feature.build), None)
    model, rows = build() if build else (tiny_gpt2(dropout=0.0), language_rows(64))
    model.to(torch.float64 if all(feature.precise for feature in features) else torch.float32)
    for feature in features:
        model = feature.model(model)
    dtype = next(parameter.dtype for parameter in model.parameters())

    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "optim": "adam_sls",
        "max_steps": STEPS,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
    }
    for feature in features:
        settings.update(feature.settings)
    parts = processes(names) * settings.get("gradient_accumulation_steps", 1)
    is_seq2seq = isinstance(model, T5ForConditionalGeneration)
    arguments_class, trainer_class = (
        (Seq2SeqTrainingArguments, SLSSeq2SeqTrainer) if is_seq2seq else (TrainingArguments, SLSTrainer)
    )
    trainer = trainer_class(
        model=model,
        args=arguments_class(per_device_train_batch_size=GLOBAL_BATCH // parts, **settings),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=partial(_collated, dtype),
        **{key: value for feature in features for key, value in feature.trainer.items()},
    )
    if any(feature.mean_loss for feature in features):
        trainer.model_accepts_loss_kwargs = False
    if is_sharded(names):
        shard_on_cpu(trainer)
    return trainer


def _collated(dtype: torch.dtype, rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}


def shard_on_cpu(trainer: SLSTrainer) -> None:
    """Turn FSDP2 on, which Accelerate does for accelerators only."""
    state = AcceleratorState._shared_state
    state["distributed_type"] = DistributedType.FSDP
    names = {type(module).__name__ for module in trainer.model.modules()}
    state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(names & {"BertLayer", "GPT2Block", "T5Block", "ViTLayer"}),
        state_dict_type="SHARDED_STATE_DICT",
    )
    trainer.is_fsdp_enabled = True
