"""Where training fails on one of two gloo processes, both end, within seconds, with the sentence of the first."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.launch import ON_CPU

from .failures import failing, main

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Return what starts processes as copies of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([main.__module__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ON_CPU, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        yield context


@dataclass(frozen=True)
class Outcome:
    """How a scenario ended.

    Attributes:
        codes: exit codes of the processes; `None` for one that had not ended.
        printed: what each printed.
        failing: the process that failed.
        waiting: the other one.
        wait: seconds from the exception of the one, if it caught that, to the end of the other.
    """

    codes: list[int | None]
    printed: list[str]
    failing: int
    waiting: int
    wait: float


def outcome(context: ForkServerContext, output: Path, scenario: str) -> Outcome:
    """Run a scenario until the process that waits has ended."""
    first, other = failing(scenario), 1 - failing(scenario)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=main, args=(rank, port, output, scenario)) for rank in (0, 1)]
    for process in started:
        process.start()
    try:
        started[other].join(timeout=90)
        ended = time.time()
        started[first].join(timeout=10 if any(word in scenario for word in ("everywhere", "ends", "alone")) else 0)
        codes = [process.exitcode for process in started]
    finally:
        for process in started:
            process.kill()
            process.join()
    failed = output / "failed"
    wait = ended - failed.stat().st_mtime if failed.exists() else 0.0
    printed = [(output / f"process-{rank}.txt").read_text() for rank in (0, 1)]
    return Outcome(codes, printed, first, other, wait)


@pytest.mark.parametrize(
    "where", ["forward", *(pytest.param(where, marks=pytest.mark.long) for where in ("backward", "callback"))]
)
def test_a_process_that_fails_and_lives_on_ends_the_other(
    where: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    end = outcome(processes, tmp_path, where)
    assert "CAUGHT ValueError: no price for today" in end.printed[end.failing]
    assert end.codes[end.waiting] == 1, end.printed
    assert "Training failed on process 1: ValueError: no price for today" in end.printed[end.waiting]
    assert end.wait < 30


def test_auto_find_batch_size_does_not_start_again_alone(processes: ForkServerContext, tmp_path: Path) -> None:
    end = outcome(processes, tmp_path, "out of memory")
    sentence = "Training failed on process 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. Set a"
    assert f"CAUGHT ProcessFailedError: {sentence}" in end.printed[end.failing]
    assert end.codes[end.waiting] == 1, end.printed
    assert sentence in end.printed[end.waiting]
    assert end.wait < 30


def test_auto_find_batch_size_starts_again_on_all_processes(processes: ForkServerContext, tmp_path: Path) -> None:
    end = outcome(processes, tmp_path, "out of memory everywhere")
    assert end.codes == [0, 0], end.printed
    assert all("FINISHED 6 steps of 2 rows" in each for each in end.printed)


@pytest.mark.parametrize(
    ("scenario", "exception"),
    [
        ("forward everywhere", "ValueError: no price for today"),
        pytest.param("interrupt everywhere", "KeyboardInterrupt: stop", marks=pytest.mark.long),
    ],
)
def test_an_exception_on_all_processes_stays_what_it_is(
    scenario: str, exception: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    """Both go on training in the same process group afterwards."""
    end = outcome(processes, tmp_path, scenario)
    assert end.codes == [0, 0], end.printed
    for each in end.printed:
        assert f"CAUGHT {exception}" in each
        assert "FINISHED 6 steps" in each


def test_a_failure_of_one_process_alone_does_not_end_a_later_training(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    """One that fails before the first collective call, while the other one has not started to train."""
    end = outcome(processes, tmp_path, "alone")
    assert "CAUGHT ValueError: no price for today" in end.printed[end.failing]
    assert end.codes == [0, 0], end.printed
    assert all("FINISHED 6 steps" in each for each in end.printed)


@pytest.mark.parametrize("scenario", ["forward ends", "forward ends with the store"])
def test_a_process_that_fails_and_ends_is_named_by_the_other(
    scenario: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    end = outcome(processes, tmp_path, scenario)
    assert all(end.codes), end.printed
    assert end.printed[end.failing].rstrip().endswith("ValueError: no price for today")
    sentence = f"Training failed on process {end.failing}: ValueError: no price for today"
    assert f"ProcessFailedError: {sentence}" in end.printed[end.waiting]
