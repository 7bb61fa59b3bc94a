"""What a line search consists of under the settings recommended now."""

from __future__ import annotations

import torch

from hf_sls import SLSTrainer, SLSTrainingArguments
from hf_sls.optim import OPTIMIZERS


def rules_of(optim: str, optim_args: str | None = None) -> str | None:
    """Return the rules of `optim` with `optim_args`; `None` where it is no line search.

    A run is another one with other rules, though its arguments be the same.
    """
    if optim not in OPTIMIZERS:
        return None
    args = SLSTrainingArguments(output_dir="unused", use_cpu=True, optim=optim, optim_args=optim_args)
    optimizer_class, settings = SLSTrainer.get_optimizer_cls_and_kwargs(args)
    return str(optimizer_class([torch.zeros(())], **settings).describe())
