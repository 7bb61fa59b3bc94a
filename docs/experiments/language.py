"""A GPT-2, by default of the small size, trained from random weights on text.

    python docs/experiments/language.py --optim adam_sls
    python docs/experiments/language.py --data_path shakespeare.txt --layers 4 --width 128 --heads 4 --vocabulary 256

Takes the arguments of `TrainingArguments` beside those below, and adds the run to docs/results/experiments.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
from common import parse_arguments, run
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel


@dataclass
class TextArguments:
    """Which text."""

    dataset_name: str = field(default="Salesforce/wikitext", metadata={"help": "Text on the Hub, without data_path."})
    dataset_config: str = field(default="wikitext-2-raw-v1", metadata={"help": "Configuration of the data set."})
    data_path: str | None = field(
        default=None, metadata={"help": "A text file, compressed or not; its last tenth is held out."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many sequences."})

    def __post_init__(self) -> None:
        if self.data_path is not None:
            if not Path(self.data_path).is_file():
                raise FileNotFoundError(f"data_path={self.data_path!r} is not a file.")
            self.dataset_name, self.dataset_config = Path(self.data_path).name.split(".")[0], "local file"


@dataclass
class LanguageArguments(TextArguments):
    """How large the model is."""

    vocabulary: int = field(default=8192, metadata={"help": "Tokens of the byte-level BPE; 256 for bytes."})
    sequence_length: int = field(default=256, metadata={"help": "Tokens in a sequence."})
    layers: int = field(default=12, metadata={"help": "Blocks of the model."})
    width: int = field(default=768, metadata={"help": "Width of the model."})
    heads: int = field(default=12, metadata={"help": "Attention heads in a block."})

    def __post_init__(self) -> None:
        if self.vocabulary < 256:
            raise ValueError(f"vocabulary={self.vocabulary} is not allowed: an integer of at least 256 is needed.")
        super().__post_init__()


def load_texts(experiment: TextArguments) -> tuple[str, str]:
    """Return the text to train on and the text to evaluate on."""
    if experiment.data_path is None:
        found = datasets.load_dataset(experiment.dataset_name, experiment.dataset_config)
        return "".join(found["train"]["text"]), "".join(found["validation"]["text"])
    rows = datasets.load_dataset("text", data_files=experiment.data_path, sample_by="document", split="train")
    text = "\n".join(rows["text"])
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]


def sequences(tokens: list[int], length: int, limit: int | None, half: str) -> datasets.Dataset:
    """Return the tokens as sequences of the same length; what is left at the end is dropped.

    Raises:
        ValueError: the text is shorter than one sequence.
    """
    count = len(tokens) // length
    if count == 0:
        raise ValueError(f"sequence_length={length} is not allowed: the {half} text has {len(tokens)} tokens.")
    rows = np.array(tokens[: count * length]).reshape(count, length)[:limit]
    return datasets.Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch")


def main() -> None:
    """Run the script."""
    experiment, args = parse_arguments(
        LanguageArguments, num_train_epochs=1, per_device_train_batch_size=16, per_device_eval_batch_size=64
    )
    train_text, eval_text = load_texts(experiment)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        train_text.splitlines(keepends=True), vocab_size=experiment.vocabulary, show_progress=False
    )
    train = sequences(tokenizer.encode(train_text).ids, experiment.sequence_length, None, "training")
    test = sequences(
        tokenizer.encode(eval_text).ids, experiment.sequence_length, experiment.max_eval_samples, "evaluation"
    )

    def build_model() -> GPT2LMHeadModel:
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=tokenizer.get_vocab_size(),
                n_positions=experiment.sequence_length,
                n_layer=experiment.layers,
                n_embd=experiment.width,
                n_head=experiment.heads,
                bos_token_id=0,
                eos_token_id=0,
            )
        )

    args.prediction_loss_only = True
    run("language", asdict(experiment), args, build_model, train, test)


if __name__ == "__main__":
    main()
