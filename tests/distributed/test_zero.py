"""Two gloo processes with DeepSpeed's ZeRO take the steps of one process of twice the batch.

DeepSpeed compiles an operator for the CPU when it is first used, which takes minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import is_deepspeed_available

from tests.distributed.zero import train
from tests.launch import launch, once

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not is_deepspeed_available(), reason="needs DeepSpeed"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all runs with ZeRO."""

    def make() -> dict[str, Any]:
        directory = tmp_path_factory.mktemp("zero")
        printed, ended = launch(2, "tests.distributed.zero", str(directory), stderr=-1, timeout=1100)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return printed[0]

    return once("zero", make, tmp_path_factory)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_takes_the_steps_of_one_process(stage: int, results: dict[str, Any], tmp_path: Path) -> None:
    alone, both = train(None, output_dir=str(tmp_path)), results[f"zero-{stage}"]
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-5)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 6


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_resumed_run_is_the_unbroken_one(stage: int, results: dict[str, Any]) -> None:
    assert results[f"zero-{stage} resumed"] == results[f"zero-{stage}"]
