"""A pytest plugin: the trainer tests of transformers, TRL and sentence-transformers, with the mixin in front.

    git clone --depth 1 --branch v5.24.0 https://github.com/huggingface/transformers
    PYTHONPATH=tests python -m pytest -c /dev/null -p upstream transformers/tests/trainer
    PYTHONPATH=tests HF_SLS_OPTIM=adam_sls python -m pytest -c /dev/null -p upstream transformers/tests/trainer

The second line keeps the optimizers that the tests name or default to, the third puts a line search in the place of the
default one. Without the plugin the same command tests the stock trainers, for a comparison. The tests of TRL and of
sentence-transformers load models and data sets from the Hub; `stand_ins` makes small ones under the same names:

    git clone --depth 1 --branch v1.9.0 https://github.com/huggingface/trl
    git clone --depth 1 --branch v6.0.0 https://github.com/huggingface/sentence-transformers
    export PYTHONPATH=$PWD/tests HF_HUB_OFFLINE=1
    python -m pytest -c /dev/null -p stand_ins -p upstream trl/tests/test_sft_trainer.py
    cd sentence-transformers/tests
    python -m pytest -c /dev/null -m "not slow" -p stand_ins -p upstream */test_trainer.py
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from transformers import Seq2SeqTrainer, Trainer, TrainingArguments

from hf_sls import LineSearchTrainerMixin

_STOCK: list[type] = [Trainer, Seq2SeqTrainer]
if find_spec("trl"):
    from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTTrainer

    _STOCK += [SFTTrainer, DPOTrainer, RewardTrainer, KTOTrainer]
if find_spec("sentence_transformers"):
    from sentence_transformers import (
        CrossEncoderTrainer,
        MultiVectorEncoderTrainer,
        SentenceTransformerTrainer,
        SparseEncoderTrainer,
    )

    _STOCK += [SentenceTransformerTrainer, CrossEncoderTrainer, SparseEncoderTrainer, MultiVectorEncoderTrainer]


def pytest_configure() -> None:
    """Put trainers with the mixin in the place of the stock ones, before the tests import them."""
    for stock in _STOCK:
        _replace(stock, type(stock.__name__, (LineSearchTrainerMixin, stock), {"__module__": stock.__module__}))

    if (optim := os.environ.get("HF_SLS_OPTIM")) is not None:
        stock_default = TrainingArguments.__dataclass_fields__["optim"].default
        stock_post_init = TrainingArguments.__post_init__

        def with_line_search(self: Any) -> None:
            """Put the line search in the place of the default, whether it was named or not."""
            if self.optim == stock_default:
                self.optim = optim
            stock_post_init(self)

        TrainingArguments.__post_init__ = with_line_search


def _replace(stock: type, replacement: type) -> None:
    """Replace a class under its name in every module that has it."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("hf_sls") and vars(module).get(stock.__name__) is stock:
            setattr(module, stock.__name__, replacement)
