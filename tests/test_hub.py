"""Pushing to the Hub with the real client against a stand-in on loopback: what arrives, what does not, what breaks."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import run_glue
import torch
import transformers
from huggingface_hub import ModelCard
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_sls import HubError, LineSearchTrainerMixin, SLSTrainer, SLSTrainingArguments
from hf_sls.model_card import arguments_snippet, changed_settings

from .conftest import classification_rows, losses, tiny_bert
from .glue import SCRIPTS, glue_dir
from .hub import READER, STRANGER, WRITER, Hub

REPO = "alice/tiny"
CAN_ASK_FOR_WRITING = "write" in inspect.signature(huggingface_hub.auth_check).parameters


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this process talks to, as with HF_ENDPOINT, which is read on import."""
    with Hub().serving() as server:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield server


@pytest.fixture
def trained(arguments: Any) -> Callable[..., SLSTrainer]:
    """Train a tiny BERT that is to be pushed."""

    def train(**settings: Any) -> SLSTrainer:
        args = arguments(**{"push_to_hub": True, "hub_model_id": REPO, "eval_strategy": "steps", **settings})
        rows = classification_rows(12)
        trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        return trainer

    return train


def environment(hub: Hub, token: str = WRITER) -> dict[str, str]:
    """The environment of a process that talks to the Hub."""
    ours = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    path = os.pathsep.join(filter(None, [str(SCRIPTS.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **ours, "HF_EVALUATE_OFFLINE": "1", "PYTHONPATH": path}


def test_what_arrives(hub: Hub, trained: Any) -> None:
    trainer = trained()
    trainer.push_to_hub()
    files = hub.files(REPO)
    assert set(files) == {"README.md", "config.json", "model.safetensors", "run.png", "training_args.bin"}
    assert hub.messages(REPO) == ["End of training"]
    for name, content in files.items():
        assert (Path(trainer.args.output_dir) / name).read_bytes() == content


CHECKPOINTS = {
    "end": set(),
    "every_save": set(),
    "checkpoint": {"last-checkpoint"},
    "all_checkpoints": {"checkpoint-2"},
}


@pytest.mark.parametrize("strategy", CHECKPOINTS)
def test_the_optimizer_leaves_only_when_asked(strategy: str, hub: Hub, trained: Any) -> None:
    trainer = trained(hub_strategy=strategy, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.push_to_hub()
    assert (Path(trainer.args.output_dir) / "checkpoint-2" / "optimizer.pt").is_file()
    with_state = {path for path in hub.files(REPO) if path.endswith(("optimizer.pt", "scheduler.pt", ".pth"))}
    assert {path.split("/")[0] for path in with_state} == CHECKPOINTS[strategy]
    assert ("Training in progress, step 2" in hub.messages(REPO)) == (strategy != "end")


def test_a_token_in_the_arguments_does_not_leave(hub: Hub, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    trainer = trained(hub_token=WRITER)
    trainer.push_to_hub()
    assert "training_args.bin" in hub.files(REPO)
    assert not [path for path, content in hub.files(REPO).items() if WRITER.encode() in content]


@dataclass
class OwnArguments(SLSTrainingArguments):
    """Arguments of a user, with secrets of their own."""

    api_key: str | None = None
    model_init_kwargs: dict[str, Any] | None = None


@dataclass
class OwnStockArguments(TrainingArguments):
    """The same without this package."""

    api_key: str | None = None
    model_init_kwargs: dict[str, Any] | None = None


class WaitForPushes(TrainerCallback):
    """Lets a push that runs beside the training end before the next step overwrites what it uploads."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if getattr(self._trainer, "push_in_progress", None) is not None:
            self._trainer.push_in_progress.wait_until_done()


@pytest.mark.parametrize(
    ("adapter", "arguments_class", "optim"),
    [
        (False, OwnArguments, "adam_sls"),
        (True, OwnArguments, "adam_sls"),
        (False, OwnStockArguments, "adam_sls"),
        (False, OwnStockArguments, "adamw_torch"),
    ],
    ids=["model", "adapter", "stock arguments", "stock optimizer"],
)
def test_no_secret_and_no_path_leaves_in_any_push(
    adapter: bool, arguments_class: Any, optim: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training and at the end: the arguments, the state of the Trainer, the card and what TensorBoard writes."""
    monkeypatch.delenv("HF_TOKEN")
    home = tmp_path / "someone"
    tiny_bert().save_pretrained(home / "model")
    model = BertForSequenceClassification.from_pretrained(home / "model")
    if adapter:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))

    args = arguments_class(
        output_dir=str(home / "out"),
        optim=optim,
        use_cpu=True,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        push_to_hub=True,
        hub_model_id=REPO,
        hub_token=WRITER,
        hub_strategy="all_checkpoints",
        hub_always_push=True,
        report_to=["tensorboard"] if find_spec("tensorboard") else [],
        api_key="secret-1",
        model_init_kwargs={"token": "secret-2"},
    )
    rows = classification_rows(8)
    trainer = SLSTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows)
    trainer.add_callback(WaitForPushes(trainer))
    trainer.train()
    trainer.save_state()
    trainer.push_to_hub()

    commits = hub.repositories[REPO].commits
    in_training = {"Training in progress, step 1", "Training in progress, step 1, checkpoint"}
    assert in_training | {"End of training"} <= set(hub.messages(REPO))
    assert {"trainer_state.json", "checkpoint-1/trainer_state.json", "checkpoint-1/training_args.bin"} <= set(
        commits[-1].files
    )
    private = re.compile(rb"secret-\d|someone|" + WRITER.encode())
    found = {path for commit in commits for path, file in commit.files.items() if private.search(file.content)}
    assert not found
    assert (args.hub_token, args.api_key, args.model_init_kwargs) == (WRITER, "secret-1", {"token": "secret-2"})
    assert trainer.args is args


def test_a_run_whose_checkpoints_were_pushed_finds_the_best_one_again(
    hub: Hub, arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(
        push_to_hub=True,
        hub_model_id=REPO,
        hub_strategy="checkpoint",
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so the first checkpoint is the best
    )
    rows = classification_rows(8)
    for checkpoint in (None, str(Path(args.output_dir, "checkpoint-2"))):
        trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=rows, eval_dataset=rows)
        trainer.train(resume_from_checkpoint=checkpoint)
        best = Path(args.output_dir, "checkpoint-1")
        assert trainer.state.best_model_checkpoint == str(best)
        expected = BertForSequenceClassification.from_pretrained(best).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.model.state_dict().items())
    assert json.loads((best.with_name("checkpoint-2") / "trainer_state.json").read_text())["best_global_step"] == 1
    assert "does not exist" not in caplog.text


def test_the_checkpoints_of_a_search_do_not_leave(hub: Hub, arguments: Any) -> None:
    pytest.importorskip("optuna")
    args = arguments(push_to_hub=True, hub_model_id=REPO, save_strategy="steps", save_steps=1, eval_strategy="steps")
    rows = classification_rows(12)
    trainer = SLSTrainer(args=args, model_init=lambda trial: tiny_bert(), train_dataset=rows, eval_dataset=rows)
    trainer.hyperparameter_search(lambda trial: {}, n_trials=1, backend="optuna")
    assert list(Path(args.output_dir).glob("run-*/checkpoint-*/optimizer.pt"))
    trainer.train()
    with pytest.raises(HubError, match=r"the push would include .*run-\d+/checkpoint-\d(.|\n)*hf upload alice/tiny"):
        trainer.push_to_hub()
    assert hub.files(REPO) == {}
    assert Path(args.output_dir, "model.safetensors").is_file()


# ---- The card ----


def test_the_card_tells_the_run(hub: Hub, trained: Any) -> None:
    trainer = trained(optim_args="c=0.2", max_steps=12)
    trainer.push_to_hub(tasks="text-classification", dataset_tags="alice/rows", dataset="rows")
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert "hf_sls" in card.data.tags
    for rule in trainer.line_search_optimizer.rules.__dict__.values():
        assert f"| `{type(rule).__name__}(" in card.text
    assert "LookBack(init_step_size=0.01, growth=2.0" in card.text
    assert f"{trainer.line_search_optimizer.forward_passes_per_step:.2f} forward passes on average" in card.text
    assert "![" in card.text
    assert "](run.png)" in card.text
    assert hub.files(REPO)["run.png"].startswith(b"\x89PNG")
    assert "Training: 12 examples. Evaluation: 12 examples." in card.text
    curve = re.findall(r"^\| (\d+) \| [\d.]+ \| ([\d.]+) \| ([\de.+-]+) \|", card.text, flags=re.MULTILINE)
    logged = {e["step"]: (e["loss"], e["step_size"]) for e in trainer.state.log_history if "step_size" in e}
    assert [int(step) for step, _, _ in curve] == [1, 3, 5, 8, 10, 12]
    for step, loss, step_size in curve:
        assert (float(loss), float(step_size)) == pytest.approx(logged[int(step)], rel=0.01)


def test_its_snippet_repeats_the_run(hub: Hub, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(optim_args="c=0.2", lr_scheduler_type="cosine", gradient_accumulation_steps=2, hub_token=WRITER)
    trainer.push_to_hub()
    card = hub.files(REPO)["README.md"].decode()
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL).group(1)
    assert "from hf_sls import SLSTrainer, SLSTrainingArguments" in snippet
    assert not re.search("hub|token|use_cpu|report_to", snippet)
    monkeypatch.chdir(tmp_path)
    names = {"model": tiny_bert(), "train_dataset": classification_rows(12)}
    quiet = snippet.replace("Arguments(", "Arguments(report_to='none', ")
    exec(quiet.replace("train_dataset=", "eval_dataset=train_dataset, train_dataset="), names)
    assert losses(names["trainer"]) == losses(trainer)


class OwnTrainer(LineSearchTrainerMixin, Trainer):
    pass


def test_the_snippet_names_the_classes_in_use(arguments: Any) -> None:
    args = arguments(Seq2SeqTrainingArguments, optim="sgd_sls")
    snippet = arguments_snippet(OwnTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows()))
    assert (
        "import hf_sls\nfrom tests.test_hub import OwnTrainer\nfrom transformers import Seq2SeqTrainingArguments\n"
        in snippet
    )
    assert "args = Seq2SeqTrainingArguments(\n    output_dir='run',\n    optim='sgd_sls'," in snippet


