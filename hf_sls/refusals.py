"""What a line search refuses, with the reason and what to do instead: one table, in errors and in docs/limits.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import Trainer


@dataclass(frozen=True)
class Refusal:
    """Something that a line search cannot work with.

    Attributes:
        feature: what is refused, to follow "does not work with".
        reason: why it cannot work.
        instead: what to do instead, in the imperative.
        is_used: whether a trainer uses the feature; `None` where training itself has to find out.
    """

    feature: str
    reason: str
    instead: str
    is_used: Callable[[Trainer], bool] | None = None

    def error(self) -> ValueError:
        """Return the error to raise."""
        return ValueError(f"A line search does not work with {self.feature}: {self.reason}. {self.instead}.")


def _uses_fsdp1(trainer: Trainer) -> bool:
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    return trainer.is_fsdp_enabled and getattr(plugin, "fsdp_version", 1) != 2


def _shards_batches(trainer: Trainer) -> bool:
    config = getattr(trainer.accelerator, "parallelism_config", None)
    return config is not None and any(getattr(config, f"{kind}_enabled", False) for kind in ("tp", "cp", "sp"))


def _deepspeed(trainer: Trainer, *names: str) -> Any:
    """Return an entry of the DeepSpeed configuration, `{}` if it has none."""
    entry = getattr(getattr(trainer.accelerator.state, "deepspeed_plugin", None), "deepspeed_config", {})
    for name in names:
        entry = entry.get(name) or {}
    return entry


def _partitions_with_zero(trainer: Trainer) -> bool:
    """Whether DeepSpeed keeps the gradients that `GradientCollector` was given, and one partition in each process."""
    zero = _deepspeed(trainer, "zero_optimization")
    offloads = [zero.get(f"offload_{what}") or {} for what in ("optimizer", "param")]
    return (
        zero.get("stage") in (1, 2, 3)
        and trainer.accelerator.mixed_precision in ("no", "bf16")
        and all(each.get("device") in (None, "none") for each in offloads)
        and not any(zero.get(name) for name in ("cpu_offload", "zenflow"))
        and zero.get("mics_shard_size", -1) <= 0
        and not any(_deepspeed(trainer, name) for name in ("tensor_parallel", "expert_parallel"))
        and not _deepspeed(trainer, "torch_autocast", "enabled")
        and not (
            # DeepSpeed's BF16_Optimizer sets the gradients to zero after its step.
            zero["stage"] == 1
            and trainer.accelerator.mixed_precision == "bf16"
            and _deepspeed(trainer, "data_types", "grad_accum_dtype")
        )
    )


def _has_sparse_gradients(trainer: Trainer) -> bool:
    return any(
        isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad
        for module in trainer.model.modules()
    )


AT_CREATION = (
    Refusal(
        "an optimizer or a scheduler in the DeepSpeed configuration",
        "DeepSpeed trains with it, instead of the line search",
        "Leave it out of the configuration; the Trainer passes its own",
        lambda trainer: (
            trainer.is_deepspeed_enabled and any(_deepspeed(trainer, name) for name in ("optimizer", "scheduler"))
        ),
    ),
    Refusal(
        "DeepSpeed in this configuration",
        "a line search needs ZeRO-1, 2 or 3 in fp32 or bf16, without offloading, MiCS, ZenFlow, `torch_autocast`, "
        "tensor or expert parallelism, and without `grad_accum_dtype` in ZeRO-1 with bf16",
        "Change the configuration, or use FSDP2",
        lambda trainer: trainer.is_deepspeed_enabled and not _partitions_with_zero(trainer),
    ),
    Refusal(
        "FSDP1",
        "it has no public way to reshard the parameters after a trial, so the next trial would see stale ones",
        'Use FSDP2: `fsdp_config={"version": 2}`, or `"fsdp_version"` in transformers 4.57',
        _uses_fsdp1,
    ),
    Refusal(
        "nn.DataParallel",
        "its replicas draw dropout in no fixed order, so a trial cannot repeat the masks",
        "Launch one process per GPU with `torchrun` or `accelerate launch`, or show one GPU with CUDA_VISIBLE_DEVICES",
        lambda trainer: trainer.args.n_gpu > 1,
    ),
    Refusal(
        "tensor, context or sequence parallelism",
        "no test has compared its trials with those of one process",
        "Use DDP or FSDP2",
        _shards_batches,
    ),
    Refusal(
        "a model sharded at load time",
        "trials would see stale unsharded parameters",
        "Shard it with FSDP2 by `fsdp_config`",
        lambda trainer: getattr(trainer, "is_distributed_loading_by_transformers", False),
    ),
    Refusal(
        "sparse gradients",
        "the optimizers do not support them, nor does torch.optim.AdamW",
        "Use `nn.Embedding(sparse=False)`",
        _has_sparse_gradients,
    ),
    Refusal(
        "loss_type='dft'",
        "TRL computes this loss with a detached factor, so its gradient is not that of its value",
        "Use `loss_type='nll'`",
        lambda trainer: getattr(trainer.args, "loss_type", None) == "dft",
    ),
    Refusal(
        "use_weighting=True",
        "TRL multiplies the loss by a detached weight, so its gradient is not that of its value",
        "Leave it out",
        lambda trainer: getattr(trainer.args, "use_weighting", False),
    ),
    Refusal(
        "Apex",
        "its backward cannot be turned off for a trial",
        "Use `bf16=True` or `fp16=True`",
        lambda trainer: getattr(trainer, "use_apex", False),
    ),
)
"""What is refused when the trainer is created, and again when its optimizer is."""

OWN_BACKWARD = Refusal(
    "a training_step that calls loss.backward()",
    "a trial repeats training_step without backward, and can only leave out that of Accelerate",
    "Call `self.accelerator.backward(loss)` instead",
)
NOT_RECORDED = Refusal(
    "a training_step that does not call super().training_step",
    "the mixin records there what a trial has to evaluate",
    "Call it, or move your `training_step` behind the mixin: `class Mine(LineSearchTrainerMixin, Own)`, where `Own` is "
    "a `Trainer` with that method",
)
MOVED = Refusal(
    "a training_step that moves the parameters between two forward passes (FGM, AWP, SAM)",
    "a trial repeats the passes where the step would lead, and cannot repeat the moves between them",
    "Perturb the inputs or their embeddings inside the model, or train with a stock `optim`",
)
IN_TRAINING = (OWN_BACKWARD, NOT_RECORDED, MOVED)
"""What is refused at the first training step."""


def check_supported(trainer: Trainer) -> None:
    """Raise `ValueError` for a feature of the trainer that a line search cannot work with."""
    for refusal in AT_CREATION:
        if refusal.is_used is not None and refusal.is_used(trainer):
            raise refusal.error()
