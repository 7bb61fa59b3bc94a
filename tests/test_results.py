"""The tables and the figure in README and in docs are those of the results."""

from __future__ import annotations

import importlib.util
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
