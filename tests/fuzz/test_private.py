"""No token and no path of the machine is in what is published, however deep it lies and whatever holds it."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

from hf_sls import SLSTrainer, SLSTrainingArguments
from hf_sls.private import public_copy, without_paths, without_secrets

from ..conftest import classification_rows, tiny_bert

SECRET = "Zq7Hn3Xw9Lk5Vt2Rb8"
"""Part of every secret below."""


@dataclasses.dataclass
class Loading:
    """Arguments of a dataclass, nested in others."""

    dtype: str = "float32"
    token: Any = None


secret_names = st.sampled_from(
    [
        *("token", "hub_token", "HF_TOKEN", "hfToken", "access_token", "accessToken", "auth_token", "bearer-token"),
        *("api_key", "apiKey", "API-KEY", "wandb_api_key", "aws_secret_access_key", "secret", "clientSecret"),
        *("password", "PGPASSWORD", "db_passwd", "credentials", "Authorization", "private_key", "X-Api-Key"),
    ]
)
plain_names = st.sampled_from(["headers", "env", "loading", "storage_options", "extra", "model", "a"])
secret_texts = st.sampled_from(
    [
        f"hf_{SECRET}AbCdEfGhIjKlMnOp",
        f"Bearer {SECRET}AbCdEf",
        f"https://someone:{SECRET}@example.org/repo.git",
        f"sk-{SECRET}AbCdEfGhIjKlMnOp",
        f"ghp_{SECRET}AbCdEfGhIjKlMnOp",
    ]
)
paths = st.sampled_from(
    [
        f"/home/{SECRET}/model",
        Path(f"/home/{SECRET}/model"),
        f"/home/{SECRET}/.cache/x.json",
        f"file:///home/{SECRET}/x",
    ]
)
harmless = st.one_of(st.none(), st.integers(), st.sampled_from(["float32", "linear"]), st.booleans())
hidden = st.one_of(
    st.dictionaries(secret_names, st.just(SECRET), min_size=1, max_size=1),
    st.builds(lambda: Loading(token=SECRET)),
    st.builds(lambda name: SimpleNamespace(**{name.replace("-", "_"): SECRET}), secret_names),
    secret_texts,
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Put something into dicts, lists and the like."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda name, value, other: {"z": other, name: value}, plain_names, inner, harmless),
            st.builds(lambda value, other: [other, value], inner, harmless),
            st.builds(lambda value, other: (value, other), inner, harmless),
            st.builds(lambda value: Loading(dtype=value), inner),
            st.builds(lambda value: SimpleNamespace(a=value), inner),
        ),
        max_leaves=3,
    )


def saved(args: Any) -> bytes:
    """Return what is in `training_args.bin`."""
    buffer = io.BytesIO()
    torch.save(args, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> SLSTrainer:
    args = SLSTrainingArguments(str(tmp_path_factory.mktemp("run")), use_cpu=True, report_to=[])
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.create_optimizer()
    return trainer


@dataclasses.dataclass
class MoreArguments(SLSTrainingArguments):
    """With fields for anything, as the arguments of TRL have them."""

    model_init_kwargs: Any = None
    hfToken: Any = None


def card_of(trainer: SLSTrainer, **settings: Any) -> str:
    directory = trainer.args.output_dir
    trainer.args = MoreArguments(directory, use_cpu=True, report_to=[], **settings)
    trainer.create_model_card()
    return (Path(directory) / "README.md").read_text(encoding="utf-8")


@given(value=nested(hidden), where=st.sampled_from(["model_init_kwargs", "hub_token", "hfToken", "beside the fields"]))
def test_saved_arguments_hold_no_secret(value: Any, where: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    args = MoreArguments(str(tmp_path_factory.getbasetemp()), use_cpu=True, report_to=[])
    setattr(args, where, value)
    assert SECRET.encode() not in saved(public_copy(args))
    assert getattr(args, where) is value


@given(value=nested(hidden))
def test_a_card_holds_no_secret(value: Any, trainer: SLSTrainer) -> None:
    assert SECRET not in card_of(trainer, model_init_kwargs=value, hfToken=SECRET)


@given(value=nested(paths))
def test_a_card_holds_no_path(value: Any, trainer: SLSTrainer) -> None:
    assert SECRET not in card_of(trainer, model_init_kwargs=value)


@given(value=nested(harmless))
def test_what_is_no_secret_is_kept(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    args = MoreArguments(str(tmp_path_factory.getbasetemp()), use_cpu=True, report_to=[], model_init_kwargs=value)
    buffer = io.BytesIO()
    torch.save(args, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert again.model_init_kwargs == value
    assert isinstance(again, TrainingArguments)


@pytest.mark.parametrize(
    "text", ["runs/hf_sls_sst2_adam_baseline", "sk-learn-baseline-features", "a basic classifier of texts", "/"]
)
def test_a_text_that_looks_a_little_like_a_secret_stays(text: str) -> None:
    assert without_secrets({"output_dir": text}) == {"output_dir": text}
    assert without_paths(text) == text


def test_an_object_may_contain_itself_or_have_slots() -> None:
    @dataclasses.dataclass(slots=True, frozen=True)
    class Slotted:
        token: str | None = "secret"

    around = SimpleNamespace(api_key="secret")
    around.itself = around
    found = without_secrets({"slotted": Slotted(), "around": around})
    assert found["around"].api_key is None
    assert found["slotted"] == Slotted(token=None)


@pytest.mark.parametrize(
    ("name", "value"), [("image_token", "<image>"), ("mask_token", "[MASK]"), ("max_token", 5), ("suffix", "/no_think")]
)
def test_a_number_a_special_token_and_a_command_stay(name: str, value: Any) -> None:
    args = SimpleNamespace(**{name: value})
    assert getattr(public_copy(args), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("my_token", "<secret"),
        ("my_token", "<a b>"),
        ("my_token", "[a1]"),
        ("api_token", "<image>"),
        ("hubToken", 123),
        ("password", 8675309),
        ("api_key", "<image>"),
        ("X-Api-Key", "[MASK]"),
        ("secret", 1),
    ],
)
def test_what_only_resembles_a_token_of_a_model_is_secret(name: str, value: Any) -> None:
    assert public_copy(SimpleNamespace(**{name: value})).__dict__ == {name: None}
