"""The `optim=` names: which class each stands for, and the settings we recommend for it."""

from __future__ import annotations

import warnings
from typing import Any

from .family import PLASLS, SGDSLS, AdagradSLS, AdamSLS, AMSGradSLS, PoNoS, SaLSa, SGDSaLSa
from .optimizer import LineSearchOptimizer, Params

OPTIMIZERS: dict[str, type[LineSearchOptimizer]] = {
    "adam_sls": AdamSLS,
    "adam_salsa": SaLSa,
    "plasls": PLASLS,
    "amsgrad_sls": AMSGradSLS,
    "adagrad_sls": AdagradSLS,
    "sgd_sls": SGDSLS,
    "sgd_salsa": SGDSaLSa,
    "ponos": PoNoS,
}

_QUICK = {"shrink": 0.5, "max_trials": 20, "interpolate": True, "lower_bound": 0.0}
_SELDOM = {"search_rate": 0.09, "search_credit": 10.0}
_GROWING = {"growth": 1.2, **_QUICK, **_SELDOM}
_ADAM = {
    "search_direction": "momentum",
    "minimum_share": 0.6,
    "smoothing": 0.9,
    "growth": 1.1,
    "search_credit_steps": 30,
    **_QUICK,
    **_SELDOM,
}

RECOMMENDED: dict[str, dict[str, Any]] = {
    "adam_sls": _ADAM,
    "adam_salsa": _ADAM,
    "plasls": {"search_direction": "momentum", "c": 0.5, **_QUICK},
    "amsgrad_sls": _ADAM,
    "adagrad_sls": _GROWING,
    "sgd_sls": {"init_step_size": 1.0, **_GROWING},
    "sgd_salsa": _GROWING,
    "ponos": dict(_QUICK),
}
"""Where `optim=` departs from the published defaults of the class; docs/choosing.md has the evidence."""


def create_optimizer(name: str, params: Params, **settings: Any) -> LineSearchOptimizer:
    """Build the optimizer that `optim=name` stands for, with the recommended settings.

    Args:
        name: one of `OPTIMIZERS`.
        params: parameters, named parameters or parameter groups.
        settings: arguments of the class that override the recommended ones.

    Raises:
        ValueError: the name is unknown or a setting is out of range.

    Warns:
        UserWarning: `c` is given and the steps of `minimum_share` do not use it.

    Example:
        >>> import torch
        >>> optimizer = create_optimizer("adam_sls", torch.nn.Linear(2, 1).parameters(), minimum_share=0.3)
        >>> optimizer.initial_step.share
        0.3
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"name={name!r} is not a line-search optimizer; the names are {', '.join(OPTIMIZERS)}.")
    chosen = {**RECOMMENDED[name], **settings}
    optimizer = OPTIMIZERS[name](params, **chosen)
    if "c" in settings and chosen.get("minimum_share"):
        warnings.warn(
            f"c={settings['c']} has no effect on {name!r} beside minimum_share={chosen['minimum_share']}, which sets "
            "the sufficient decrease; with minimum_share=0 it is used.",
            stacklevel=2,
        )
    return optimizer
