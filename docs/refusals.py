"""Write the tables of docs/limits.md from `hf_sls.refusals`.

    python docs/refusals.py

A test holds the page to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hf_sls import refusals

PAGE = Path(__file__).parent / "limits.md"
BLOCK = re.compile(r"(<!-- (.*?), written by docs/refusals.py -->\n).*?(<!-- end of table -->)", re.DOTALL)
TABLES = {"at creation": refusals.AT_CREATION, "in training": refusals.IN_TRAINING}


def markdown_table(rows: Iterable[refusals.Refusal]) -> str:
    """Return refusals as a table in Markdown."""
    lines = (f"| {refusal.feature} | {refusal.reason} | {refusal.instead} |" for refusal in rows)
    return "\n".join(("| what | why | instead |", "|---|---|---|", *lines))


def with_tables(text: str) -> str:
    """Return a page with the tables between its markers written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{markdown_table(TABLES[match[2]])}\n\n{match[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
