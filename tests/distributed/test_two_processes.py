"""Two gloo processes of batch b take the steps of one process of batch 2b, with DDP and with FSDP2.

Every test names its jobs, and all of them run in one launch of two processes.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.glue import glue_dir
from tests.launch import launch, once

pytestmark = pytest.mark.timeout(1200)

Results = list[dict[str, Any]]


class Job(NamedTuple):
    """What a number of processes do: a kind of `worker.py`, and its settings as JSON."""

    processes: int
    kind: str
    settings: str


def shard(processes: int, optim: str = "adam_sls", **settings: Any) -> Job:
    return Job(processes, "shard", json.dumps({"optim": optim, **settings}))


def train(processes: int, model: str = "gpt2", output_dir: str = "run", **settings: Any) -> Job:
    """Name a run of the Trainer with a global batch of 8."""
    size = {"per_device_train_batch_size": 8 // processes}
    return Job(processes, "train", json.dumps({"model": model, "output_dir": output_dir, **size, **settings}))


def script(output_dir: str, epochs: int, **settings: Any) -> Job:
    """Name a run of `run_glue_no_trainer.py` by two processes."""
    where = {"task_name": "sst2", "data_dir": "data", "model_name_or_path": "model", "output_dir": output_dir}
    work = {"num_train_epochs": epochs, "per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}
    return Job(2, "script", json.dumps({**where, **work, **settings}))


def run_jobs(jobs: list[Job], directory: Path) -> dict[Job, dict[str, Any]]:
    """Run all jobs in one launch; a job that raises or hangs ends it, and another launch runs those that remain."""
    results: dict[Job, dict[str, Any]] = {}
    while waiting := [job for job in jobs if job not in results]:
        work = json.dumps([(job.processes, job.kind, json.loads(job.settings)) for job in waiting])
        printed, ended = launch(2, "tests.distributed.worker", work, str(directory), stderr=-1, timeout=900)
        finished = [result for result in printed if "traceback" not in result]
        results |= zip(waiting, finished)
        if len(finished) < len(waiting):
            tracebacks = [result["traceback"] for result in printed if "traceback" in result]
            results[waiting[len(finished)]] = {"traceback": "\n".join(tracebacks) or ended.stderr[-10_000:]}
    return results


@pytest.fixture(scope="module")
def launched(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Job, dict[str, Any]]:
    """The results of the jobs of all tests that have been selected."""
    selected = (item.callspec.params["results"] for item in request.session.items if item.path == request.path)

    def make() -> list[tuple[Job, dict[str, Any]]]:
        directory = tmp_path_factory.mktemp("jobs")
        (directory / "model").symlink_to(model_dir)
        glue_dir(directory / "data", "sst2")
        return list(run_jobs(list(dict.fromkeys(chain.from_iterable(selected))), directory).items())

    return {Job(*job): result for job, result in once("two-processes", make, tmp_path_factory)}


@pytest.fixture
def results(request: pytest.FixtureRequest, launched: dict[Job, dict[str, Any]]) -> Results:
    """The results of the jobs of one test."""
    for job in request.param:
        if "traceback" in launched[job]:
            pytest.fail(f"{job}\n{launched[job]['traceback']}", pytrace=False)
    return [launched[job] for job in request.param]


def jobs(*cases: Any, ids: list[str] | None = None) -> pytest.MarkDecorator:
    """Have a test run with the results of each of these lists of jobs."""
    return pytest.mark.parametrize("results", cases, ids=ids, indirect=True)


ACCUMULATION, CLASSIFICATION = {"gradient_accumulation_steps": 2}, {"model": "bert", "optim": "sgd_sls"}


@jobs(
    [train(1, **ACCUMULATION), train(2, **ACCUMULATION)],
    [train(1, **CLASSIFICATION), train(2, **CLASSIFICATION)],
    ids=["causal LM, accumulation", "classification"],
)
def test_two_processes_are_one_of_twice_the_batch(results: Results) -> None:
    alone, both = results
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-3)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 6


@jobs([train(2, "batchnorm")])
def test_ranks_agree_on_a_model_whose_buffers_are_broadcast(results: Results) -> None:
    (both,) = results
    assert both["counts"]["trials"] > 0


FARTHER = {"weight_decay": 0.1, "init_step_size": 0.03}
"""A start of 1e-3: along a shorter step the rounding of the loss is a larger part of its decrease."""
SHARDS = {
    "adam_sls": FARTHER,
    "sgd_sls": {"weight_decay": 0.1, "search_rate": 10.0},
    "adagrad_sls": {"weight_decay": 0.1, "search_rate": 10.0},
    "ponos": {"weight_decay": 0.1},
}


@jobs(
    *([shard(1, optim, **settings), shard(2, optim, **settings)] for optim, settings in SHARDS.items()), ids=[*SHARDS]
)
def test_shards_take_the_steps_of_whole_parameters(results: Results) -> None:
    """Plain PyTorch; a trial that saw gathered parameters of before its step would take others."""
    alone, both = results
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 5


@jobs([shard(1, ddp=True), shard(2, ddp=True)])
def test_ranks_agree_in_the_plainest_loop(results: Results) -> None:
    """`optimizer.step(closure)` under DDP, of a closure that knows its own rows only."""
    alone, both = results
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 5


CLIPPED = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}


@jobs([train(1, **CLIPPED), train(2, fsdp2=True, **CLIPPED)])
def test_the_trainer_with_fsdp2_is_one_process_of_twice_the_batch(results: Results) -> None:
    alone, both = results
    assert both["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert both["step_sizes"] == pytest.approx(alone["step_sizes"], rel=1e-4)
    assert both["counts"]["trials"] == alone["counts"]["trials"] >= 6


def moved(saving: int, loading: int) -> list[Job]:
    """Name an unbroken run, one that saves its state half-way, and one that goes on from there."""
    half = f"half-of-{saving}.pt"
    return [
        shard(loading, **FARTHER),
        shard(saving, **FARTHER, save=half),
        shard(loading, **FARTHER, load=half),
    ]


@jobs(moved(2, 1), moved(1, 2), ids=["2-1", "1-2"])
def test_a_state_moves_between_two_processes_and_one(results: Results) -> None:
    """FSDP2 on two, whole parameters on one, through torch's state-dict APIs."""
    unbroken, first, second = results
    assert first["losses"] + second["losses"] == pytest.approx(unbroken["losses"], rel=1e-5)
    assert first["step_sizes"] + second["step_sizes"] == pytest.approx(unbroken["step_sizes"], rel=1e-4)
    assert second["counts"]["trials"] == unbroken["counts"]["trials"]


