"""Landscapes in a loop of one's own: the numbers are those of the problem, and looking changes nothing."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest
import torch

from hf_sls import record_landscapes
from hf_sls.landscape import load_landscapes, save_landscapes
from hf_sls.optim import RandomState, create_optimizer

from .members import MEMBERS, published
from .problems import Network, restored, same, snapshot


def test_on_a_parabola_the_landscape_is_the_parabola() -> None:
    """f(w) = w^2 from w = 1 along -2: f(eta) = (1 - 2 eta)^2, slope 4, accepted from 1 - c down."""
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = published("sgd_sls", [weight], init_step_size=1.0, c=0.05, interpolate=False, shrink=0.9)
    with record_landscapes(optimizer) as landscapes:
        optimizer.step(lambda: weight.square().sum())
    (landscape,) = landscapes
    assert landscape.losses == pytest.approx([(1 - 2 * eta) ** 2 for eta in landscape.step_sizes])
    assert (landscape.step, landscape.slope, landscape.intercept) == (1, 4.0, 1.0)
    assert landscape.rate == pytest.approx(0.2)
    assert [eta for eta, _ in landscape.tried] == pytest.approx([1.0, 0.9])
    assert [loss for _, loss in landscape.tried] == pytest.approx([1.0, 0.64])
    assert (landscape.outcome, landscape.rejected) == ("accepted", 1)
    assert landscape.step_sizes[-1] == 2 * landscape.step_size
    assert optimizer.observer is None


def test_of_the_first_search_of_the_default_the_step_is_tried_last_and_not_rejected() -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters())
    with record_landscapes(optimizer) as landscapes:
        for closure in model.closures(2):
            optimizer.step(closure)
    first, second = landscapes
    assert [eta for eta, _ in first.tried] == pytest.approx([1e-2, 2e-4])
    assert (first.rejected, second.rejected) == (0, 0)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_looking_changes_nothing(member: str, dtype: torch.dtype) -> None:
    """To the bit: parameters, moments, memory of the search, and random state, with dropout."""
    runs = []
    for watched in (False, True):
        model = Network(dropout=0.2, dtype=dtype)
        optimizer = MEMBERS[member](model.parameters())
        for closure in model.closures(12):
            if watched:
                with record_landscapes(optimizer):
                    optimizer.step(closure)
            else:
                optimizer.step(closure)
        state = [value for moments in optimizer.state.values() for value in moments.values()]
        runs.append((model, state, optimizer.param_groups[0]["line_search"], RandomState.capture().cpu))
    assert same(runs[0][0], snapshot(runs[1][0]))
    assert all(torch.equal(first, second) for first, second in zip(runs[0][1], runs[1][1]))
    assert runs[0][2] == runs[1][2]
    assert torch.equal(runs[0][3], runs[1][3])


def test_an_exception_while_looking_leaves_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Network()
    optimizer = create_optimizer("adam_sls", model.parameters(), init_step_size=0.1, search_rate=inf)
    closures = list(model.closures(2))
    optimizer.step(closures[0])

    def look(search: object) -> None:
        search.loss_at(1.0)
        raise KeyboardInterrupt

    optimizer.observer = look
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closures[1])
    assert restored(model, before, optimizer)


def test_landscapes_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = Network()
    optimizer = MEMBERS["sgd_sls, published"](model.parameters())
    with record_landscapes(optimizer) as landscapes:
        for closure in model.closures(2):
            optimizer.step(closure)
    save_landscapes(landscapes, tmp_path / "landscape.json")
    read = load_landscapes(tmp_path)
    assert [(one.step, one.losses, one.step_size) for one in read] == [
        (one.step, one.losses, one.step_size) for one in landscapes
    ]


def test_a_file_that_is_missing_or_another_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*landscape.json\. .*landscape_steps"):
        load_landscapes(tmp_path)
    (tmp_path / "landscape.json").write_text(json.dumps([{"loss": 1}]))
    with pytest.raises(ValueError, match="not a file of landscapes"):
        load_landscapes(tmp_path)
