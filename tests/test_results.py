"""The figures of README are those of the results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_has_the_figures_of_the_results() -> None:
    """After `python docs/results/readme.py` nothing changes."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "results" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    (block,) = readme.BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block[0] == f"{block[1]}\n{readme.figures()}\n\n{block[2]}"
