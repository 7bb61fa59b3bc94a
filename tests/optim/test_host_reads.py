"""How often a step waits for the device, and how often it calls it: reads by the host and launches are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_sls.optim import _tensors, create_optimizer

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
    """But for a search whose start depends on loss and slope, which reads them first, and the watch, once a window.

    A step that looks back, and the search before it, read once more: the slope along the step itself.
    """
    model = Network(dtype=torch.float32)
    optimizer = create_optimizer(name, model.parameters(), init_step_size=0.1, weight_decay=weight_decay)
    searched = ascending = 0
    with CountingReads(monkeypatch) as mode:
        for step, closure in enumerate(model.closures(60), start=1):
            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            due, mode.reads = optimizer.search_due, 0
            optimizer.step(closure, loss=loss)
            reads = mode.reads
            report = optimizer.last_report
            watched = optimizer.watch is not None and step % optimizer.watch.window == 0
            first = 1 + report.checks if step == 1 or report.checks else 0  # the loss, and its values evaluated again
            expected = (report.trials + 1 + optimizer.initial_step.needs_last_update if due else 0) + watched + first
            ascends = due and searched > 0 and reads == expected + 1
            assert ascends or reads == expected
            ascending += ascends
            searched += due
    assert 10 <= searched < 40
    assert ascending <= 5


class CountingLaunches(TorchDispatchMode):
    """Counts the operations that make a tensor or change one, and not the views of one."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.launches += not func.is_view and func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["adam_sls", "sgd_sls", "plasls"])
def test_a_step_without_a_search_launches_as_much_for_many_tensors_as_for_few(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tensors, "_on_cpu", lambda tensors: False)
    launches = []
    for count in (3, 30):
        parameters = [torch.nn.Parameter(torch.ones(4)) for _ in range(count)]
        rule = {"look_back": False} if name == "adam_sls" else {}
        optimizer = create_optimizer(name, parameters, search_rate=1e-3, search_credit=0.0, **rule)

        def closure(parameters: list[torch.nn.Parameter] = parameters) -> torch.Tensor:
            return torch.stack([x.square().sum() for x in parameters]).sum() / 1000

        for _ in range(3):
            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            searched, mode = optimizer.search_due, CountingLaunches()
            with mode:
                optimizer.step(closure, loss=loss)
        assert not searched
        launches.append(mode.launches)
    assert launches[0] == launches[1]
