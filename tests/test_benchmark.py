"""The benchmark counts and compares what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_sls import benchmark, create_optimizer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> benchmark.BenchmarkArguments:
    """A model and a choice of optimizers that take no time."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setitem(benchmark.SHAPES, "tiny", size)
    chosen: dict[str, Any] = {
        "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
        "AdamW, foreach": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, foreach=True),
        "every step": lambda parameters: create_optimizer("adam_sls", parameters, preset="published"),
    }
    monkeypatch.setattr(benchmark, "contestants", lambda: chosen)
    return benchmark.BenchmarkArguments(shape="tiny", batch_size=2, sequence_length=4, rounds=5, steps=2)


def test_the_figures(quick: benchmark.BenchmarkArguments) -> None:
    figures = benchmark.measure(quick)
    assert figures["AdamW"]["step_time"] == 1.0
    assert figures["AdamW"]["passes_per_step"] == 1.0
    assert figures["every step"]["passes_per_step"] >= 2.0
    for row in figures.values():
        assert row["step_time_low"] <= row["step_time"] <= row["step_time_high"]
        row["peak_memory"] = 1.0
    assert benchmark.table(figures).count("\n") == 4


def test_the_peak_of_one(quick: benchmark.BenchmarkArguments) -> None:
    quick.only = "every step"
    assert benchmark.peak_memory(quick) > 2**20


@pytest.mark.parametrize(("argument", "value"), [("shape", "huge"), ("rounds", 2)])
def test_bad_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        benchmark.BenchmarkArguments(**{argument: value})