def resumed(saving: int, loading: int) -> list[Job]:
    """Name an unbroken run of the Trainer, one that saves a checkpoint half-way, and one that resumes from it."""
    saved = f"saved-by-{saving}"
    return [
        train(loading),
        train(saving, output_dir=saved, save_strategy="steps", save_steps=3),
        train(loading, resume_from=f"{saved}/checkpoint-3"),
    ]


@jobs(resumed(2, 1), resumed(1, 2), ids=["2-1", "1-2"])
def test_a_checkpoint_of_the_trainer_moves_too(results: Results) -> None:
    unbroken, _, second = results
    assert second["losses"] == pytest.approx(unbroken["losses"], rel=1e-5)
    assert second["step_sizes"] == pytest.approx(unbroken["step_sizes"], rel=1e-3)
    assert second["counts"]["trials"] == unbroken["counts"]["trials"]


@jobs(
    [
        train(2, output_dir="sharded", fsdp2=True, save_strategy="steps", save_steps=3),
        train(2, fsdp2=True, resume_from="sharded/checkpoint-3"),
    ]
)
def test_the_trainer_with_fsdp2_resumes_from_its_checkpoint(results: Results) -> None:
    unbroken, second = results
    assert second["losses"] == unbroken["losses"]
    assert second["step_sizes"] == unbroken["step_sizes"]
    assert second["counts"] == unbroken["counts"]


@jobs([script("a", 3), script("b", 2), script("b", 3, resume_from_checkpoint=True)])
def test_the_script_without_a_trainer_resumes_too(results: Results) -> None:
    unbroken, first, second = (result["history"] for result in results)
    assert len(unbroken) == 3
    assert first == unbroken[:2]
    assert second == unbroken


@jobs([train(2, rows=27, max_steps=10, **ACCUMULATION)])
def test_ranks_agree_on_uneven_last_batches(results: Results) -> None:
    (both,) = results
    assert both["counts"]["steps"] == 10
    assert both["counts"]["trials"] >= 10


@jobs([train(2, broken="loss")])
def test_a_rank_that_breaks_stops_all_and_hangs_none(results: Results) -> None:
    (both,) = results
    assert both["counts"]["steps"] == 6
    assert both["counts"]["skipped_steps"] == 1  # a look back that breaks says nothing, and its step is taken


@jobs([train(2, broken="trial")])
def test_a_trial_that_fails_on_one_rank_ends_on_all(results: Results) -> None:
    """The rank that failed catches its exception, and so would keep the other waiting."""
    (both,) = results
    assert both["error"] == "The loss could not be evaluated on process 1: the table of prices has no row for today"
    assert both["counts"]["steps"] == 2


@jobs([train(2, broken="trial", auto_find_batch_size=True)])
def test_all_ranks_find_a_batch_size_that_fits_each(results: Results) -> None:
    (both,) = results
    assert both["error"] is None
    assert both["counts"]["steps"] == 6
