"""Several processes end together when training fails on one of them.

A process that fails leaves the others waiting in their next collective call. So it writes a sentence into the store of
the process group. A thread of every other process looks there once a second, which costs no collective call.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from threading import Event, Thread

import torch
import torch.distributed
from accelerate.utils.memory import should_reduce_batch_size
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from .optim.sharding import are_several_processes

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0
"""How long a process has to fail or finish by itself after another one failed."""

_ENDED, _STARTS_AGAIN = "ended", "starts again"

_numbers = count()


class ProcessFailedError(RuntimeError):
    """Training ended because it failed on one of several processes.

    Args:
        process: the rank of the process that failed first.
        cause: type and message of its exception, and what to do about it.
    """

    def __init__(self, process: int, cause: str) -> None:
        # Two arguments: `auto_find_batch_size` starts again after "out of memory" in an exception's only argument.
        super().__init__(process, cause)
        self.process, self.cause = process, cause

    def __str__(self) -> str:
        return f"Training failed on process {self.process}: {self.cause}"


@contextmanager
def ending_together(auto_find_batch_size: bool = False) -> Iterator[None]:
    """End the block on all processes if it raises an `Exception` on one. Every process has to enter it.

    The process that failed raises its own exception. Another process that is still in the block five seconds later is
    taken to wait in a collective call. No backend but NCCL can break that off, so the process prints the sentence of
    the first failure to stderr and exits with code 1, as under NCCL's own watchdog. Where there is one process, or the
    process group has no store (MPI), nothing is added.

    Args:
        auto_find_batch_size: whether the caller starts again with a smaller batch after "out of memory". Then the
            exception goes to the caller only if all processes run out of memory within five seconds.

    Raises:
        ProcessFailedError: a collective call failed because another process had ended, or this process ran out of
            memory under `auto_find_batch_size` and another one did not.
    """
    store = _get_default_store() if are_several_processes() else None
    if store is None:
        yield
        return
    board = _join(store)
    left = Event()
    watch = Thread(target=_exit_with_the_others, args=(board, left), name="hf_sls-processes", daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        left.set()
        failure = board.report(error, auto_find_batch_size and should_reduce_batch_size(error))
        if failure is not None:
            raise failure from error
        raise
    finally:
        left.set()
        watch.join(timeout=_POLL_SECONDS)


def _join(store: Store) -> _Board:
    """Join the first block that this process has not joined yet and that has not failed already.

    Blocks are counted on each process. One that a process entered alone, to fail there, has failed when the others come
    to its number: they leave that number out, and all are in step again.
    """
    while True:
        board = _Board(PrefixStore(f"hf_sls/training/{next(_numbers)}", store))
        if board.first_failure() is None:
            board.join()
            return board


class _Board:
    """What the processes tell each other about one block, in a key-value store.

    Args:
        store: a store that all processes share, empty at first.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rank = torch.distributed.get_rank()
        self._world_size = torch.distributed.get_world_size()
        self._seen: ProcessFailedError | None = None

    def join(self) -> None:
        """Count this process among those that are, or were, in the block."""
        self._store.set(f"joined {self._rank}", "")

    def first_failure(self) -> ProcessFailedError | None:
        """Return the failure that ended the block for all processes; `None` while there is none."""
        if self._seen is None and self._store.check(["outcome"]):
            self._seen = _failure(self._store.get("outcome").decode())
        return self._seen

    def report(self, error: Exception, starts_again: bool) -> ProcessFailedError | None:
        """Tell the other processes of `error`; return what to raise in its place, or `None` to raise it itself."""
        cause = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        if starts_again:
            cause = (
                f"{cause.rstrip('.')}. Set a smaller per_device_train_batch_size: auto_find_batch_size cannot start "
                "again where only some of the processes ran out of memory."
            )
        try:
            self._wait_for_all("joined")  # one that is late has to learn of this failure, not leave the block out
            if starts_again:
                self._store.set(f"out of memory {self._rank}", "")
            agreed = starts_again and self._wait_for_all("out of memory")
            outcome = _STARTS_AGAIN if agreed else f"{_ENDED} {self._rank} {cause}"
            first = _failure(self._store.compare_set("outcome", "", outcome).decode())
            if first is not None and first.process == self._rank:
                time.sleep(2 * _POLL_SECONDS)  # the others read it first, should the store end with this process
        except RuntimeError:  # the store went away with the process that kept it
            first = self._seen or ProcessFailedError(self._rank, cause)
        consequence = first is not None and first.process != self._rank and _is_of_a_collective(error)
        return first if starts_again or consequence else None

    def _wait_for_all(self, key: str) -> bool:
        """Wait until all processes have set `key`; return whether they did in time."""
        keys = [f"{key} {rank}" for rank in range(self._world_size)]
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            if self._store.check(keys):
                return True
            time.sleep(_POLL_SECONDS / 10)
        return False


def _failure(outcome: str) -> ProcessFailedError | None:
    if outcome == _STARTS_AGAIN:
        return None
    _, rank, cause = outcome.split(" ", 2)
    return ProcessFailedError(int(rank), cause)


def _is_of_a_collective(error: Exception) -> bool:
    """Return whether `error` came out of a collective call; gloo raises a plain `RuntimeError`."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def _exit_with_the_others(board: _Board, left: Event) -> None:
    """Exit from this process if another one failed and this one does not leave the block in time."""
    failure = None
    with suppress(RuntimeError):  # the store went away with the process that kept it
        while failure is None and not left.wait(_POLL_SECONDS):
            failure = board.first_failure()
    if failure is None or left.wait(_GRACE_SECONDS):
        return
    with suppress(Exception):
        sys.stdout.flush()
        rank = torch.distributed.get_rank()
        print(
            f"{failure}\nProcess {rank} did not end within {_GRACE_SECONDS:.0f} s of that, and exits.", file=sys.stderr
        )
        sys.stderr.flush()
    os._exit(1)
