"""The lines of a model card that a line search changes."""

from __future__ import annotations

import re

from .optim import LineSearchOptimizer


def with_line_search(card: str, optimizer: LineSearchOptimizer) -> str:
    """Return the Trainer's model card with the line search in place of a learning rate.

    Args:
        card: the text of the card.
        optimizer: the optimizer after training.
    """
    lines = {
        "learning_rate": f"step_size: found by line search, {optimizer.param_groups[0]['step_size']:.3g} at the end "
        f"({optimizer.forward_passes_per_step:.2f} forward passes per step)",
        "optimizer": f"optimizer: hf_sls {optimizer.describe()}",
    }
    for key, line in lines.items():
        card = re.sub(rf"^- {key}: .*$", f"- {line}", card, flags=re.MULTILINE)
    return card
