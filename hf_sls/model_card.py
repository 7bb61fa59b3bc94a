"""Add to the Trainer's model card the line search, a picture of the run, and how to repeat it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from jinja2 import Environment
from transformers import Trainer, TrainingArguments

from .optim import OPTIMIZERS, LineSearchOptimizer
from .plotting import plot_run
from .private import is_secret, without_paths, without_secrets
from .runs import Run
from .training_args import as_string, is_line_search

_TEMPLATE = Path(__file__).parent / "model_card_template.md"
_VERSIONS = "### Framework versions"
_ROWS_OF_THE_CURVE = 6
_PRECISIONS = ("bf16", "fp16")
"""In TRL the default is None, which means bf16 where the device has it; elsewhere None and False are the same."""
_NOT_OF_THE_RUN = re.compile(
    "output_dir|hub_.*|push_to_hub.*|report_to|run_name|project|trackio_.*|logging_dir|log_level.*|log_on_.*|disable_tqdm"
    "|resume_from_checkpoint|use_cpu|local_rank|accelerator_config|dataloader_pin_memory|debug|cache_dir"
    "|include_num_input_tokens_seen"
)
"""Where a run writes, what it reports to, and on what device: of no effect on the model that comes out."""


def complete_card(
    path: Path,
    trainer: Trainer,
    optimizer: LineSearchOptimizer | None,
    snippet: str | None = None,
    picture: str | None = None,
    eval_results: Sequence[EvalResult] | None = None,
) -> None:
    """Complete the card that the Trainer has written.

    Args:
        path: the card; it is read and overwritten.
        trainer: the trainer, after training.
        optimizer: its line-search optimizer, or `None` for a stock optimizer, which the Trainer describes.
        snippet: Markdown that says how to repeat the run. Default with a line search: the training arguments.
        picture: name of a file beside the card. Default with a line search: `run.png`, which is drawn here if
            matplotlib is installed.
        eval_results: results for `model-index`, instead of those in the Trainer's log.
    """
    card = ModelCard.load(path)
    if eval_results:
        card.data.model_name = card.data.model_name or path.parent.name
        card.data.eval_results = list(eval_results)
        card.data.metrics = list(dict.fromkeys(result.metric_type for result in eval_results))
    _remove_base_model_path(card, trainer.model)
    text = _with_facts(_with_names(card.text, path.parent.name), trainer)
    about: dict[str, Any] = {}
    if optimizer is not None:
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), "hf_sls"]))
        text = _with_line_search(text, optimizer)
        by_name = OPTIMIZERS.get(as_string(trainer.args.optim)) is type(optimizer)
        about = {
            "optimizer": optimizer,
            "adapter": hasattr(trainer.model, "peft_config"),
            "optim": as_string(trainer.args.optim) if by_name else None,
            "rules": {name.replace("_", " "): _rounded(str(rule)) for name, rule in vars(optimizer.rules).items()},
            "curve": step_size_curve(trainer.state.log_history),
        }
        snippet = snippet or (arguments_snippet(trainer) if by_name else None)
        picture = picture or _drawn(trainer.state.log_history, path.parent / "run.png")
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    section = template.render(picture=picture, snippet=snippet, **about).strip()
    before, heading, after = text.partition(_VERSIONS)
    card.text = f"{before.rstrip()}\n\n{section}\n\n{heading}{after}"
    card.save(path)


def remove_base_model_path(path: Path, model: Any) -> None:
    """Remove the path of a base model on this machine from the card at `path`, if there is one."""
    if path.is_file():
        card = ModelCard.load(path)
        before = str(card)
        _remove_base_model_path(card, model)
        if str(card) != before:
            card.save(path)


def _remove_base_model_path(card: ModelCard, model: Any) -> None:
    """Name a model from a directory without its path, even one that has moved, in the text and in the metadata."""
    metadata: Any = card.data
    named = metadata.get("base_model")
    if isinstance(named, str) and Path(named).is_absolute():
        del metadata.base_model
        metadata.tags = [tag for tag in metadata.tags or [] if not tag.endswith(named)]
    source = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    if source and (Path(source).is_dir() or Path(source).is_absolute()):
        stock = rf"This model (was trained from scratch|is a fine-tuned version of \[{re.escape(source)}\]\(\S*\)) on"
        card.text = re.sub(stock, "This model is a fine-tuned local model, on", card.text)


def step_size_curve(log_history: Sequence[dict[str, Any]], rows: int = _ROWS_OF_THE_CURVE) -> list[dict[str, Any]]:
    """Return at most `rows` evenly spaced entries of the training log, including the first and the last."""
    entries = [entry for entry in log_history if "step_size" in entry]
    last = len(entries) - 1
    return [entries[i] for i in dict.fromkeys(round(last * row / (rows - 1)) for row in range(rows))] if entries else []


def arguments_snippet(trainer: Trainer) -> str:
    """Return Python code that trains with the same arguments; those with default values are left out."""
    imports: dict[str, list[str]] = {}
    for cls in (type(trainer), type(trainer.args)):
        package = cls.__module__.split(".")[0]
        module = package if getattr(sys.modules[package], cls.__name__, None) is cls else cls.__module__
        imports.setdefault(module, []).append(cls.__name__)
    settings = {"output_dir": Path(trainer.args.output_dir).name, **changed_settings(trainer.args)}
    lines = [f"from {module} import {', '.join(names)}" for module, names in imports.items() if module != "__main__"]
    if "hf_sls" not in imports:
        lines.insert(0, "import hf_sls")
    lines += ["", f"args = {type(trainer.args).__name__}("]
    lines += [f"    {name}={value!r}," for name, value in settings.items()]
    lines += [")", f"trainer = {type(trainer).__name__}(model=model, args=args, train_dataset=train_dataset)"]
    return "\n".join(["```python", *lines, "trainer.train()", "```"])


def changed_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return the arguments that differ from their defaults, as far as `publishable` allows."""
    values = args.to_dict()
    changed = {}
    for field in fields(args):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = default.value if isinstance(default, Enum) else default
        masked = field.name.endswith("_token")  # by `to_dict`, whatever it is
        value = getattr(args, field.name) if masked else values.get(field.name)
        exact = isinstance(default, bool) or field.name in _PRECISIONS
        differs = value != default if exact else (value or None) != (default or None)
        if field.init and differs and not field.name.startswith("do_"):  # the Trainer does not read do_train, ...
            changed[field.name] = value
    if is_line_search(args.optim):
        changed.pop("learning_rate", None)  # it had no effect
    return {"optim": as_string(args.optim), **publishable(changed)}


