"""The `optim=` names: which class each stands for, and the settings we recommend for it."""

from __future__ import annotations

import warnings
from math import inf
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
    "wolfe": True,
    "c": 0.1,
    "smoothing": 0.0,
    "growth": 1.3,
    "shrink": 0.7,
    "max_trials": 20,
    "interpolate": True,
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

_USED_WITH: dict[str, list[tuple[str, Any]]] = {
    "smoothing": [("wolfe", False)],
    "search_rate": [("wolfe", False)],
    "warmup": [("wolfe", False), ("search_rate", inf)],
    "max_interval": [("wolfe", False), ("search_rate", inf)],
}


def create_optimizer(name: str, params: Params, **settings: Any) -> LineSearchOptimizer:
    """Build the optimizer that `optim=name` stands for, with the recommended settings.

    Args:
        name: one of `OPTIMIZERS`.
        params: parameters, named parameters or parameter groups.
        settings: arguments of the class that override the recommended ones.

    Raises:
        ValueError: the name is unknown or a setting is out of range.

    Warns:
        UserWarning: a setting has no effect beside the others, `smoothing` beside `wolfe` for one.

    Example:
        >>> import torch
        >>> optimizer = create_optimizer("adam_sls", torch.nn.Linear(2, 1).parameters(), c=0.3)
        >>> optimizer.criterion.c
        0.3
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"name={name!r} is not a line-search optimizer; the names are {', '.join(OPTIMIZERS)}.")
    optimizer = OPTIMIZERS[name](params, **{**RECOMMENDED[name], **settings})
    warn_of_settings_without_effect(name, settings)
    return optimizer


def warn_of_settings_without_effect(name: str, settings: dict[str, Any]) -> None:
    """Warn of each setting that another one, given or recommended, keeps `optim=name` from using."""
    chosen = {**RECOMMENDED[name], **settings}
    for setting in settings.keys() & _USED_WITH.keys():
        for other, needed in _USED_WITH[setting]:
            if chosen.get(other, needed) != needed and settings[setting] != inf:
                warnings.warn(
                    f"{setting}={settings[setting]} has no effect on {name!r} beside {other}={chosen[other]}; with "
                    f"{other}={needed} it is used.",
                    stacklevel=3,
                )
