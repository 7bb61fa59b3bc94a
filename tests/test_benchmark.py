"""The benchmark counts passes, and compares times and memory with those of AdamW."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sls import create_optimizer

SCRIPT = Path(__file__).parent.parent / "docs" / "experiments" / "benchmark.py"
sys.path.insert(0, str(SCRIPT.parent))

import benchmark


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> benchmark.BenchmarkArguments:
    """A tiny model and three optimizers."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setitem(benchmark.SHAPES, "tiny", size)
    chosen: dict[str, Any] = {
        "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
        "AdamW, foreach": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, foreach=True),
        "every step": lambda parameters: create_optimizer("adam_sls", parameters, preset="published"),
    }
    monkeypatch.setattr(benchmark, "contestants", lambda: chosen)
    return benchmark.BenchmarkArguments(shape="tiny", batch_size=2, sequence_length=4, rounds=5, steps=2)


def test_ratios_to_the_baseline(quick: benchmark.BenchmarkArguments) -> None:
    figures = benchmark.measure(quick)
    assert figures["AdamW"]["step_time"] == 1.0
    assert figures["AdamW"]["passes_per_step"] == 1.0
    assert figures["every step"]["passes_per_step"] >= 2.0
    for row in figures.values():
        assert row["step_time_low"] <= row["step_time"] <= row["step_time_high"]
        row["peak_memory"] = 1.0
    assert benchmark.table(figures).count("\n") == 4


def test_peak_memory_of_one_optimizer(quick: benchmark.BenchmarkArguments) -> None:
    quick.only = "every step"
    assert benchmark.peak_memory(quick) > 2**20


@pytest.mark.parametrize(("argument", "value"), [("shape", "huge"), ("rounds", 2), ("dtype", "int8")])
def test_bad_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        benchmark.BenchmarkArguments(**{argument: value})


def test_peak_memory_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is the script itself, with the same arguments and one optimizer; its last word is the number."""
    commands: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="a warning\n2097152\n")

    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--shape", "tiny"])
    monkeypatch.setattr(benchmark.subprocess, "run", run)
    assert benchmark.peak_memory_of("adam_sls") == 2097152
    assert commands == [[sys.executable, str(SCRIPT), "--shape", "tiny", "--only", "adam_sls"]]
