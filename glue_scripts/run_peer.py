"""`run_glue.py` with an optimizer of another package, for comparison.

    python glue_scripts/run_peer.py prodigy --task_name mrpc --output_dir out
    python glue_scripts/run_peer.py salsa run.json

The peers are `prodigy` (prodigyopt), and `salsa` and `authors_adam_sls` (salsa-optimizer, the published research code),
each with the settings that its authors recommend. All else is as in `run_glue.py`. A checkpoint does not hold the state
of salsa-optimizer. Schedule-free AdamW needs no script of its own: `run_glue.py --optim schedule_free_adamw`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from run_glue import main
from torch import Tensor, nn

from hf_sls import SLSTrainer


class PeerTrainer(SLSTrainer):
    """A Trainer for an optimizer that runs the forward and backward passes itself."""

    optimizer: Any
    make_peer: Callable[[list[Tensor]], Any]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the peer, and for the Trainer an optimizer whose step does nothing."""
        if self.optimizer is None:
            parameters = [p for p in (model or self.model).parameters() if p.requires_grad]
            self.peer = type(self).make_peer(parameters)
            self.passes = 0
            self.optimizer = AlreadyStepped([{"params": parameters, "lr": 0.0}])
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Pass the loss of the batch to the peer as a closure."""
        model.train()
        inputs = self._prepare_inputs(inputs)

        def closure(backwards: bool = False) -> Tensor:
            self.passes += 1
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            if backwards:
                loss.backward()
            return loss

        self.peer.zero_grad()
        loss: Tensor = self.peer.step(closure)
        return loss.detach()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the step size of the peer to the log, and at the end of training its forward passes per step."""
        if "loss" in logs:
            found = getattr(self.peer, "step_size", None) or self.peer.state["step_sizes"]
            logs["learning_rate"] = logs["step_size"] = float(found[0] if isinstance(found, list) else found)
        elif "train_loss" in logs:
            logs["train_forward_passes_per_step"] = self.passes / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)


class AlreadyStepped(torch.optim.Optimizer):
    """An optimizer whose step the peer has already taken."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


class SalsaTrainer(PeerTrainer):
    """SaLSA of salsa-optimizer, with the settings of its README."""

    @staticmethod
    def make_peer(parameters: list[Tensor]) -> Any:
        from salsa.SaLSA import SaLSA

        return SaLSA(parameters)


class AuthorsAdamSLSTrainer(PeerTrainer):
    """ADAMSLS of salsa-optimizer, with c = 0.1 as in the paper."""

    @staticmethod
    def make_peer(parameters: list[Tensor]) -> Any:
        from salsa.adam_sls import AdamSLS

        return AdamSLS([parameters], smooth=False, c=0.1)


class ProdigyTrainer(SLSTrainer):
    """Prodigy with the settings that its README recommends."""

    optimizer: Any

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create Prodigy with a learning rate of 1, which the schedule scales."""
        if self.optimizer is None:
            from prodigyopt import Prodigy

            parameters = [p for p in (model or self.model).parameters() if p.requires_grad]
            self.optimizer = Prodigy(parameters, lr=1.0, safeguard_warmup=True, use_bias_correction=True)
        return self.optimizer

    def _get_learning_rate(self) -> float:
        group = self.optimizer.param_groups[0]
        return float(group["d"] * group["lr"])


PEERS = {"prodigy": ProdigyTrainer, "salsa": SalsaTrainer, "authors_adam_sls": AuthorsAdamSLSTrainer}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PEERS:
        raise SystemExit(f"{' '.join(sys.argv[1:2])!r} is not a peer; the peers are {', '.join(PEERS)}.")
    main(PEERS[sys.argv.pop(1)])
