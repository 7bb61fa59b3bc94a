"""The tables in README and in docs are those of the results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_pages_have_the_tables_of_the_results() -> None:
    """After `python docs/results/readme.py` nothing changes."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "results" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    pages = [page.read_text(encoding="utf-8") for page in readme.PAGES]
    assert {name for page in pages for _, name, _ in readme.BLOCK.findall(page)} == set(readme.TABLES)
    for page in pages:
        assert readme.with_tables(page) == page
