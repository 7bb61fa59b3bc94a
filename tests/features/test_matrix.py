"""Each feature and each pair that can be in one run takes the steps of one process with the same global batch.

    pytest -m long tests/features
    CUDA_VISIBLE_DEVICES=0 pytest -m long tests/features -k "not DDP and not FSDP2"

The second line has the runs of one process on a GPU, with fp16 among the features.

A pair with an engine feature is compared with the run without it, a pair of workload features with the same run in
micro-batches, where that is the same run. Larger combinations are drawn at random.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.launch import launch

from .cases import ENGINES, FEATURES, combines, is_sharded, processes, singles_and_pairs

Names = tuple[str, ...]

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def reference(names: Names) -> Names:
    """Return the features of the run to compare with: the same work, by one process and in one piece."""
    return tuple(name for name in names if name not in ENGINES)


def compared(names: Names) -> Names:
    """Return the features of the run to compare: with no engine in them, cut in micro-batches where that may be."""
    if names != reference(names):
        return names
    return cut if combines(cut := (*names, "accumulation")) else names


def drawn(count: int) -> list[Names]:
    """Return combinations of three to six features, drawn at random."""
    generator, found = random.Random(0), set()
    while len(found) < count:
        names = tuple(sorted(generator.sample(sorted(FEATURES), generator.randint(3, 6))))
        if "plain" not in names and combines(names):
            found.add(names)
    return sorted(found)


COMBINATIONS = [*singles_and_pairs(), *drawn(100)]
RUNS = sorted({run for names in COMBINATIONS for run in (reference(names), compared(names))})


@cache
def results(count: int, sharded: bool, directory: Path) -> dict[Names, dict[str, Any]]:
    """Run everything that needs so many processes, in a launch for each that the cores have room for."""
    runs = [names for names in RUNS if processes(names) == count and is_sharded(names) == sharded]
    launches = max(1, min(16, os.cpu_count() or 1) // count)

    def share(number: int) -> list[dict[str, Any]]:
        own = json.dumps(runs[number::launches])
        found, _ = launch(count, "tests.features.worker", own, str(directory / str(number)), on_gpu=count == 1)
        return found

    with ThreadPoolExecutor(launches) as pool:
        found = itertools.chain.from_iterable(pool.map(share, range(launches)))
        return {tuple(result.pop("names")): result for result in found}


@pytest.mark.parametrize("names", COMBINATIONS, ids=" + ".join)
def test_a_run_takes_the_steps_of_one_process(names: Names, tmp_path_factory: pytest.TempPathFactory) -> None:
    def result(run: Names) -> dict[str, Any]:
        base = tmp_path_factory.getbasetemp() / f"runs-{processes(run)}-{is_sharded(run)}"
        found = results(processes(run), is_sharded(run), base).get(run, {"error": "the launch broke off before it"})
        assert "error" not in found, found["error"]
        return found

    expected, found = result(reference(names)), result(compared(names))
    rough = any(FEATURES[name].rough for name in names)
    tolerance = 6e-2 if rough else 1e-5 if all(FEATURES[name].precise for name in names) else 3e-2
    assert found["losses"] == pytest.approx(expected["losses"], rel=tolerance)
    if not rough:
        assert found["step_sizes"] == pytest.approx(expected["step_sizes"], rel=tolerance)
        assert found["counts"]["trials"] == expected["counts"]["trials"] >= 4
