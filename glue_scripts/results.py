"""Results of runs: a file with one JSON object per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RESULTS = "results.jsonl"
_NAMES = ("task", "size", "optimizer", "seed")


def read_results(path: str | Path, required: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the results in a file; a line that a full disk has cut off is left out, with a warning.

    Args:
        path: the file, or a directory with a `results.jsonl`. A file that does not exist has no results.
        required: the keys that every result must have.

    Raises:
        ValueError: a result lacks a required key. The message names its line, the run and the keys.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
        except json.JSONDecodeError as error:
            logger.warning(f"{path}, line {number} is left out: it is not JSON ({error}).")
            continue
        missing = [key for key in required if not isinstance(result, dict) or key not in result]
        if missing:
            run = ", ".join(f"{name} {result[name]}" for name in _NAMES if isinstance(result, dict) and name in result)
            raise ValueError(f"{path}, line {number} ({run or 'no name'}) lacks {', '.join(missing)}.")
        results.append(result)
    return results
