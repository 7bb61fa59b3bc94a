"""The pictures of the docs show the losses that the search has seen."""

from __future__ import annotations

import importlib.util
import sys
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from hf_sls import create_optimizer

from .conftest import classification_rows, tiny_bert

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


@pytest.fixture(scope="module")
def draw() -> Any:
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "draw", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def landscape(draw: Any) -> Any:
    rows = classification_rows(count=16)
    inputs = {key: torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels")}
    model = tiny_bert(dropout=0.3).train()
    optimizer = create_optimizer("adam_sls", model.parameters(), search_rate=inf)
    return draw.look_along(model, optimizer, lambda: model(**inputs).loss, farthest=2, points=5, draws=2)


def test_with_the_masks_of_the_step_the_losses_are_those_of_the_search(landscape: Any) -> None:
    search = landscape.search
    start, _, end, *_ = landscape.repeated
    assert start == search.loss
    assert end == pytest.approx(search.result.loss, abs=1e-5)
    assert search.loss - search.result.loss > 1e-4


def test_fresh_masks_give_other_losses(landscape: Any) -> None:
    assert all(first != second for first, second in landscape.fresh)


def test_each_picture_is_written(draw: Any, landscape: Any, tmp_path: Path) -> None:
    draw.draw_armijo(landscape, tmp_path / "armijo.svg")
    draw.draw_dropout(landscape, tmp_path / "dropout.svg")
    assert {path.name for path in tmp_path.iterdir()} == {"armijo.svg", "dropout.svg"}
    assert all("<svg" in path.read_text() for path in tmp_path.iterdir())
