"""Automatic step sizes for Hugging Face training: stochastic line search behind `optim="adam_sls"`.

    >>> from hf_sls import SLSTrainer, SLSTrainingArguments

replaces `Trainer` and `TrainingArguments`; the optimizers alone are in `hf_sls.optim`. Importing the package adds its
names to the `optim` choices of transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .closure import LossClosure
from .hub import HubError
from .landscape import Landscape, record_landscapes
from .metrics import final_loss, mean_log_loss
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
from .training_args import SLSTrainingArguments

if TYPE_CHECKING:
    from .callbacks import LineSearchCallback
    from .checkpoints import last_complete_checkpoint
    from .plotting import plot_landscape, plot_run, plot_runs
    from .trainer import LineSearchTrainerMixin, SLSTrainer

__version__ = "0.1.0"

__all__ = [
    "PLASLS",
    "SGDSLS",
    "AMSGradSLS",
    "AdagradSLS",
    "AdamSLS",
    "HubError",
    "Landscape",
    "LineSearchCallback",
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
    "final_loss",
    "last_complete_checkpoint",
    "layer_groups",
    "mean_log_loss",
    "plot_landscape",
    "plot_run",
    "plot_runs",
    "record_landscapes",
]


_LOADED_LATE = {
    "LineSearchCallback": "callbacks",
    "LineSearchTrainerMixin": "trainer",
    "SLSTrainer": "trainer",
    "plot_landscape": "plotting",
    "plot_run": "plotting",
    "plot_runs": "plotting",
    "last_complete_checkpoint": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_LATE:
        return getattr(import_module(f".{_LOADED_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
