"""Which checkpoint to resume from, and what to say of one that has lost a file or the end of one."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

_INCOMPLETE_MARKER = "checkpoint-is-incomplete.txt"
"""A file that the Trainer keeps in a just-in-time checkpoint until all of it is saved."""

_LOAD_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
_DEVICE_ERRORS = (torch.OutOfMemoryError, torch.distributed.DistBackendError)
"""Errors of the device or the network, which say nothing about the file being read."""


def last_complete_checkpoint(output_dir: str | Path) -> str | bool | None:
    """Return what `resume_from_checkpoint=True` stands for in the directory of a run that was killed.

    A checkpoint that was still being saved is skipped with a warning.

    Args:
        output_dir: the directory of the run.

    Returns:
        The path of the last complete checkpoint. `None`, to start from the beginning, if there are checkpoints and none
        is complete. `True` if there is none at all, which the Trainer refuses.
    """
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    checkpoints = [path for path in found if path.is_dir() and path.name.rpartition("-")[2].isdecimal()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if _is_complete(checkpoint):
            return str(checkpoint)
        logger.warning(f"{checkpoint} is skipped: it is not complete, as the run ended while saving it.")
    return None if checkpoints else True


def _is_complete(checkpoint: Path) -> bool:
    """Whether the Trainer's last file of a checkpoint is there and whole, and nothing marks it as incomplete."""
    if (checkpoint / _INCOMPLETE_MARKER).exists():
        return False
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def require_files(checkpoint: str, *names: str) -> None:
    """Raise `ValueError` if a checkpoint lacks a file to resume from, where the Trainer would start that part afresh.

    Args:
        checkpoint: its directory.
        *names: of the files. The optimizer may also be in `optimizer.bin`, or in a directory of shards.
    """
    missing = [name for name in names if not _has(Path(checkpoint), name)]
    if missing:
        raise ValueError(
            f"resume_from_checkpoint={checkpoint!r} has no {' and no '.join(missing)}, so the run cannot continue "
            "where it was: the checkpoint was saved with save_only_model=True, or is incomplete. Resume from another "
            "one. To start a new run from its weights, load the model from there and leave the argument out."
        )


def _has(checkpoint: Path, name: str) -> bool:
    if (checkpoint / name).is_file():
        return True
    shards = (path for path in checkpoint.glob("*optimizer*") if path.is_dir())
    return name == OPTIMIZER_NAME and ((checkpoint / OPTIMIZER_NAME_BIN).is_file() or any(shards))


@contextmanager
def naming_unreadable_files(checkpoint: str, *names: str) -> Iterator[None]:
    """Turn an error of reading some files of a checkpoint into a `ValueError` that names the file."""
    try:
        yield
    except _LOAD_ERRORS as error:
        if isinstance(error, _DEVICE_ERRORS):
            raise
        unreadable = [name for name in names if not _can_be_read(Path(checkpoint, name))]
        advice = "" if unreadable else ", or use the optim, the optim_args and the model that it was saved with"
        raise ValueError(
            f"resume_from_checkpoint={checkpoint!r}: {' or '.join(unreadable or names)} cannot be read ({error}). "
            f"Resume from another checkpoint{advice}."
        ) from error


def _can_be_read(file: Path) -> bool:
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return True
    except Exception:
        return False
    return True
