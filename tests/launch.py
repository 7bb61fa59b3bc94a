"""Run a module of the tests in a process of its own, or in several under torchrun, and read the results it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def launch(
    processes: int, module: str, *arguments: str, **options: Any
) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """Run `module`, with options of `subprocess.run`; return the JSON of its RESULT lines, and how it ended."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    finished = subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )
    lines = (line.removeprefix("RESULT ") for line in finished.stdout.splitlines() if line.startswith("RESULT "))
    return [json.loads(line) for line in lines], finished
