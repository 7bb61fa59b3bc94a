"""The table of members that every generic test of the optimizers runs through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hf_sls.optim import (
    OPTIMIZERS,
    Adam,
    Adaptive,
    Armijo,
    Backtracking,
    LastStep,
    LineSearchOptimizer,
    create_optimizer,
)
from hf_sls.optim.presets import AUTHORS_CODE, PUBLISHED

published = partial(create_optimizer, preset="published")
"""The optimizer of a name with the values of its paper."""

MEMBERS: dict[str, Callable[..., LineSearchOptimizer]] = {
    **{name: partial(create_optimizer, name) for name in OPTIMIZERS},
    **{f"{name}, published": partial(create_optimizer, name, preset="published") for name in PUBLISHED},
    "adam_sls, published, momentum": partial(
        create_optimizer, "adam_sls", preset="published", search_direction="momentum"
    ),
    "adaptive cadence": lambda params, **settings: adaptive(params, **settings),
}


WITH_AUTHORS_CODE: dict[str, Callable[..., LineSearchOptimizer]] = {
    **MEMBERS,
    **{f"{name}, authors_code": partial(create_optimizer, name, preset="authors_code") for name in AUTHORS_CODE},
}
"""The same rules with other numbers."""


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
