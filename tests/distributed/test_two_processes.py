"""Two gloo processes of batch b take the steps of one process of batch 2b, with DDP and with FSDP2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launch import run


def train(processes: int, output: Path, model: str, **settings: Any) -> dict[str, Any]:
    return run(
        processes, "tests.distributed.train", json.dumps({"output_dir": str(output), "model": model, **settings})
    )


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("gpt2", {"gradient_accumulation_steps": 2}),
        ("bert", {"optim": "sgd_sls"}),
    ],
    ids=["causal LM, accumulation", "classification"],
)
def test_two_processes_are_one_of_twice_the_batch(model: str, settings: dict[str, Any], tmp_path: Path) -> None:
    alone = train(1, tmp_path, model, per_device_train_batch_size=8, **settings)
    both = train(2, tmp_path, model, per_device_train_batch_size=4, **settings)
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-3)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 6


def test_ranks_agree_on_a_model_whose_buffers_are_broadcast(tmp_path: Path) -> None:
    assert train(2, tmp_path, "batchnorm", per_device_train_batch_size=4)["counts"]["trials"] > 0


LESS_USED = [pytest.param(name, marks=pytest.mark.long) for name in ("adagrad_sls", "ponos")]


@pytest.mark.parametrize("optim", ["adam_sls", "sgd_sls", *LESS_USED])
def test_shards_take_the_steps_of_whole_parameters(optim: str) -> None:
    """Plain PyTorch; a trial that saw gathered parameters of before its step would take others."""
    settings = json.dumps({"weight_decay": 0.1, **({} if optim in ("ponos", "adam_sls") else {"search_rate": 10.0})})
    alone, both = (run(processes, "tests.distributed.shard", optim, settings) for processes in (1, 2))
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 8


def test_ranks_agree_in_the_plainest_loop() -> None:
    """`optimizer.step(closure)` under DDP, of a closure that knows its own rows only."""
    settings = json.dumps({"ddp": True})
    alone, both = (run(processes, "tests.distributed.shard", "adam_sls", settings) for processes in (1, 2))
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 8


def test_the_trainer_with_fsdp2_is_one_process_of_twice_the_batch(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    alone = train(1, tmp_path, "gpt2", per_device_train_batch_size=8, **settings)
    both = train(2, tmp_path, "gpt2", per_device_train_batch_size=4, fsdp2=True, **settings)
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 6


@pytest.mark.parametrize(("saving", "loading"), [(2, 1), (1, 2)])
def test_a_state_moves_between_two_processes_and_one(saving: int, loading: int, tmp_path: Path) -> None:
    """FSDP2 on two, whole parameters on one, through torch's state-dict APIs."""
    settings = {"weight_decay": 0.1}
    half = str(tmp_path / "half.pt")
    unbroken = run(loading, "tests.distributed.shard", "adam_sls", json.dumps(settings))
    first = run(saving, "tests.distributed.shard", "adam_sls", json.dumps({**settings, "save": half}))
    second = run(loading, "tests.distributed.shard", "adam_sls", json.dumps({**settings, "load": half}))
    assert first["losses"] + second["losses"] == pytest.approx(unbroken["losses"], rel=1e-5)
    assert first["step_sizes"] + second["step_sizes"] == pytest.approx(unbroken["step_sizes"], rel=1e-4)
    assert second["counts"]["trials"] == unbroken["counts"]["trials"]


@pytest.mark.parametrize(("saving", "loading"), [(2, 1), (1, 2)])
def test_a_checkpoint_of_the_trainer_moves_too(saving: int, loading: int, tmp_path: Path) -> None:
    def trained(processes: int, **settings: Any) -> dict[str, Any]:
        return train(processes, tmp_path, "gpt2", per_device_train_batch_size=8 // processes, **settings)

    unbroken = trained(loading)
    trained(saving, save_strategy="steps", save_steps=3)
    resumed = trained(loading, resume_from=str(tmp_path / "checkpoint-3"))
    assert resumed["losses"] == pytest.approx(unbroken["losses"], rel=1e-5)
    assert resumed["step_sizes"] == pytest.approx(unbroken["step_sizes"], rel=1e-3)
    assert resumed["counts"]["trials"] == unbroken["counts"]["trials"]


def test_the_trainer_with_fsdp2_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    def trained(**settings: Any) -> dict[str, Any]:
        return train(2, tmp_path, "gpt2", per_device_train_batch_size=4, fsdp2=True, **settings)

    unbroken = trained(save_strategy="steps", save_steps=3)
    resumed = trained(resume_from=str(tmp_path / "checkpoint-3"))
    assert resumed["losses"] == unbroken["losses"]
    assert resumed["step_sizes"] == unbroken["step_sizes"]
    assert resumed["counts"] == unbroken["counts"]


def test_ranks_agree_on_uneven_last_batches(tmp_path: Path) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_steps": 10, "optim_args": "search_rate=inf"}
    both = train(2, tmp_path, "gpt2", per_device_train_batch_size=4, rows=27, **settings)
    assert both["counts"]["steps"] == 10
    assert both["counts"]["trials"] >= 10


def test_a_rank_that_breaks_stops_all_and_hangs_none(tmp_path: Path) -> None:
    both = train(2, tmp_path, "gpt2", per_device_train_batch_size=4, broken="loss")
    assert both["counts"]["steps"] == 6
    assert both["counts"]["skipped_steps"] == 2


def test_a_trial_that_fails_on_one_rank_ends_on_all(tmp_path: Path) -> None:
    """The rank that failed catches its exception, and so would keep the other waiting."""
    both = train(2, tmp_path, "gpt2", per_device_train_batch_size=4, broken="trial")
    assert both["error"] == "The loss could not be evaluated on process 1: the table of prices has no row for today"
    assert both["counts"]["steps"] == 2


def test_all_ranks_find_a_batch_size_that_fits_each(tmp_path: Path) -> None:
    both = train(2, tmp_path, "gpt2", per_device_train_batch_size=4, broken="trial", auto_find_batch_size=True)
    assert both["error"] is None
    assert both["counts"]["steps"] == 6
