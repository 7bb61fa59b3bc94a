"""Where training fails on one of two gloo processes, both end, within seconds, with the sentence of the first."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.launch import ON_CPU

from .failures import FAILING, main

WAITING = 1 - FAILING


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Return what starts processes as copies of one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([main.__module__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ON_CPU, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        yield context


def outcome(context: ForkServerContext, output: Path, scenario: str) -> tuple[list[int | None], list[str], float]:
    """Run a scenario until the process that waits has ended; return exit codes, what each printed, and the wait.

    A process that has not ended has no exit code.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=main, args=(rank, port, output, scenario)) for rank in (0, 1)]
    for process in started:
        process.start()
    try:
        started[WAITING].join(timeout=90)
        ended = time.time()
        started[FAILING].join(timeout=10 if "everywhere" in scenario or "ends" in scenario else 0)
        codes = [process.exitcode for process in started]
    finally:
        for process in started:
            process.kill()
            process.join()
    failed = output / "failed"
    wait = ended - failed.stat().st_mtime if failed.exists() else 0.0
    return codes, [(output / f"process-{rank}.txt").read_text() for rank in (0, 1)], wait


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["forward", "backward", "callback"])
def test_a_process_that_fails_and_lives_on_ends_the_other(
    where: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    codes, printed, wait = outcome(processes, tmp_path, where)
    assert "CAUGHT ValueError: no price for today" in printed[FAILING]
    assert codes[WAITING] == 1, printed[WAITING]
    assert f"Training failed on process {FAILING}: ValueError: no price for today" in printed[WAITING]
    assert wait < 20


@pytest.mark.timeout(120)
def test_auto_find_batch_size_does_not_start_again_alone(processes: ForkServerContext, tmp_path: Path) -> None:
    codes, printed, wait = outcome(processes, tmp_path, "out of memory")
    sentence = f"Training failed on process {FAILING}: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert f"CAUGHT ProcessFailedError: {sentence}. Set a smaller per_device_train_batch_size" in printed[FAILING]
    assert codes[WAITING] == 1, printed[WAITING]
    assert sentence in printed[WAITING]
    assert wait < 20


@pytest.mark.timeout(120)
def test_auto_find_batch_size_starts_again_on_all_processes(processes: ForkServerContext, tmp_path: Path) -> None:
    codes, printed, _ = outcome(processes, tmp_path, "out of memory everywhere")
    assert codes == [0, 0], printed
    assert all("FINISHED 6 steps of 2 rows" in each for each in printed)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("scenario", "exception"),
    [("forward everywhere", "ValueError: no price for today"), ("interrupt everywhere", "KeyboardInterrupt: stop")],
)
def test_an_exception_on_all_processes_stays_what_it_is(
    scenario: str, exception: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    """Both go on training in the same process group afterwards."""
    codes, printed, _ = outcome(processes, tmp_path, scenario)
    assert codes == [0, 0], printed
    for each in printed:
        assert f"CAUGHT {exception}" in each
        assert "FINISHED 6 steps" in each


@pytest.mark.timeout(120)
def test_a_process_that_fails_and_ends_is_named_by_the_other(processes: ForkServerContext, tmp_path: Path) -> None:
    codes, printed, _ = outcome(processes, tmp_path, "forward ends")
    assert all(codes), printed
    assert printed[FAILING].splitlines()[-1] == "ValueError: no price for today"
    assert f"Training failed on process {FAILING}: ValueError: no price for today" in printed[WAITING]