def test_the_snippet_has_what_differs_from_the_defaults_only(tmp_path: Path) -> None:
    assert changed_settings(SLSTrainingArguments(output_dir=str(tmp_path), use_cpu=True)) == {"optim": "adam_sls"}
    trl = pytest.importorskip("trl")
    args = trl.SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, eos_token="<end>", hub_token="secret")
    changed = changed_settings(args)
    assert (changed["bf16"], changed["eos_token"]) == (False, "<end>")
    assert "secret" not in changed.values()
    assert "pad_token" not in changed


def test_without_matplotlib_only_the_picture_is_missing(
    hub: Hub, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trained().push_to_hub()
    card = hub.files(REPO)["README.md"].decode()
    assert "run.png" not in hub.files(REPO)
    assert "![" not in card
    for part in ("### Line search", "| Step | Epoch |", "### Repeat this run", "### Framework versions"):
        assert card.count(part) == 1


def test_the_card_of_an_adapter_stays_one(arguments: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    args = arguments()
    trainer = SLSTrainer(
        model=peft.get_peft_model(tiny_bert(), config), args=args, train_dataset=classification_rows(12)
    )
    trainer.train()
    trainer.save_model()
    for _ in range(2):
        trainer.create_model_card()
    card = ModelCard.load(Path(args.output_dir) / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.tags.count("hf_sls") == card.text.count("### Line search") == card.text.count("- PEFT") == 1


def test_a_stock_optimizer_has_the_stock_card(arguments: Any, tmp_path: Path) -> None:
    cards = []
    for cls in (SLSTrainer, Trainer):
        args = arguments(optim="adamw_torch", output_dir=str(tmp_path / cls.__name__ / "run"), max_steps=1)
        trainer = cls(model=tiny_bert(), args=args, train_dataset=classification_rows(4))
        trainer.train()
        trainer.create_model_card()
        cards.append(Path(trainer.args.output_dir, "README.md").read_text())
    assert cards[0] == cards[1]


# ---- What breaks ----


def test_a_dropped_connection_is_taken_up_again(hub: Hub, trained: Any) -> None:
    trainer = trained()
    hub.drop("PUT /storage")
    trainer.push_to_hub()
    assert hub.count("PUT") == 1 + len(
        [name for name in hub.files(REPO) if name.endswith((".safetensors", ".bin", ".png"))]
    )
    assert hub.files(REPO)["model.safetensors"] == Path(trainer.args.output_dir, "model.safetensors").read_bytes()


def test_a_push_that_broke_off_goes_on_where_it_was(hub: Hub, trained: Any) -> None:
    trainer = trained()
    hub.drop(f"POST /api/models/{REPO}/commit")
    with pytest.raises(HubError, match="not pushed to alice/tiny"):
        trainer.push_to_hub()
    assert hub.files(REPO) == {}
    uploads = hub.count("PUT")
    assert uploads
    trainer.push_to_hub()
    assert "model.safetensors" in hub.files(REPO)
    assert hub.count("PUT") - uploads <= 1, "only the picture, drawn again, may differ"


@pytest.mark.parametrize("at_init", [True, False])
def test_without_network_at_the_end_the_model_is_on_disk_and_the_message_pushes_it(
    at_init: bool, hub: Hub, trained: Any
) -> None:
    trainer = trained(push_to_hub=at_init, save_strategy="steps", save_steps=3, hub_strategy="end")
    hub.stop()
    with pytest.raises(HubError, match="is trained and saved in .*Connection refused") as raised:
        trainer.push_to_hub()
    output = trainer.args.output_dir
    saved = BertForSequenceClassification.from_pretrained(output)
    expected = trainer.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.state_dict().items())

    command = str(raised.value).splitlines()[-1].strip()
    assert command.startswith(f"hf upload {REPO} {output} . --exclude")
    hub.start()
    client = str(Path(sys.executable).parent / "hf")
    subprocess.run([client, *shlex.split(command)[1:]], env=environment(hub), check=True, capture_output=True)
    assert "model.safetensors" in hub.files(REPO)
    assert not [path for path in hub.files(REPO) if "checkpoint" in path or path.endswith("optimizer.pt")]


def test_saving_goes_on_without_network(hub: Hub, trained: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trained()
    hub.stop()
    trainer.save_model()
    assert "Push it later" in caplog.text
    assert Path(trainer.args.output_dir, "model.safetensors").is_file()


def test_training_goes_on_without_network(hub: Hub, arguments: Any, caplog: pytest.LogCaptureFixture) -> None:
    args = arguments(push_to_hub=True, hub_model_id=REPO, save_strategy="steps", save_steps=1)
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows(12))
    hub.stop()
    trainer.train()
    assert trainer.state.global_step == 3
    assert "A push in training failed" in caplog.text


def test_a_disk_error_is_not_taken_for_the_network(hub: Hub, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained()
    monkeypatch.setattr(Trainer, "_save", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left") as raised:
        trainer.push_to_hub()
    assert not isinstance(raised.value, HubError)


@pytest.mark.parametrize("token", [STRANGER, READER], ids=["wrong", "may only read"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_bad_token_is_found_before_training(
    token: str, exists: bool, hub: Hub, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exists and token == READER and not CAN_ASK_FOR_WRITING:
        pytest.skip("this huggingface_hub cannot ask for the right to write")
    if exists:
        huggingface_hub.HfApi().create_repo(REPO)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(Trainer, "train", lambda *args, **kwargs: pytest.fail("it trained"))
    with pytest.raises(HubError, match=r"'alice/tiny' on the Hub.* cannot be pushed to.*40[13].*\n.*hf auth login"):
        trained()


def test_a_token_that_cannot_be_checked_is_not_refused(hub: Hub, trained: Any) -> None:
    """The repository was created then; a stock Trainer does not ask for more."""
    if not CAN_ASK_FOR_WRITING:
        pytest.skip("this huggingface_hub cannot ask for the right to write")
    hub.drop(f"GET /api/models/{REPO}/auth-check", times=99)
    trainer = trained()
    assert hub.count(f"GET /api/models/{REPO}/auth-check")
    trainer.push_to_hub()
    assert "model.safetensors" in hub.files(REPO)


def test_a_token_that_is_withdrawn_in_training(hub: Hub, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained()
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(HubError, match=r"is trained and saved in .*401.*\n.*hf auth login"):
        trainer.push_to_hub()
    assert Path(trainer.args.output_dir, "model.safetensors").is_file()
    monkeypatch.setenv("HF_TOKEN", WRITER)
    trainer.push_to_hub()
    assert "model.safetensors" in hub.files(REPO)


# ---- run_glue.py ----

LOAD = """
import sys
sys.modules["hf_sls"] = None
import json, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained("alice/glue", cache_dir=sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained("alice/glue", cache_dir=sys.argv[1])
with torch.no_grad():
    logits = model(**tokenizer("good film", return_tensors="pt")).logits
print(json.dumps({"logits": logits.tolist(), "labels": model.config.id2label}))
"""


def glue_command(tmp_path: Path, model_dir: Path, *more: str) -> list[str]:
    """A short run whose data and model are named relative to `tmp_path`."""
    glue_dir(tmp_path / "rows", "mrpc")
    if not (tmp_path / "tiny").exists():
        (tmp_path / "tiny").symlink_to(model_dir)
    where = ["--task_name", "mrpc", "--data_dir", "rows", "--model_name_or_path", "tiny", "--output_dir", "glue"]
    short = ["--max_train_samples", "8", "--num_train_epochs", "1", "--per_device_train_batch_size", "2"]
    return ["run_glue.py", *where, *short, "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", *more]


def test_run_glue_as_a_command_pushes_what_plain_transformers_loads(hub: Hub, model_dir: Path, tmp_path: Path) -> None:
    script, *arguments = glue_command(tmp_path, model_dir, "--push_to_hub", "--hub_token", WRITER)
    run = [sys.executable, str(SCRIPTS / script), *arguments]
    result = subprocess.run(run, env=environment(hub, STRANGER), cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "eval_accuracy" in result.stdout
    assert {"README.md", "model.safetensors", "tokenizer.json", "run.png"} <= set(hub.files("alice/glue"))

    card = ModelCard(hub.files("alice/glue")["README.md"].decode())
    metrics = json.loads((tmp_path / "glue" / "all_results.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": metrics["eval_accuracy"], "f1": metrics["eval_f1"]}
    result = card.data.eval_results[0]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("nyu-mll/glue", "mrpc", "validation")
    assert "base_model" not in card.data.to_dict()
    assert "a fine-tuned local model" in card.text
    assert str(tmp_path) not in card.content

    loading = [sys.executable, "-c", LOAD, str(tmp_path / "cache")]
    loaded = subprocess.run(loading, env=environment(hub), cwd=tmp_path, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    local = AutoModelForSequenceClassification.from_pretrained(tmp_path / "glue").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "glue")
    with torch.no_grad():
        logits = local(**tokenizer("good film", return_tensors="pt")).logits
    assert json.loads(loaded.stdout)["logits"] == logits.tolist()
    assert json.loads(loaded.stdout)["labels"] == {"0": "not_equivalent", "1": "equivalent"}


def test_the_command_in_the_card_repeats_the_run(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = glue_command(tmp_path, model_dir, "--optim", "sgd_sls", "--optim_args", "c=0.6", "--seed", "3")
    monkeypatch.setattr(sys, "argv", first)
    run_glue.main()
    result = json.loads(Path("glue/all_results.json").read_text())
    command = re.search(r"```bash\n(.*?)```", Path("glue/README.md").read_text(), flags=re.DOTALL).group(1)
    python, script, *again = shlex.split(command.replace("\\\n", " "))
    assert (python, script) == ("python", "glue_scripts/run_glue.py")
    assert "--use_cpu" not in again
    monkeypatch.setattr(sys, "argv", [script, *again, "--output_dir", "again", "--report_to", "none"])
    run_glue.main()
    assert json.loads(Path("again/all_results.json").read_text())["final_train_loss"] == result["final_train_loss"]


def test_run_glue_ends_with_advice_when_the_push_fails(
    hub: Hub, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.drop("POST /api/models/alice/glue/commit", times=99)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", glue_command(tmp_path, model_dir, "--push_to_hub", "--hub_strategy", "end"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / "run_glue.py"), run_name="__main__")
    assert "The model is trained and saved in glue, but not pushed to alice/glue" in str(ended.value)
    assert str(ended.value).endswith("hf upload alice/glue glue . --exclude '_*' --exclude '*checkpoint-*'")
    assert "eval_accuracy" in json.loads((tmp_path / "glue" / "all_results.json").read_text())
    assert (tmp_path / "glue" / "model.safetensors").is_file()


def test_run_sft_pushes_the_adapter(
    hub: Hub, language_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    import run_sft

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "true")  # no telemetry
    Path("speeches.txt").write_text("\n\n".join(f"Speak, {i}." for i in range(8)))
    where = ["--train_file", "speeches.txt", "--model_name_or_path", str(language_model_dir), "--output_dir", "sft"]
    short = ["--max_steps", "2", "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
    monkeypatch.setattr(sys, "argv", ["run_sft.py", *where, *short, "--push_to_hub", "--hub_token", WRITER])
    run_sft.main()
    assert {"README.md", "adapter_model.safetensors", "tokenizer.json", "run.png"} <= set(hub.files("alice/sft"))
    card = ModelCard(hub.files("alice/sft")["README.md"].decode())
    metrics = json.loads(Path("sft/all_results.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"loss": metrics["eval_loss"], "perplexity": metrics["eval_perplexity"]}
    assert 'model="alice/sft"' in card.text
    assert "a fine-tuned version of a local model" in card.text
    assert not re.search(f"hf_[a-z]{{30}}|{tmp_path}|{language_model_dir}", card.content)
    adapter = json.loads(hub.files("alice/sft")["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == language_model_dir.name
    assert json.loads(Path("sft/adapter_config.json").read_text()) == adapter


def test_a_card_publishes_no_secret(tmp_path: Path) -> None:
    """However a field is named or nested, and no path of the machine; tokens of a tokenizer are no secret."""

    @dataclass
    class Mine(SLSTrainingArguments):
        access_token: str | None = None
        api_key: str | None = None
        data_dir: str | None = None
        model_init_kwargs: dict[str, Any] | None = None
        eos_token: str | None = None

    args = Mine(
        output_dir=str(tmp_path),
        access_token="hf_1",
        api_key="sk-2",
        data_dir="/home/someone/data",
        model_init_kwargs={"token": "hf_3", "paths": ["/home/someone/model"], "dtype": "float32"},
        eos_token="<end>",
    )
    settings = changed_settings(args)
    assert settings["model_init_kwargs"] == {"paths": ["model"], "dtype": "float32"}
    assert (settings["data_dir"], settings["eos_token"]) == ("data", "<end>")
    assert not re.search("hf_1|sk-2|hf_3|someone", str(settings))


@pytest.mark.parametrize("cls", [TrainingArguments, SLSTrainingArguments])
def test_saved_arguments_hold_no_secret(cls: Any, tmp_path: Path) -> None:
    """Nor a path of the machine, of whichever class they are; the arguments in use keep both."""
    args = cls(output_dir=str(tmp_path), optim="adam_sls", use_cpu=True, max_steps=1, report_to=[], hub_token="hf_1")
    args.access_token = "hf_2"
    args.loading = {"token": "hf_3", "dtype": "float32"}
    trainer = SLSTrainer(model=tiny_bert(), args=args, train_dataset=classification_rows())
    trainer.save_model()
    saved = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert (saved.hub_token, saved.access_token, saved.loading) == (None, None, {"dtype": "float32"})
    content = (tmp_path / "training_args.bin").read_bytes()
    assert b"hf_" not in content.replace(b"hf_sls", b"")
    assert str(tmp_path.parent).encode() not in content
    assert saved.output_dir == tmp_path.name
    assert (args.hub_token, args.access_token, args.loading["token"]) == ("hf_1", "hf_2", "hf_3")
    assert args.output_dir == str(tmp_path)


@dataclass
class StockArguments(TrainingArguments):
    """Arguments of a user, with secrets under names of their own."""

    access_token: str | None = None
    data_dir: str | None = None
    model_init_kwargs: dict[str, Any] | None = None


def test_a_card_with_stock_arguments_behind_the_mixin_publishes_no_secret(tmp_path: Path) -> None:
    """Nor a path of the machine, though the directory of the model is gone."""
    output_dir = tmp_path / "run"
    args = StockArguments(
        output_dir=str(output_dir),
        optim="adam_sls",
        use_cpu=True,
        max_steps=1,
        report_to=[],
        hub_token="hf_1",
        access_token="hf_2",
        data_dir="/home/someone/data",
        model_init_kwargs={"token": "hf_3", "cache_dir": "/home/someone/cache"},
    )
    model = tiny_bert()
    model.config._name_or_path = "/home/someone/model"
    trainer = OwnTrainer(model=model, args=args, train_dataset=classification_rows(4))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    published = {path: path.read_bytes() for path in output_dir.iterdir() if path.is_file()}
    assert {path.name for path in published} >= {"README.md", "config.json", "training_args.bin"}
    for path, content in published.items():
        assert not re.search(b"hf_[123]|someone|" + re.escape(str(tmp_path)).encode(), content), path
    assert "base_model" not in ModelCard.load(output_dir / "README.md").data.to_dict()
    assert "a fine-tuned local model, on" in (output_dir / "README.md").read_text()
