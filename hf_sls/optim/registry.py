"""The `optim=` names: which class each stands for."""

from __future__ import annotations

import inspect
import warnings
from math import inf
from typing import Any

from .family import _SEARCH, PLASLS, SGDSLS, AdagradSLS, AdamSLS, AMSGradSLS, PoNoS, SaLSa, SGDSaLSa, _Named
from .optimizer import LineSearchOptimizer, Params
from .presets import preset_settings

OPTIMIZERS: dict[str, type[_Named]] = {
    "adam_sls": AdamSLS,
    "adam_salsa": SaLSa,
    "plasls": PLASLS,
    "amsgrad_sls": AMSGradSLS,
    "adagrad_sls": AdagradSLS,
    "sgd_sls": SGDSLS,
    "sgd_salsa": SGDSaLSa,
    "ponos": PoNoS,
}

_FINITE = "a finite number"
_USED_WITH: dict[str, list[tuple[str, Any]]] = {
    "smoothing": [("look_back", False)],
    "search_rate": [("look_back", False)],
    "search_credit": [("look_back", False), ("search_rate", _FINITE)],
    "watch": [("look_back", True)],
    "warmup": [("search_rate", inf)],
    "max_interval": [("search_rate", inf)],
}


def create_optimizer(name: str, params: Params, *, preset: str | None = None, **settings: Any) -> LineSearchOptimizer:
    """Build the optimizer that `optim=name` stands for: its class, with its defaults.

    Args:
        name: one of `OPTIMIZERS`.
        params: parameters, named parameters or parameter groups; for `plasls` a model, or a group for each layer.
        preset: `"published"` for the values of the paper, `"authors_code"` for those of the authors' package where they
            differ; `None` for our defaults.
        settings: arguments of the class, which override the preset and the defaults.

    Raises:
        ValueError: the name or the preset is unknown, or a setting is out of range.

    Warns:
        UserWarning: a setting has no effect beside the others, `smoothing` beside `look_back` for one.

    Example:
        >>> import torch
        >>> optimizer = create_optimizer("adam_sls", torch.nn.Linear(2, 1).parameters(), c=0.3)
        >>> optimizer.criterion.c
        0.3
    """
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise ValueError(f"name={name!r} is not a line-search optimizer; the names are {', '.join(OPTIMIZERS)}.")
    optimizer = OPTIMIZERS[name](params, **with_preset(name, preset, settings))
    warn_of_settings_without_effect(name, preset, settings)
    return optimizer


def with_preset(name: str, preset: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings over those of the preset."""
    return {**(preset_settings(name, preset) if preset is not None else {}), **settings}


def warn_of_settings_without_effect(name: str, preset: str | None, settings: dict[str, Any]) -> None:
    """Warn of each setting that another one, given or by default, keeps `optim=name` from using."""
    defaults = {key: each.default for key, each in inspect.signature(OPTIMIZERS[name]).parameters.items()}
    chosen = {**_SEARCH, **defaults, **OPTIMIZERS[name].search_defaults, **with_preset(name, preset, settings)}
    for setting in settings.keys() & _USED_WITH.keys():
        for other, needed in _USED_WITH[setting]:
            value = chosen.get(other, needed)
            is_used = value == needed or (needed == _FINITE and value != inf)
            if not is_used and settings[setting] != inf:
                warnings.warn(
                    f"{setting}={settings[setting]} has no effect on {name!r} beside {other}={chosen[other]}; with "
                    f"{other}={needed} it is used.",
                    stacklevel=3,
                )
                break
