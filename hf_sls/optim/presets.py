"""The published values of each optimizer, by name: `preset="published"` and `preset="authors_code"`."""

from __future__ import annotations

from math import inf
from typing import Any

_DOUBLED_IN_500 = 2 ** (1 / 500)
"""gamma = 2 and n = 500 of the authors' code: the first step of a search doubles in 500 steps without a rejection."""

_SEARCH: dict[str, Any] = {"max_trials": 100, "interpolate": False, "lower_bound": -inf, "search_rate": inf}
"""A rejected step is multiplied by beta until one is accepted, at most a hundred times (arXiv 1905.09997, alg. 1)."""

_SLS: dict[str, Any] = {**_SEARCH, "init_step_size": 0.1, "c": 0.1, "shrink": 0.9, "growth": _DOUBLED_IN_500}
"""Vaswani et al. 2019, arXiv 1905.09997, with the first step of arXiv 2403.18506."""

_ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "search_direction": "gradient"}
"""Adam's own moments, and a search along its preconditioned gradient (arXiv 2403.18506)."""

_ADAM_SLS: dict[str, Any] = {**_SLS, **_ADAM, "look_back": False, "smoothing": 0.0}
"""Kenneweg et al. 2023, arXiv 2403.18506, section 4; for AMSGrad Vaswani et al. 2020, arXiv 2006.06835."""

_SALSA: dict[str, Any] = {**_SEARCH, "init_step_size": 1.0, "c": 0.3, "smoothing": 0.99, "shrink": 0.8, "growth": 1.1}
"""Kenneweg et al. 2024, arXiv 2407.20650: the values of its experiments."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "adam_sls": _ADAM_SLS,
    "adam_salsa": {**_SALSA, **_ADAM},
    "plasls": {**_SLS, **_ADAM},
    "amsgrad_sls": _ADAM_SLS,
    "adagrad_sls": _SLS,
    "sgd_sls": _SLS,
    "sgd_salsa": _SALSA,
    "ponos": _SEARCH,
}
"""What the papers ran. The other values of `ponos` are our defaults too (Galli et al. 2023, arXiv 2306.12747)."""

AUTHORS_CODE: dict[str, dict[str, Any]] = {
    "adam_sls": {**PUBLISHED["adam_sls"], "c": 0.2},
    "adam_salsa": {**PUBLISHED["adam_salsa"], "c": 0.5, "smoothing": 0.9},
    "plasls": {**PUBLISHED["plasls"], "c": 0.2},
    "sgd_salsa": {**PUBLISHED["sgd_salsa"], "c": 0.5, "smoothing": 0.9},
}
"""The defaults of the package salsa-optimizer 0.1.0, where they differ from the papers."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"published": PUBLISHED, "authors_code": AUTHORS_CODE}


def preset_settings(name: str, preset: str) -> dict[str, Any]:
    """Return the settings of the optimizer `name` in a preset.

    Raises:
        ValueError: there is no such preset of this optimizer.
    """
    known = [each for each, settings in PRESETS.items() if name in settings]
    if not isinstance(preset, str) or preset not in known:
        raise ValueError(f"preset={preset!r} is not a preset of {name!r}; it has {' and '.join(map(repr, known))}.")
    return PRESETS[preset][name]
