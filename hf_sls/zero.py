"""ZeRO: the step of a line search over the partitions that DeepSpeed keeps in each process.

DeepSpeed takes its step inside `accelerator.backward`, group by group and without a closure. So it gets
`GradientCollector` in place of the optimizer, which only keeps the averaged and clipped gradient of each partition. The
search follows when the Trainer calls `optimizer.step()`, which does nothing under DeepSpeed::

    accelerator.backward   engine.step(): GradientCollector.step(), once for each group
    on_pre_optimizer_step  GradientCollector.search(engine, window): the optimizer moves the fp32 partitions; each trial
                           copies them to the parameters of all processes and runs the forward pass
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from .closure import LossClosure
from .optim import LineSearchOptimizer


class GradientCollector(AcceleratedOptimizer):
    """Stands in for a line-search optimizer inside DeepSpeed's ZeRO optimizer.

    Args:
        optimizer: the line-search optimizer; ZeRO puts its flat fp32 partitions into its groups.
    """

    def __init__(self, optimizer: LineSearchOptimizer) -> None:
        super().__init__(optimizer, device_placement=False)
        self._collected: list[tuple[dict[str, Any], Tensor, Tensor]] = []

    def step(self, closure: Any = None) -> None:
        """Keep the gradients of the groups that ZeRO shows, and create their moments, which it looks for afterwards."""
        for group in self.param_groups:
            for partition in group["params"]:
                self._collected.append((group, partition, partition.grad))
                if not self.state[partition]:
                    self.state[partition].update(self.optimizer.direction.new_state(partition))

    def search(self, engine: Any, window: LossClosure) -> None:
        """Take the step of the optimizer; none where DeepSpeed has skipped its own, because of an overflow.

        Args:
            engine: DeepSpeed's.
            window: the micro-batches of the step.
        """
        collected, self._collected = self._collected, []
        if not collected:
            return
        zero = engine.optimizer
        groups = [group["params"] for group in self.param_groups]
        for group in self.param_groups:
            group["params"] = [partition for owner, partition, _ in collected if owner is group]
        for _, partition, gradient in collected:
            partition.grad = gradient
            partition.shard_groups = (zero.dp_process_group,)  # type: ignore[attr-defined]
        window.gradient_scale = 1.0
        if engine.gradient_clipping() > 0:
            window.clipped(engine.get_global_grad_norm(), engine.gradient_clipping())
        try:
            self.optimizer.step(_Published(zero, window))
        finally:
            publish(zero)
            for group, partitions in zip(self.param_groups, groups):
                group["params"] = partitions
            for _, partition, _ in collected:
                partition.grad = None
                del partition.shard_groups  # type: ignore[attr-defined]  # ZeRO-3 pickles partitions when it saves


class _Published:
    """A window that publishes the partitions before it is evaluated; a `RecordedLoss`."""

    def __init__(self, zero: Any, window: LossClosure) -> None:
        self._zero, self._window = zero, window
        self.gradient_scale = window.gradient_scale

    @property
    def loss(self) -> Tensor:
        return self._window.loss

    @property
    def rounding(self) -> float:
        return self._window.rounding

    def __call__(self) -> Tensor:
        publish(self._zero)
        return self._window()


@torch.no_grad()
def publish(zero: Any) -> None:
    """Copy the fp32 partitions of a ZeRO optimizer to the parameters of the model, on all processes."""
    if hasattr(zero, "update_lp_params"):
        zero.update_lp_params()
        return
    zero.checkpoint_event_prologue()
    for sub_group in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(sub_group)
    zero.checkpoint_event_epilogue()
