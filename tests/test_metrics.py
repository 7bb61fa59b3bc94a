"""The mean logarithm of the losses, against numpy and through evaluate."""

from __future__ import annotations

import evaluate
import numpy as np
import pytest

from hf_sls import mean_log_loss

from .glue import SCRIPTS


def test_against_numpy() -> None:
    losses = np.random.default_rng(0).uniform(1e-6, 3.0, size=1000)
    assert mean_log_loss(list(losses)) == pytest.approx(np.log(losses).mean(), rel=1e-12)


def test_every_halving_counts_alike() -> None:
    assert mean_log_loss([0.5] * 10) - mean_log_loss([0.25] * 10) == pytest.approx(np.log(2))
    assert mean_log_loss([1.0, 0.0]) == float("-inf")


@pytest.mark.parametrize("losses", [[], [1.0, -0.5]])
def test_what_has_no_logarithm_is_refused(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="losses"):
        mean_log_loss(losses)


def test_as_a_metric_of_evaluate() -> None:
    metric = evaluate.load(str(SCRIPTS / "mean_log_loss.py"))
    metric.add_batch(predictions=[1.0, 0.5])
    metric.add(prediction=0.25)
    assert metric.compute() == {"mean_log_loss": pytest.approx(np.log(0.5))}
