"""The table of members that every generic test of the optimizers runs through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_sls.optim import (
    SGDSLS,
    Adam,
    AdamSLS,
    Adaptive,
    Armijo,
    Backtracking,
    LastStep,
    LineSearchOptimizer,
    create_optimizer,
)

MEMBERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    "SGDSLS": SGDSLS,
    "AdamSLS": AdamSLS,
    "AdamSLS, momentum": lambda params, **settings: AdamSLS(params, search_direction="momentum", **settings),
    "sgd_sls": lambda params, **settings: create_optimizer("sgd_sls", params, **settings),
    "adam_sls": lambda params, **settings: create_optimizer("adam_sls", params, **settings),
    "adaptive cadence": lambda params, **settings: adaptive(params, **settings),
}


def adaptive(params: Any, **settings: Any) -> LineSearchOptimizer:
    """A composition that has no name."""
    return LineSearchOptimizer(
        params,
        direction=Adam(),
        criterion=Armijo(0.4),
        initial_step=LastStep(0.5, growth=1.3),
        backtracking=Backtracking(shrink=0.6, interpolate=True),
        cadence=Adaptive(warmup=3),
        **settings,
    )
