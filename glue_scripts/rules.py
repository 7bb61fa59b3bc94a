"""What a line search consists of under the settings recommended now."""

from __future__ import annotations

import torch

from hf_sls.optim import OPTIMIZERS, create_optimizer
from hf_sls.training_args import parse_optim_args


def rules_of(optim: str, optim_args: str | None = None) -> str | None:
    """Return the rules of `optim` with `optim_args`; `None` where it is no line search.

    A run is another one with other rules, though its arguments be the same.
    """
    if optim not in OPTIMIZERS:
        return None
    return create_optimizer(optim, [torch.zeros(())], **parse_optim_args(optim, optim_args)).describe()
