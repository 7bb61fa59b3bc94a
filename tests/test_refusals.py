"""What a line search refuses, and where it says so."""

from __future__ import annotations

import runpy
from pathlib import Path

from hf_sls.refusals import AT_CREATION, IN_TRAINING

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_has_the_table_of_the_code() -> None:
    """After `python docs/refusals.py` nothing changes."""
    page = (DOCS / "limits.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(DOCS / "refusals.py"))["with_tables"](page) == page
    assert all(refusal.feature in page for refusal in (*AT_CREATION, *IN_TRAINING))
