"""Automatic step sizes for Hugging Face training: stochastic line search behind `optim="adam_sls"`.

    >>> from hf_sls import SLSTrainer, SLSTrainingArguments

replaces `Trainer` and `TrainingArguments`; the optimizers alone are in `hf_sls.optim`. Importing the package adds its
names to the `optim` choices of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .closure import LossClosure
from .hub import HubError
from .optim import (
    PLASLS,
    SGDSLS,
    AdagradSLS,
    AdamSLS,
    AMSGradSLS,
    LineSearchOptimizer,
    PoNoS,
    RandomState,
    SaLSa,
    SearchReport,
    SGDSaLSa,
    create_optimizer,
    layer_groups,
)
from .plotting import plot_run
from .training_args import SLSTrainingArguments

if TYPE_CHECKING:
    from .trainer import LineSearchTrainerMixin, SLSTrainer

__version__ = "0.1.0.dev0"

__all__ = [
    "PLASLS",
    "SGDSLS",
    "AMSGradSLS",
    "AdagradSLS",
    "AdamSLS",
    "HubError",
    "LineSearchOptimizer",
    "LineSearchTrainerMixin",
    "LossClosure",
    "PoNoS",
    "RandomState",
    "SGDSaLSa",
    "SLSTrainer",
    "SLSTrainingArguments",
    "SaLSa",
    "SearchReport",
    "create_optimizer",
    "layer_groups",
    "plot_run",
]


def __getattr__(name: str) -> Any:
    if name in ("LineSearchTrainerMixin", "SLSTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
