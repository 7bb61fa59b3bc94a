"""Tiny models and data that need no download; one thread, no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_sls import SLSTrainer, SLSTrainingArguments

torch.set_num_threads(1)

settings.register_profile(
    "short", max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck
)
settings.register_profile("long", settings.get_profile("short"), max_examples=1000)
settings.load_profile("short")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the data of the slow tests, and where to put the screenshots of the site."""
    parser.addoption("--glue", help="directory with GLUE data, for the slow tests")
    parser.addoption("--screenshots", help="directory to write a screenshot of every page of the site to")


VOCABULARY = 50
WORDS = ["good", "bad", "film", "plot", "a", "the", "was", "not", 'quo"ted', "null"]


class Rows(torch.utils.data.Dataset):
    """A list of examples, as a map-style data set."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def classification_rows(count: int = 40, length: int = 8, seed: int = 0) -> Rows:
    """Sequences whose label is whether the first token is in the upper half of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, length), generator=generator)
    labels = (tokens[:, 0] >= VOCABULARY // 2).long()
    return Rows([{"input_ids": row, "labels": label} for row, label in zip(tokens, labels)])


def language_rows(count: int = 40, length: int = 8, seed: int = 0) -> Rows:
    """Sequences for a causal language model."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, length), generator=generator)
    return Rows([{"input_ids": row, "labels": row.clone()} for row in tokens])


def tiny_bert(dropout: float = 0.1, seed: int = 0, **config: Any) -> BertForSequenceClassification:
    """A BERT of two layers, 32 wide, with random weights."""
    set_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **config,
        )
    )


def tiny_gpt2(dropout: float = 0.1, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 of two layers, 32 wide, with random weights."""
    set_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., SLSTrainingArguments]:
    """Make training arguments for a short silent run; keywords override."""
    return arguments_in(tmp_path)


def arguments_in(folder: Path) -> Callable[..., SLSTrainingArguments]:
    """Return a function that makes training arguments for a short silent run in a folder; keywords override."""

    def make(cls: Any = SLSTrainingArguments, **settings: Any) -> Any:
        defaults: dict[str, Any] = {
            "output_dir": str(folder / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 1,
        }
        return cls(**{**defaults, **settings})

    return make


def losses(trainer: SLSTrainer) -> list[float]:
    """The training losses that a trainer has logged."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def step_sizes(trainer: SLSTrainer) -> list[float]:
    """The step sizes that a trainer has logged."""
    return [entry["step_size"] for entry in trainer.state.log_history if "step_size" in entry]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a tokenizer, on disk as `from_pretrained` wants it."""
    path = tmp_path_factory.mktemp("model")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", '"', *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special).save_pretrained(path)
    set_seed(0)
    config = BertConfig(
        vocab_size=6 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertForSequenceClassification(config).save_pretrained(path)
    return path


_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_language_model(path: Path) -> Path:
    """Write a Llama of two layers, 16 wide, with random weights, and a tokenizer of bytes with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=_CHATML, **special)
    fast.save_pretrained(path)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,  # each layer has a multiple of 32 outputs, as bitsandbytes needs on some CPUs
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        initializer_range=0.1,  # rows of about unit length, as in a trained model
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def language_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model with a tokenizer, on disk as `from_pretrained` wants it."""
    return write_language_model(tmp_path_factory.mktemp("language_model"))
