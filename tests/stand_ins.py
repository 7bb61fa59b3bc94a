"""A pytest plugin: small random models and data sets under the names that TRL and sentence-transformers test with.

Both libraries take a folder for a name of the Hub, if there is one. So the plugin writes the folders into a temporary
one and makes that the current directory; then the tests need no network. What needs an image, or weights that were
trained, is not there. Without a GPU the tests train on the CPU.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast, TrainingArguments

_WORDS = [
    *("what", "is", "better", "than", "ugly", "beautiful", "simple", "complex", "flat", "nested", "sparse", "dense"),
    *("explicit", "implicit", "the", "a", "code", "errors", "should", "never", "pass", "silently", "now", "often"),
    *("right", "idea", "way", "do", "it", "one", "and", "of", "in", "face", "practicality", "beats", "purity"),
]
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CHAT_TEMPLATES = {
    "Qwen2For": "qwen2_5",
    "Qwen3For": "qwen3",
    "Qwen3MoeFor": "qwen3",
    "GptOss": "gptoss",
    "LlamaForCausalLM-3": "llama3",
    "Glm4Moe": "glm4moe",
    "DeepseekV3": "deepseekv3",
    "GemmaFor": "gemma",
    "Phi3": "phi3",
    "Cohere2": "cohere2",
    "CohereFor": "cohere",
}
"""The templates in TRL that its tests expect of a model; the others have that of ChatML."""

_LANGUAGE_MODELS = {
    "tiny-Qwen2ForCausalLM-2.5": "qwen2",
    "tiny-Qwen3ForCausalLM": "qwen3",
    "tiny-Qwen3MoeForCausalLM": "qwen3_moe",
    "tiny-LlamaForCausalLM-3": "llama",
    "tiny-LlamaForCausalLM-3.1": "llama",
    "tiny-LlamaForCausalLM-3.2": "llama",
    "tiny-MistralForCausalLM-0.1": "mistral",
    "tiny-MistralForCausalLM-0.2": "mistral",
    "tiny-GptOssForCausalLM": "gpt_oss",
    "tiny-Olmo3ForCausalLM": "olmo3",
    "tiny-Cohere2ForCausalLM": "cohere2",
    "tiny-CohereForCausalLM": "cohere",
    "tiny-GPTNeoXForCausalLM": "gpt_neox",
    "tiny-GemmaForCausalLM": "gemma",
    "tiny-Gemma2ForCausalLM": "gemma2",
    "tiny-Phi3ForCausalLM": "phi3",
    "tiny-Glm4MoeForCausalLM": "glm4_moe",
}


def pytest_configure(config: Any) -> None:
    """Write the stand-ins and go where they are."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    config.add_cleanup(lambda: os.chdir(config.invocation_params.dir))
    write(Path(folder.name))
    os.chdir(folder.name)
    if not torch.cuda.is_available():
        stock_post_init = TrainingArguments.__post_init__

        def on_cpu(self: Any) -> None:
            self.use_cpu = True
            stock_post_init(self)

        TrainingArguments.__post_init__ = on_cpu


def write(root: Path) -> None:
    """Write all stand-ins into `root`."""
    torch.manual_seed(0)
    rng = random.Random(0)
    for name, model_type in _LANGUAGE_MODELS.items():
        _write_language_model(root / "trl-internal-testing" / name, model_type)
    _write_sequence_classifier(root / "trl-internal-testing" / "tiny-Qwen2ForSequenceClassification-2.5")
    _write_zen(root / "trl-internal-testing" / "zen", rng)
    _write_sentence_models(root)
    _write_pairs(root / "sentence-transformers", rng)
    _write_cached_tokenizer(root / "hub", "google-bert/bert-base-uncased")


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(4, 12)))


# ---- TRL ----


