"""Runs killed at random moments resume, and end with the parameters of the unbroken run.

The Trainer takes one more step when it resumes from the checkpoint of the last one, with every optimizer; under the
linear schedule that step moves nothing.

pytest -m long tests/test_killed_runs.py
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from hf_sls import SLSTrainer
from hf_sls.optim import OPTIMIZERS

from .conftest import classification_rows, losses, tiny_bert

KILLS_OF_EACH, STEPS = 25, 16


def train(optim: str, output_dir: Path, arguments: Any) -> None:
    """Train, from the last checkpoint if there is one, and write the end of the run."""
    args = arguments(
        output_dir=str(output_dir),
        optim=optim,
        optim_args="search_rate=0.5,search_credit=3" if optim != "adam_sls" else None,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        gradient_accumulation_steps=2,
    )
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    begun = output_dir.is_dir() and get_last_checkpoint(str(output_dir)) is not None
    trainer.train(resume_from_checkpoint=begun)
    end = {"parameters": dict(trainer.model.named_parameters()), "losses": losses(trainer)}
    torch.save(end, output_dir / "end.pt")


def in_a_child(seconds: float | None, *arguments: Any) -> int:
    """Train in a child process, killed after so many seconds if it is still there; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            train(*arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_killed_run_ends_like_the_unbroken_one(optim: str, arguments: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    assert in_a_child(None, optim, tmp_path / "unbroken", arguments) == 0
    duration = time.monotonic() - start
    unbroken = torch.load(tmp_path / "unbroken" / "end.pt")
    moments = random.Random(optim)
    runs = killed = incomplete = 0
    while killed < KILLS_OF_EACH:
        output_dir = tmp_path / str(runs)
        runs += 1
        killed += in_a_child(moments.uniform(0.1, 0.95) * duration, optim, output_dir, arguments) == -signal.SIGKILL
        last = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
        incomplete += last is not None and not (Path(last) / "trainer_state.json").is_file()
        assert in_a_child(None, optim, output_dir, arguments) == 0
        end = torch.load(output_dir / "end.pt")
        assert end["losses"][:STEPS] == unbroken["losses"]
        assert all(torch.equal(value, unbroken["parameters"][name]) for name, value in end["parameters"].items())
    print(f"{optim}: {killed} of {runs} runs killed before their end, {incomplete} of them while saving")
