"""The figures of README and of docs/choosing.md are those of the results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_pages_have_the_figures_of_the_results() -> None:
    """After `python docs/results/readme.py` nothing changes."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "results" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    for path, table in readme.TABLES.items():
        text = path.read_text(encoding="utf-8")
        assert len(readme.BLOCK.findall(text)) == 1
        assert readme.with_table(text, table()) == text
