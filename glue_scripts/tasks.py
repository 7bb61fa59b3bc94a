"""The nine GLUE tasks: their columns, labels, splits and official metrics, from the Hub or from local files."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

logger = logging.getLogger(__name__)

HUB_DATASET = "nyu-mll/glue"
_EXTENSIONS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}

Scores = dict[str, float]


@dataclass(frozen=True)
class Task:
    """One GLUE task.

    Attributes:
        name: name of the task in `nyu-mll/glue`.
        columns: the columns with the text, one or two.
        labels: names of the labels in the order of their ids; empty for regression.
        metric: from predictions and references, both of shape (examples,), to the official scores.
        headline: the score to show where there is room for one only.
        evaluation_splits: splits with labels to evaluate on.
        test_splits: splits without labels.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metric: Callable[[np.ndarray, np.ndarray], Scores]
    headline: str = "accuracy"
    evaluation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number."""
        return not self.labels


def _accuracy(predictions: np.ndarray, references: np.ndarray) -> Scores:
    return {"accuracy": float(accuracy_score(references, predictions))}


def _accuracy_and_f1(predictions: np.ndarray, references: np.ndarray) -> Scores:
    return {**_accuracy(predictions, references), "f1": float(f1_score(references, predictions))}


def _matthews(predictions: np.ndarray, references: np.ndarray) -> Scores:
    return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


def _correlations(predictions: np.ndarray, references: np.ndarray) -> Scores:
    return {
        "pearson": float(pearsonr(predictions, references)[0]),
        "spearmanr": float(spearmanr(predictions, references)[0]),
    }


_ENTAILMENT = ("entailment", "not_entailment")
_PARAPHRASE = ("not_equivalent", "equivalent")

TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), _matthews, "matthews_correlation"),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            _accuracy,
            evaluation_splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
        ),
        Task("mrpc", ("sentence1", "sentence2"), _PARAPHRASE, _accuracy_and_f1),
        Task("qnli", ("question", "sentence"), _ENTAILMENT, _accuracy),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _accuracy_and_f1),
        Task("rte", ("sentence1", "sentence2"), _ENTAILMENT, _accuracy),
        Task("sst2", ("sentence",), ("negative", "positive"), _accuracy),
        Task("stsb", ("sentence1", "sentence2"), (), _correlations, "pearson"),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), _accuracy),
    )
}


def get_task(name: str) -> Task:
    """Return the task with a given name.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"task_name={name!r} is not a GLUE task; the tasks are {', '.join(TASKS)}.")
    return TASKS[name]


def load_task(
    task: Task, data_dir: str | None, splits: list[str], cache_dir: str | None = None
) -> datasets.DatasetDict:
    """Load and check splits of a task, from the Hub or from files.

    Args:
        task: the task.
        data_dir: directory with a file `<split>.<extension>` for each split; `None` for the Hub. The format is parquet,
            csv, json (one object per line) or tsv (tab-separated, without quoting, as GLUE is distributed). Labels are
            ids or names.
        splits: names of the splits. The second of two evaluation or test splits may be missing.
        cache_dir: directory for downloads.

    Returns:
        The splits with the text columns and, except for test splits, the ids or numbers in `label`.

    Raises:
        ConnectionError: the Hub cannot be reached.
        FileNotFoundError: `data_dir` or the file of a split is missing.
        ValueError: a column is missing, a split is empty, or its labels are not those of the task.
    """
    if data_dir is None:
        try:
            found = datasets.load_dataset(HUB_DATASET, task.name, cache_dir=cache_dir)
        except ConnectionError as error:
            raise ConnectionError(
                f"{HUB_DATASET} cannot be fetched from the Hub: {error} Without it, data_dir takes a directory with "
                f"train and {task.evaluation_splits[0]} files (parquet, csv, json, tsv) that have the columns "
                f"{', '.join(task.columns)}, label."
            ) from error
        loaded = {split: found[split] for split in splits}
    else:
        files = {split: _find_file(Path(data_dir), split) for split in splits}
        optional = (*task.evaluation_splits[1:], *task.test_splits[1:])
        for split, path in files.items():
            if path is None and split not in optional:
                names = ", ".join(split + extension for extension in _EXTENSIONS)
                raise FileNotFoundError(
                    f"data_dir={data_dir!r} has no split {split!r} of {task.name}: none of {names}."
                )
        loaded = {split: _read(path, cache_dir) for split, path in files.items() if path is not None}
    return datasets.DatasetDict({split: _checked(task, split, rows) for split, rows in loaded.items()})


