"""GLUE tasks as files of a few made-up examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tasks

from .conftest import WORDS

SCRIPTS = Path(__file__).parent.parent / "glue_scripts"


def rows(task: tasks.Task, count: int = 12, named: bool = False) -> dict[str, list[Any]]:
    """Examples whose label can be read off the first word."""
    generator = np.random.default_rng(0)
    classes = len(task.labels) or 6
    ids = [i % classes for i in range(count)]
    columns: dict[str, list[Any]] = {
        column: [f"{WORDS[i]} {' '.join(generator.choice(WORDS, 3))}" for i in ids] for column in task.columns
    }
    if task.is_regression:
        return {**columns, "label": [float(i) for i in ids]}
    return {**columns, "label": [task.labels[i] if named else i for i in ids]}


def write(path: Path, content: dict[str, list[Any]]) -> None:
    """Write a split in the format of its extension."""
    table = datasets.Dataset.from_dict(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        lines = ["\t".join(content), *("\t".join(map(str, row)) for row in zip(*content.values()))]
        path.write_text("\n".join(lines) + "\n")
    else:
        table.to_json(path)


def glue_dir(path: Path, task_name: str, extension: str = ".parquet", named: bool = False) -> Path:
    """Write all splits of a task."""
    task = tasks.TASKS[task_name]
    for split in ("train", *task.evaluation_splits, *task.test_splits):
        content = rows(task, named=named)
        if split in task.test_splits:
            content["label"] = [-1] * len(content["label"])
        write(path / (split + extension), content)
    return path
