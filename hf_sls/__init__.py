"""Automatic step sizes for Hugging Face training: stochastic line search behind `optim="adam_sls"`.

    >>> from hf_sls import SLSTrainer, SLSTrainingArguments

replaces `Trainer` and `TrainingArguments`; the optimizers alone are in `hf_sls.optim`. Importing the package adds its
names to the `optim` choices of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .closure import LossClosure
from .optim import SGDSLS, AdamSLS, LineSearchOptimizer, RandomState, SearchReport, create_optimizer
from .plotting import plot_run
from .training_args import SLSTrainingArguments

if TYPE_CHECKING:
    from .trainer import LineSearchTrainerMixin, SLSTrainer

__version__ = "0.1.0.dev0"

__all__ = [
    "SGDSLS",
    "AdamSLS",
    "LineSearchOptimizer",
    "LineSearchTrainerMixin",
    "LossClosure",
    "RandomState",
    "SLSTrainer",
    "SLSTrainingArguments",
    "SearchReport",
    "create_optimizer",
    "plot_run",
]


def __getattr__(name: str) -> Any:
    if name in ("LineSearchTrainerMixin", "SLSTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
