"""Texts to fine-tune a language model on: local files or a data set on the Hub, checked before a model is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from training_script import check_counts

SAMPLE = Path(__file__).parent / "shakespeare_sample"
_BUILDERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_LAYOUTS = (("messages",), ("conversations",), ("prompt", "completion"), ("input_ids",))
"""The columns of a row in TRL, beside those of a plain text."""


@dataclass
class DataArguments:
    """Which texts to fine-tune on."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hub; without it and train_file, the Shakespeare sample."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of the data set to train on."})
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split of the data set to evaluate on; by default part of the training rows."}
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "File to train on: .txt with a blank line between two texts, .json, .jsonl or .parquet."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "File to evaluate on; by default part of the training rows."}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Fraction of the training rows to evaluate on instead, if nothing else is named for that."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples, the first ones."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on this many examples, the first ones."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Directory for the downloads of the data set."})

    def __post_init__(self) -> None:
        if self.dataset_name is None and self.train_file is None and self.validation_file is None:
            self.train_file, self.validation_file = str(SAMPLE / "train.txt"), str(SAMPLE / "validation.txt")
        if (self.dataset_name is None) == (self.train_file is None):
            raise ValueError(
                f"dataset_name={self.dataset_name!r} and train_file={self.train_file!r}: one of them is needed, and "
                "one only."
            )
        if self.dataset_name is not None and self.validation_file is not None:
            raise ValueError(
                f"validation_file={self.validation_file!r} needs a train_file; dataset_test_split names the split of "
                "dataset_name to evaluate on."
            )
        for name in ("train_file", "validation_file"):
            _check_file(name, getattr(self, name))
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not allowed: a number between 0 and 1 is needed. "
                "--no_do_eval trains on all rows."
            )
        check_counts(self, "max_train_samples", "max_eval_samples")

    @property
    def name(self) -> str:
        """The name of the data on the model card."""
        if self.dataset_name is not None:
            return self.dataset_name
        return SAMPLE.name if self.train_file == str(SAMPLE / "train.txt") else Path(str(self.train_file)).name


def load_texts(
    arguments: DataArguments, text_column: str, evaluate: bool
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Load and check the rows to train and to evaluate on.

    Args:
        arguments: what to load.
        text_column: the column of a plain text.
        evaluate: whether rows to evaluate on are needed.

    Returns:
        The rows to train on, and those to evaluate on or `None`. Where nothing is named for the evaluation, it gets
        `validation_fraction` of the training rows, the same ones whatever the seed of the run.

    Raises:
        ConnectionError: the Hub cannot be reached.
        ValueError: a split is missing, empty or unreadable, or lacks the columns of a text.
    """
    if arguments.dataset_name is not None:
        source = _from_the_hub(arguments)
        train, test = _split(source, arguments.dataset_train_split, "dataset_train_split"), None
        if evaluate and arguments.dataset_test_split is not None:
            test = _split(source, arguments.dataset_test_split, "dataset_test_split")
    else:
        train, test = _read(str(arguments.train_file), text_column, arguments.cache_dir), None
        if evaluate and arguments.validation_file is not None:
            test = _read(arguments.validation_file, text_column, arguments.cache_dir)
    _check("training", train, text_column)
    if evaluate and test is None:
        if len(train) < 2:
            raise ValueError(
                f"{arguments.name} has one row, and an evaluation needs another: name a validation_file or a "
                "dataset_test_split, or set --no_do_eval."
            )
        parts = train.train_test_split(test_size=max(round(arguments.validation_fraction * len(train)), 1), seed=0)
        train, test = parts["train"], parts["test"]
    if test is not None:
        _check("evaluation", test, text_column)
        test = _first(test, arguments.max_eval_samples)
    return _first(train, arguments.max_train_samples), test


def _check_file(argument: str, name: str | None) -> None:
    if name is None:
        return
    if Path(name).suffix not in _BUILDERS:
        raise ValueError(f"{argument}={name!r} is not allowed: a file that ends in {', '.join(_BUILDERS)} is needed.")
    if not Path(name).is_file():
        raise FileNotFoundError(f"{argument}={name!r} is not a file.")


def _from_the_hub(arguments: DataArguments) -> datasets.DatasetDict:
    try:
        return datasets.load_dataset(arguments.dataset_name, arguments.dataset_config, cache_dir=arguments.cache_dir)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise ConnectionError(
            f"dataset_name={arguments.dataset_name!r} cannot be fetched from the Hub: {error} Without it, train_file "
            f"takes a file ({', '.join(_BUILDERS)})."
        ) from error


def _split(source: datasets.DatasetDict, name: str, argument: str) -> datasets.Dataset:
    if name not in source:
        raise ValueError(f"{argument}={name!r} is not a split of the data set; it has {', '.join(map(repr, source))}.")
    return source[name]


def _read(name: str, text_column: str, cache_dir: str | None) -> datasets.Dataset:
    builder = _BUILDERS[Path(name).suffix]
    try:
        if builder == "text":
            texts = re.split(r"\n\s*\n", Path(name).read_text(encoding="utf-8"))
            return datasets.Dataset.from_dict({text_column: [text.strip() for text in texts if text.strip()]})
        return datasets.load_dataset(builder, data_files=name, split="train", cache_dir=cache_dir)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{name} is empty or cannot be read as {builder}: {error.__cause__ or error}") from error


def _check(which: str, rows: datasets.Dataset, text_column: str) -> None:
    if len(rows) == 0:
        raise ValueError(f"There are no {which} rows.")
    layouts = ((text_column,), *_LAYOUTS)
    if not any(set(layout) <= set(rows.column_names) for layout in layouts):
        raise ValueError(
            f"The {which} rows have the columns {', '.join(map(repr, rows.column_names))}; needed are "
            f"{' or '.join(' and '.join(map(repr, layout)) for layout in layouts)}. Another name for the column of a "
            "text goes into dataset_text_field."
        )
    if text_column in rows.column_names:
        strange = next((i for i, text in enumerate(rows[text_column]) if not (isinstance(text, str) and text)), None)
        if strange is not None:
            raise ValueError(
                f"Row {strange} of the {which} rows has {rows[strange][text_column]!r} in {text_column!r}; a text is "
                "needed."
            )


def _first(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    return rows if count is None else rows.select(range(min(count, len(rows))))
