"""The tables and the figure in README and in docs are those of the results."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "results" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_have_the_tables_of_the_results(readme: ModuleType) -> None:
    """After `python docs/results/readme.py` nothing changes."""
    pages = [page.read_text(encoding="utf-8") for page in readme.PAGES]
    assert {name for page in pages for _, name, _ in readme.BLOCK.findall(page)} == set(readme.TABLES)
    for page in pages:
        assert readme.with_tables(page) == page


def test_the_figure_shows_the_results(readme: ModuleType) -> None:
    evidence = sys.modules["evidence"]
    description = f"<dc:description>{evidence.fingerprint(evidence.ratios())}</dc:description>"
    assert description in evidence.FIGURE.read_text(encoding="utf-8").replace("\n", "").replace("    ", "")


def test_a_case_compares_the_same_seeds(readme: ModuleType) -> None:
    """AdamW counts with the seeds of `adam_sls` only, and a learning rate that lacks one of them is left out."""
    evidence = sys.modules["evidence"]

    def run(optimizer: str, rate: float | None, seed: int, loss: float) -> object:
        return evidence.Run(optimizer, rate, seed, 10, loss, 0.5, 1.0, None, None, "CPU")

    runs = [run(evidence.SLS, None, seed, loss) for seed, loss in ((0, 1.0), (1, 4.0))]
    runs += [run(evidence.ADAMW, 5e-5, seed, loss) for seed, loss in ((0, 2.0), (1, 8.0), (2, 100.0))]
    runs += [run(evidence.ADAMW, 1e-4, 0, 0.1)]
    case = evidence.Case("task", "fp32", lambda: runs)
    assert case.of(evidence.SLS).to_dict() == {0.0: pytest.approx(2.0)}
    assert case.of(evidence.ADAMW).to_dict() == {5e-5: pytest.approx(4.0)}
    assert case.of(evidence.PRODIGY).empty


def test_a_run_that_diverged_is_never_the_best(readme: ModuleType) -> None:
    losses = pd.Series({1e-3: 2.0, 1e-2: float("nan")})
    assert readme.with_rate(losses, -1) == "2.000 (1e-3)"


def test_lora_in_bf16_stands_beside_fp32(readme: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(rate: float | None, bf16: bool, seed: int, loss: float) -> str:
        settings = {"learning_rate": rate, "bf16": bf16, "seed": seed}
        measured = {"forward_passes_per_step": 1.5, "train_seconds": 60.0, "step_sizes": [1e-4, 4e-4, 0.0]}
        return json.dumps({"settings": settings, "evaluations": [{"loss": 5.0}, {"loss": loss}], **measured})

    runs = [run(None, True, 0, 9.0), run(None, True, 1, 4.0), run(None, True, 0, 1.0), run(1e-3, False, 0, 3.0)]
    (tmp_path / "lora.jsonl").write_text("\n".join(runs) + "\n")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.lora().splitlines()[2:]]
    assert len(rows) == 8
    assert rows[0] == ["`adam_sls`", "fp32", "0", "not run", "", "", "", "", ""]
    assert rows[1] == ["`adam_sls`", "bf16", "2", "2.000", "1.000 to 4.000", "5.000", "4e-4", "1.50", "60"]
    assert rows[5][:4] == ["AdamW 1e-3", "fp32", "1", "3.000"]


def test_the_measurements_of_a_gpu_reach_the_page(
    readme: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    monkeypatch.setattr(readme, "GPU", tmp_path / "gpu")
    assert "not measured" in readme.on_a_gpu()
    (tmp_path / "gpu").mkdir()
    cost = {"step_time": 1.02, "step_time_low": 1.0, "step_time_high": 1.5, "run_time": 1.1, "passes_per_step": 1.2}
    arguments = {"shape": "base", "batch_size": 64, "sequence_length": 128, "device": "cuda", "bf16": True}
    content = {
        "arguments": arguments,
        "machine": {"processor": "a GPU"},
        "figures": {"adam_sls": {**cost, "peak_memory": 1.001}},
    }
    (tmp_path / "gpu" / "time-base-bf16-64.json").write_text(json.dumps(content))
    tests = {"tests": 9, "failures": 1, "errors": 0, "skipped": 2, "failed": ["test_x"], "device": "a GPU"}
    versions = {"torch": "2", "transformers": "5", "date": "2026-01-01"}
    (tmp_path / "gpu" / "tests.json").write_text(json.dumps({**tests, **versions}))
    text = readme.on_a_gpu()
    assert "[BERT-base, 64 x 128 tokens, bf16, a GPU](../results/gpu/time-base-bf16-64.json)" in text
    assert "1.02 (1.00 to 1.50)" in text
    assert "2026-01-01: 6 passed, 1 failed (test_x), 2 skipped." in text
