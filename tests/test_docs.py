"""Every Python block of README and docs runs as printed, the pretrained model replaced by a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

sybil = pytest.importorskip("sybil")
from sybil.parsers.markdown import PythonCodeBlockParser
from transformers import AutoModelForSequenceClassification

from .conftest import classification_rows, tiny_bert

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", lambda name: tiny_bert())
    document = sybil.Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace["train_dataset"] = classification_rows()
    for example in document.examples():
        example.evaluate()
