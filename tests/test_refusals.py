"""What a line search refuses, and where it says so."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_sls.refusals import AT_CREATION, IN_TRAINING

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_has_the_table_of_the_code() -> None:
    """After `python docs/refusals.py` nothing changes."""
    page = (DOCS / "limits.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "refusals.py"))["with_tables"](page) == page
    assert all(refusal.feature in page for refusal in (*AT_CREATION, *IN_TRAINING))


def refused(mixed_precision: str = "no", **config: Any) -> list[str]:
    """Return the features named after DeepSpeed that are refused in a configuration of it."""
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(deepspeed_config=config))
    accelerator = SimpleNamespace(state=state, mixed_precision=mixed_precision)
    trainer: Any = SimpleNamespace(is_deepspeed_enabled=True, accelerator=accelerator)
    return [each.feature for each in AT_CREATION if "DeepSpeed" in each.feature and each.is_used(trainer)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_allowed(stage: int) -> None:
    offload = {"device": "none"}
    assert refused(zero_optimization={"stage": stage, "offload_optimizer": offload, "offload_param": None}) == []
    assert refused("bf16", zero_optimization={"stage": stage}, bf16={"enabled": True}) == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"zero_optimization": {"stage": 0}},
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
        {"zero_optimization": {"stage": 3, "mics_shard_size": 4}},
        {"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}},
        {"zero_optimization": {"stage": 1}, "tensor_parallel": {"autotp_size": 2}},
        {"zero_optimization": {"stage": 2}, "mixed_precision": "fp16"},
        {"zero_optimization": {"stage": 3}, "torch_autocast": {"enabled": True}},
        {"zero_optimization": {"stage": 1}, "mixed_precision": "bf16", "data_types": {"grad_accum_dtype": "fp32"}},
    ],
)
def test_other_configurations_of_deepspeed_are_refused(config: dict[str, Any]) -> None:
    assert refused(**config) == ["DeepSpeed in this configuration"]


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_what_deepspeed_would_train_with_instead_is_refused(name: str) -> None:
    (feature,) = refused(zero_optimization={"stage": 2}, **{name: {"type": "Adam"}})
    assert feature == "an optimizer or a scheduler in the DeepSpeed configuration"
