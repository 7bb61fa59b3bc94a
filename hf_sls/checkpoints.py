"""Which checkpoint to resume from after a run that was cut off at any moment."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

_MARK_OF_JIT_CHECKPOINTS = "checkpoint-is-incomplete.txt"
"""What the Trainer's just-in-time checkpoint lies under while it is being saved."""


def last_complete_checkpoint(output_dir: str | Path) -> str | bool | None:
    """Return what `resume_from_checkpoint=True` means for a directory that a killed run has left.

    A checkpoint that was being saved when its run ended is passed over with a warning.

    Args:
        output_dir: the directory of the run.

    Returns:
        The path of the latest complete checkpoint; `None`, start from the beginning, where none is complete; `True`,
        as asked, where there is none at all, for the Trainer to refuse.
    """
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    checkpoints = [path for path in found if path.is_dir() and path.name.rpartition("-")[2].isdecimal()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if _is_complete(checkpoint):
            return str(checkpoint)
        logger.warning(f"{checkpoint} is not complete: its run ended while saving it. It is passed over.")
    return None if checkpoints else True


def _is_complete(checkpoint: Path) -> bool:
    """Whether the last file that the Trainer writes into a checkpoint is there, to its end, without a mark."""
    if (checkpoint / _MARK_OF_JIT_CHECKPOINTS).exists():
        return False
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