def publishable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect the trained model, without secrets, and of absolute paths the last part only."""
    return {
        name: without_paths(without_secrets(value))
        for name, value in settings.items()
        if not (is_secret(name, value) or _NOT_OF_THE_RUN.fullmatch(name))
    }


def _with_line_search(card: str, optimizer: LineSearchOptimizer) -> str:
    lines = {
        "learning_rate": f"step_size: {optimizer.found_step_sizes[0]:.3g} before the schedule, found by line search "
        f"({optimizer.forward_passes_per_step:.2f} forward passes per step)",
        "optimizer": f"optimizer: hf_sls {type(optimizer).__name__}, with the rules below",
    }
    ours = f"{_VERSIONS}\n\n- hf_sls {sys.modules['hf_sls'].__version__}"
    card = card.replace(f"{_VERSIONS}\n", ours)
    for key, line in lines.items():
        card = re.sub(rf"^- {key}: .*$", f"- {line}", card, flags=re.MULTILINE)
    return card


def _with_names(card: str, name: str) -> str:
    """Name what TRL calls None: a base model that is not on the Hub, and a model that is not there yet."""
    card = card.replace("[None](https://huggingface.co/None)", "a local model")
    return card.replace('model="None"', f'model="{name}"')


def _with_facts(card: str, trainer: Trainer) -> str:
    """Add the number of examples."""
    sizes = {"Training": trainer.train_dataset, "Evaluation": trainer.eval_dataset}
    facts = [f"{name}: {len(rows)} examples." for name, rows in sizes.items() if hasattr(rows, "__len__")]
    heading = "## Training and evaluation data\n\n"
    if facts and heading in card:
        card = card.replace(f"{heading}More information needed", heading + " ".join(facts))
    elif facts:  # the card of TRL has no such section
        card = card.replace("## Training procedure", f"{heading}{' '.join(facts)}\n\n## Training procedure", 1)
    return card


def _rounded(text: str) -> str:
    return re.sub(r"\d+\.\d{7,}", lambda number: f"{float(number[0]):g}", text)


def _drawn(log_history: Sequence[dict[str, Any]], path: Path) -> str | None:
    try:
        metric = next(iter(Run("", log_history).metrics), "eval_loss")
        plot_run(log_history, path, metric=metric)
    except (ImportError, ValueError):
        return None
    return path.name
