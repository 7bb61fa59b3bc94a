"""How often a step waits for the device: every read of a tensor's value by the host is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_sls.optim import create_optimizer

from ..problems import Network


class CountingReads(TorchDispatchMode):
    """Counts `item()`, `float()`, `bool()` and `tolist()`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.reads = 0
        tolist = torch.Tensor.tolist

        def counted(tensor: torch.Tensor) -> Any:
            self.reads += 1
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["adam_sls", "adam_salsa", "amsgrad_sls", "sgd_sls", "sgd_salsa"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_search_reads_once_a_trial_and_other_steps_never(
    name: str, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first search, which reads the slope before it tries a step."""
    model = Network(dtype=torch.float32)
    optimizer = create_optimizer(name, model.parameters(), weight_decay=weight_decay)
    searched = ascending = 0
    with CountingReads(monkeypatch) as mode:
        for closure in model.closures(60):
            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            due, mode.reads = optimizer.search_due, 0
            optimizer.step(closure, loss=loss)
            reads = mode.reads
            report = optimizer.last_report
            first = due and searched == 0
            ascends = due and reads == 1 + report.trials and not first
            assert ascends or reads == (report.trials + first if due else 0)
            ascending += ascends
            searched += due
    assert 10 <= searched < 40
    assert ascending <= 5
