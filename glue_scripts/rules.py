"""The rules of a line search, with the present defaults of the package."""

from __future__ import annotations

import torch

from hf_sls.optim import OPTIMIZERS, create_optimizer
from hf_sls.training_args import parse_optim_args


def rules_of(optim: str, optim_args: str | None = None) -> str | None:
    """Return a description of the rules of `optim` with `optim_args`; `None` if it is not a line search.

    Two runs with different rules are different runs, even if their arguments are the same.
    """
    if optim not in OPTIMIZERS:
        return None
    return create_optimizer(optim, [torch.zeros(())], **parse_optim_args(optim, optim_args)).describe()
