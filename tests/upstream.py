"""A pytest plugin: the tests of transformers for its Trainer, run on `SLSTrainer`.

    git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers
    python -m pytest -c /dev/null -p tests.upstream transformers/tests/trainer
    HF_SLS_OPTIM=adam_sls python -m pytest -c /dev/null -p tests.upstream transformers/tests/trainer

The second line keeps the optimizers that the tests name or default to, the third puts a line search in the place of the
default one. Without the plugin the same command tests the stock Trainer, for a comparison.
"""

from __future__ import annotations

import os
from typing import Any

import transformers.trainer
from transformers import Seq2SeqTrainer, TrainingArguments

from hf_sls import LineSearchTrainerMixin, SLSTrainer


class SLSSeq2SeqTrainer(LineSearchTrainerMixin, Seq2SeqTrainer):
    """The mixin on the other trainer that the tests use."""


def pytest_configure() -> None:
    """Put the line-search trainers in the place of the stock ones, before the tests import them."""
    transformers.trainer.Trainer = SLSTrainer
    transformers.Trainer = SLSTrainer
    transformers.Seq2SeqTrainer = SLSSeq2SeqTrainer

    if (optim := os.environ.get("HF_SLS_OPTIM")) is not None:
        stock_default = TrainingArguments.__dataclass_fields__["optim"].default
        stock_post_init = TrainingArguments.__post_init__

        def with_line_search(self: Any) -> None:
            """Put the line search in the place of the default, whether it was named or not."""
            if self.optim == stock_default:
                self.optim = optim
            stock_post_init(self)

        TrainingArguments.__post_init__ = with_line_search