def _find_file(data_dir: Path, split: str) -> Path | None:
    if not data_dir.is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a directory.")
    paths = (data_dir / (split + extension) for extension in _EXTENSIONS)
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path, cache_dir: str | None) -> datasets.Dataset:
    settings: dict[str, Any] = {}
    if path.suffix in (".csv", ".tsv"):
        settings["keep_default_na"] = False
    if path.suffix == ".tsv":
        settings.update(sep="\t", quoting=csv.QUOTE_NONE)
    builder = _EXTENSIONS[path.suffix]
    source = {"data_files": str(path), "split": "train", "cache_dir": cache_dir}
    try:
        return datasets.load_dataset(builder, **source, **settings)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{path} is empty or cannot be read as {builder}: {error.__cause__ or error}") from error


def _checked(task: Task, split: str, rows: datasets.Dataset) -> datasets.Dataset:
    """Check one split, and convert its labels to ids, or to floats for regression."""
    is_test = split in task.test_splits
    needed = [*task.columns, *([] if is_test else ["label"])]
    missing = [column for column in needed if column not in rows.column_names]
    if missing:
        raise ValueError(
            f"Split {split!r} of {task.name} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, rows.column_names))} and needs {', '.join(map(repr, needed))}."
        )
    if len(rows) == 0:
        raise ValueError(f"Split {split!r} of {task.name} is empty.")
    if is_test:
        return rows.select_columns(list(task.columns))
    rows = rows.select_columns(needed)
    if task.is_regression:
        return _with_labels(rows, [_number(task, split, label) for label in rows["label"]], datasets.Value("float32"))
    ids: dict[Any, int] = {name: i for i, name in enumerate(task.labels)}
    ids.update({i: i for i in range(len(task.labels))})
    strange = sorted({repr(label) for label in rows["label"]} - {repr(label) for label in ids})
    if strange:
        raise ValueError(
            f"Split {split!r} of {task.name} has labels {', '.join(strange[:5])}; {task.name} has "
            f"{', '.join(f'{i} ({name})' for i, name in enumerate(task.labels))}."
        )
    names = datasets.ClassLabel(names=list(task.labels))
    return _with_labels(rows, [ids[label] for label in rows["label"]], names)


def _with_labels(rows: datasets.Dataset, labels: list[Any], feature: Any) -> datasets.Dataset:
    return rows.remove_columns("label").add_column("label", labels).cast_column("label", feature)


def _number(task: Task, split: str, label: Any) -> float:
    try:
        return float(label)
    except (TypeError, ValueError):
        raise ValueError(f"Split {split!r} of {task.name} has the label {label!r}; a number is needed.") from None


def official_metric(task: Task, cache_dir: str | None = None) -> Callable[[np.ndarray, np.ndarray], Scores]:
    """Return the GLUE metric of `evaluate`, or an equal one computed here if it cannot be fetched."""
    try:
        metric = evaluate.load("glue", task.name, cache_dir=cache_dir)
    except OSError as error:
        logger.info(f"The scores are computed here: evaluate's GLUE metric, which is the same, is missing ({error})")
        return task.metric

    def compute(predictions: np.ndarray, references: np.ndarray) -> Scores:
        scores: Scores = metric.compute(predictions=predictions, references=references)
        return scores

    return compute