def _byte_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    tokenizer.train_from_iterator([_sentence(rng) for _ in range(500)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def _chat_template(name: str) -> str:
    import trl

    for start, file in _CHAT_TEMPLATES.items():
        path = Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja"
        if start in name and path.exists():
            return path.read_text(encoding="utf-8")
    return _CHATML


def _tiny_config(model_type: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    small: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    if model_type != "gpt_neox":
        small |= {"num_key_value_heads": 2, "head_dim": 4}
    if "moe" in model_type or model_type == "gpt_oss":
        small |= {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    if model_type == "glm4_moe":
        small |= {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    return AutoConfig.for_model(model_type, **small)


def _write_language_model(path: Path, model_type: str) -> None:
    tokenizer = _byte_tokenizer(_chat_template(path.name))
    config = _tiny_config(model_type, tokenizer)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _write_sequence_classifier(path: Path) -> None:
    tokenizer = _byte_tokenizer(_chat_template(path.name))
    config = _tiny_config("qwen2", tokenizer)
    config.num_labels = 1
    transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)


def _write_zen(path: Path, rng: random.Random) -> None:
    """Write the text configurations of the data set `zen`: seventeen rows to train on, two to test."""

    def user(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    def assistant(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    Texts = tuple[str, str, str]
    rows: dict[str, Callable[[Texts], dict[str, Any]]] = {
        "language_modeling": lambda t: {"text": f"{t[0]} {t[1]}"},
        "prompt_only": lambda t: {"prompt": t[0]},
        "prompt_completion": lambda t: {"prompt": t[0], "completion": f" {t[1]}"},
        "preference": lambda t: {"prompt": t[0], "chosen": f" {t[1]}", "rejected": f" {t[2]}"},
        "implicit_prompt_preference": lambda t: {"chosen": f"{t[0]} {t[1]}", "rejected": f"{t[0]} {t[2]}"},
        "unpaired_preference": lambda t: {"prompt": t[0], "completion": f" {t[1]}", "label": len(t[1]) % 2 == 0},
    }
    talks: dict[str, Callable[[Texts], dict[str, Any]]] = {
        "language_modeling": lambda t: {"messages": user(t[0]) + assistant(t[1])},
        "prompt_only": lambda t: {"prompt": user(t[0])},
        "prompt_completion": lambda t: {"prompt": user(t[0]), "completion": assistant(t[1])},
        "preference": lambda t: {"prompt": user(t[0]), "chosen": assistant(t[1]), "rejected": assistant(t[2])},
        "implicit_prompt_preference": lambda t: {
            "chosen": user(t[0]) + assistant(t[1]),
            "rejected": user(t[0]) + assistant(t[2]),
        },
        "unpaired_preference": lambda t: {
            "prompt": user(t[0]),
            "completion": assistant(t[1]),
            "label": len(t[1]) % 2 == 0,
        },
    }
    texts = [(_sentence(rng), _sentence(rng), _sentence(rng)) for _ in range(19)]
    configurations = {}
    for style, makers in (("standard", rows), ("conversational", talks)):
        for kind, make in makers.items():
            made = [make(each) for each in texts]
            configurations[f"{style}_{kind}"] = {"train": made[:17], "test": made[17:]}
    _write_data_set(path, configurations)


def _write_data_set(path: Path, configurations: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Write a data set as the Hub has it: a folder of files for each configuration, and a README.md that lists them."""
    lines = ["---", "configs:"]
    for name, splits in configurations.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (path / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
            lines += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
    (path / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


# ---- sentence-transformers ----


def _word_tokenizer() -> PreTrainedTokenizerFast:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special["mask_token"] = "[MASK]"
    vocabulary = {token: i for i, token in enumerate([*special.values(), *dict.fromkeys(_WORDS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)


def _write_cached_tokenizer(cache: Path, name: str) -> None:
    """Write a tokenizer where a download of `name` would be; `tokenizers` takes no folder for it."""
    folder, revision = cache / f"models--{name.replace('/', '--')}", "0" * 40
    for part in (folder / "refs", folder / "snapshots" / revision):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision, encoding="utf-8")
    _word_tokenizer().backend_tokenizer.save(str(folder / "snapshots" / revision / "tokenizer.json"))
    huggingface_hub.constants.HF_HUB_CACHE = str(cache)


def _write_bert(path: Path, cls: type, **config: Any) -> None:
    tokenizer = _word_tokenizer()
    small = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        **config,
    )
    cls(small).save_pretrained(path)
    tokenizer.save_pretrained(path)


def _write_sentence_models(root: Path) -> None:
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    for kind, cls, config in (
        ("bert", transformers.BertModel, {}),
        ("masked", transformers.BertForMaskedLM, {}),
        ("reranker", transformers.BertForSequenceClassification, {"num_labels": 1}),
    ):
        _write_bert(root / "parts" / kind, cls, **config)
    bert = Transformer(str(root / "parts" / "bert"))
    dense = SentenceTransformer(modules=[bert, Pooling(bert.get_embedding_dimension())], device="cpu")
    dense.save_pretrained(str(root / "sentence-transformers-testing" / "stsb-bert-tiny-safetensors"))
    static = StaticEmbedding(_word_tokenizer().backend_tokenizer, embedding_dim=32)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(
        str(root / "sentence-transformers" / "static-retrieval-mrl-en-v1")
    )
    masked = MLMTransformer(str(root / "parts" / "masked"))
    SparseEncoder(modules=[masked, SpladePooling("max")], device="cpu").save_pretrained(
        str(root / "sparse-encoder-testing" / "splade-bert-tiny-nq")
    )
    for name in ("reranker-bert-tiny-gooaq-bce", "reranker-bert-tiny-gooaq-bce-STv54"):
        _write_bert(root / "cross-encoder-testing" / name, transformers.BertForSequenceClassification, num_labels=1)


def _write_pairs(path: Path, rng: random.Random) -> None:
    def scored() -> dict[str, Any]:
        return {"sentence1": _sentence(rng), "sentence2": _sentence(rng), "score": round(rng.random(), 1)}

    splits = {split: [scored() for _ in range(count)] for split, count in (("train", 200), ("validation", 120))}
    _write_data_set(path / "stsb", {"default": {**splits, "test": [scored() for _ in range(120)]}})
