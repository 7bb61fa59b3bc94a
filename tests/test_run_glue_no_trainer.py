"""`run_glue_no_trainer.py` learns, and resumes as the unbroken run; in `distributed`, by two processes too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import run_glue_no_trainer
from accelerate.state import AcceleratorState, GradientState

from .glue import glue_dir


def run(monkeypatch: pytest.MonkeyPatch, data: Path, model: Path, output: Path, *more: str) -> list[dict[str, Any]]:
    where = ["--data_dir", str(data), "--model_name_or_path", str(model), "--output_dir", str(output)]
    arguments = ["--task_name", "sst2", "--per_device_train_batch_size", "4", *where, *more]
    monkeypatch.setattr(sys, "argv", ["run_glue_no_trainer.py", *arguments])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run_glue_no_trainer.main()
    last = run_glue_no_trainer.checkpoint_to_resume(output, resume=True)
    return json.loads((last / "history.json").read_text())


def test_it_learns_and_leaves_a_model(
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = glue_dir(tmp_path / "data", "sst2")
    history = run(monkeypatch, data, model_dir, tmp_path / "out", "--num_train_epochs", "200", "--seed", "1")
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["accuracy"] == 1.0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert len(list((tmp_path / "out").glob("epoch-*"))) == 1


@pytest.mark.parametrize("more", [[], ["--gradient_accumulation_steps", "2"]], ids=str)
def test_a_resumed_run_is_the_unbroken_run(
    more: list[str],
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = glue_dir(tmp_path / "data", "sst2")
    constant = ["--lr_scheduler_type", "constant", *more]
    unbroken = run(monkeypatch, data, model_dir, tmp_path / "a", "--num_train_epochs", "4", *constant)
    run(monkeypatch, data, model_dir, tmp_path / "b", "--num_train_epochs", "2", *constant)
    resume = ["--num_train_epochs", "4", "--resume_from_checkpoint", *constant]
    assert run(monkeypatch, data, model_dir, tmp_path / "b", *resume) == unbroken


def test_a_checkpoint_is_neither_missed_nor_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        run_glue_no_trainer.checkpoint_to_resume(tmp_path, resume=True)
    assert run_glue_no_trainer.checkpoint_to_resume(tmp_path, resume=False) is None
    for epoch in (9, 10):
        (tmp_path / f"epoch-{epoch}").mkdir()
    with pytest.raises(FileExistsError, match="epoch-10 of another run"):
        run_glue_no_trainer.checkpoint_to_resume(tmp_path, resume=False)
    assert run_glue_no_trainer.checkpoint_to_resume(tmp_path, resume=True) == tmp_path / "epoch-10"
