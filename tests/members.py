"""The table of members that every generic test of the optimizers runs through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hf_sls.optim import (
    OPTIMIZERS,
    PLASLS,
    SGDSLS,
    AdagradSLS,
    Adam,
    AdamSLS,
    Adaptive,
    AMSGradSLS,
    Armijo,
    Backtracking,
    LastStep,
    LineSearchOptimizer,
    PoNoS,
    SaLSa,
    SGDSaLSa,
    create_optimizer,
)

MEMBERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    "SGDSLS": SGDSLS,
    "AdamSLS": AdamSLS,
    "AMSGradSLS": AMSGradSLS,
    "AdagradSLS": AdagradSLS,
    "PLASLS": PLASLS,
    "SaLSa": SaLSa,
    "SGDSaLSa": SGDSaLSa,
    "PoNoS": PoNoS,
    "AdamSLS, momentum": lambda params, **settings: AdamSLS(params, search_direction="momentum", **settings),
    **{name: partial(create_optimizer, name) for name in OPTIMIZERS},
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
