"""Run a module of the tests in processes of their own and read what it prints; share what was costly to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def once(name: str, make: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what `make` returns, which JSON can hold: of the workers of pytest-xdist one calls it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}.json"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def run(processes: int, module: str, *arguments: str, **options: Any) -> dict[str, Any]:
    """Launch what has to end well, with one result, and return that."""
    results, finished = launch(processes, module, *arguments, stderr=subprocess.PIPE, timeout=200, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    (result,) = results
    return result


def launch(
    processes: int, module: str, *arguments: str, torchrun: bool = False, on_gpu: bool = False, **options: Any
) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """Run `module`, with options of `subprocess.run`; return the JSON of its RESULT lines, and how it ended.

    Several processes, or one with `torchrun`, are those of a process group.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    finished = subprocess.run(
        [sys.executable, *(launcher if processes > 1 or torchrun else []), "-m", module, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "OMP_NUM_THREADS": "1",
            **({} if on_gpu else ON_CPU),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )
    lines = (line.removeprefix("RESULT ") for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    return [json.loads(line) for line in lines], finished
