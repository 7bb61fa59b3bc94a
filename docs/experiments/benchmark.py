"""Time and memory of a step: line searches beside torch's AdamW and the authors' package.

    python docs/experiments/benchmark.py --shape minilm --batch_size 32 --output benchmark.json
    python docs/experiments/benchmark.py --optimizers adam_sls --rounds 500 --steps 1

The optimizers take turns of a few steps each, on copies of one model and the same batches. Noise on the machine then
affects all of them alike, so that the ratios are reliable where the milliseconds are not. *Step time* is the median
over the turns, *whole run* the sum of all steps, including the first searches. The peak memory of each optimizer is
measured in a process of its own, on a CPU without the holes that the C library leaves between blocks of its heap.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, HfArgumentParser

from hf_sls import LineSearchOptimizer, LossClosure, create_optimizer
from hf_sls.optim import Adam, Event, LastStep, Line

SHAPES = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "billion": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 8192},
}
BASELINE, FOREACH = "AdamW", "AdamW, foreach"
_WARM_UP_STEPS = 3


@dataclass
class BenchmarkArguments:
    """The shape of the model, the length of the measurement, and the optimizers."""

    shape: str = field(default="minilm", metadata={"help": f"Size of the BERT: {', '.join(SHAPES)}."})
    batch_size: int = field(default=32, metadata={"help": "Sequences per batch."})
    sequence_length: int = field(default=32, metadata={"help": "Tokens per sequence."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})
    bf16: bool = field(default=False, metadata={"help": "Run the model under bf16 autocast."})
    dtype: str = field(default="float32", metadata={"help": "Data type of the parameters: float32 or bfloat16."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout probability."})
    rounds: int = field(default=7, metadata={"help": "Turns per optimizer, at least 5."})
    steps: int = field(default=5, metadata={"help": "Steps per turn."})
    optimizers: list[str] = field(
        default_factory=list, metadata={"help": "Measure these beside AdamW; by default all."}
    )
    memory: bool = field(default=True, metadata={"help": "Measure peak memory, each optimizer in its own process."})
    only: str | None = field(default=None, metadata={"help": "Print the peak memory of this optimizer, in bytes."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} is unknown; the shapes are {', '.join(SHAPES)}.")
        if self.rounds < 5:
            raise ValueError(f"rounds={self.rounds} is not allowed: at least 5 are needed to report a range.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is unknown; there are float32 and bfloat16.")
        unknown = set(self.optimizers) - set(contestants())
        if unknown:
            raise ValueError(f"optimizers={sorted(unknown)} are unknown; there are {', '.join(contestants())}.")


def _authors(name: str) -> Callable[[list[Tensor]], Any] | None:
    """Return the constructor of an optimizer of salsa-optimizer; `None` if the package is not installed."""
    try:
        from salsa.adam_sls import AdamSLS as AuthorsAdamSLS
        from salsa.SaLSA import SaLSA
    except ImportError:
        return None
    return SaLSA if name == "SaLSA" else lambda parameters: AuthorsAdamSLS([parameters], smooth=False, c=0.1)


class _AnyStep:
    """A criterion that accepts every step size, so that a search has exactly one trial."""

    def new_memory(self) -> dict[str, float]:
        return {}

    def line(self, loss: float, slope: float, memory: dict[str, float]) -> Line:
        return Line(intercept=float("inf"), rate=1.0)

    def update(self, memory: dict[str, float], event: Event) -> dict[str, float]:
        return memory


def _one_trial(parameters: list[Tensor]) -> LineSearchOptimizer:
    initial_step = LastStep(1e-4, growth=1.0)
    return LineSearchOptimizer(parameters, direction=Adam(), criterion=_AnyStep(), initial_step=initial_step)


def contestants() -> dict[str, Callable[[list[Tensor]], Any]]:
    """Return the constructors of the optimizers to compare, by name."""
    found: dict[str, Callable[[list[Tensor]], Any] | None] = {
        BASELINE: lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, fused=True),
        FOREACH: lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, foreach=True),
        "adam_sls": lambda parameters: create_optimizer("adam_sls", parameters),
        "adam_salsa": lambda parameters: create_optimizer("adam_salsa", parameters),
        "one trial on every step": _one_trial,
        "AdamSLS as published": partial(create_optimizer, "adam_sls", preset="published"),
        "SaLSa as published": partial(create_optimizer, "adam_salsa", preset="published"),
        "salsa-optimizer AdamSLS": _authors("AdamSLS"),
        "salsa-optimizer SaLSA": _authors("SaLSA"),
    }
    return {name: make for name, make in found.items() if make is not None}


def chosen(args: BenchmarkArguments) -> list[str]:
    """Return the names of the optimizers to measure, in the order of the table."""
    return [name for name in contestants() if not args.optimizers or name in (BASELINE, FOREACH, *args.optimizers)]


class Contestant:
    """An optimizer and its own copy of the model."""

    def __init__(self, make: Callable[[list[Tensor]], Any], args: BenchmarkArguments) -> None:
        torch.manual_seed(0)
        dropout = {"hidden_dropout_prob": args.dropout, "attention_probs_dropout_prob": args.dropout}
        model = BertForSequenceClassification(BertConfig(**SHAPES[args.shape], **dropout))
        self.model = model.to(args.device, getattr(torch, args.dtype))
        self.optimizer = make(list(self.model.parameters()))
        self.args = args
        self.passes = 0
        self.inside: list[tuple[Any, Any]] = []
        self.steps: list[tuple[Any, list[tuple[Any, Any]], Any]] = []

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Take one step, through the interface of the optimizer at hand."""

        def evaluate() -> Tensor:
            self.passes += 1
            start = self._mark()
            with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.bf16):
                logits = self.model(batch[0]).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), batch[1])
            self.inside.append((start, self._mark()))
            return loss

        def authors_closure(backwards: bool = False) -> Tensor:
            loss = evaluate()
            if backwards:
                torch.autograd.backward(loss)
            return loss

        self.optimizer.zero_grad()
        if isinstance(self.optimizer, LineSearchOptimizer):
            closure = LossClosure(self.model, trials=self.optimizer.search_due)
            torch.autograd.backward(closure.record(evaluate))
            self._timed(lambda: self.optimizer.step(closure, loss=closure.loss))
        elif isinstance(self.optimizer, torch.optim.AdamW):
            torch.autograd.backward(evaluate())
            self._timed(self.optimizer.step)
        else:
            self.optimizer.step(authors_closure)

    def _timed(self, step: Callable[[], Any]) -> None:
        """Take a step, and record when it begins and ends and which part of it is spent in the model."""
        self.inside, start = [], self._mark()
        step()
        self.steps.append((start, list(self.inside), self._mark()))

    def _mark(self) -> Any:
        """Return the present time: of the host on a CPU, else an event that the device records without a wait."""
        if self.args.device == "cpu":
            return time.perf_counter()
        event = torch.Event(self.args.device, enable_timing=True)
        event.record()
        return event

    def now(self) -> float:
        """Wait for the device, and return the time in seconds."""
        if self.args.device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    @property
    def arithmetic(self) -> list[float]:
        """Time of each step outside the model, in seconds on a CPU and in milliseconds on another device."""

        def between(start: Any, end: Any) -> float:
            return end - start if self.args.device == "cpu" else start.elapsed_time(end)

        return [between(start, end) - sum(between(*part) for part in inside) for start, inside, end in self.steps]


def make_batch(args: BenchmarkArguments, seed: int) -> tuple[Tensor, Tensor]:
    """Return token ids of shape (batch, length), and labels of shape (batch,) that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1000, 30000, (args.batch_size, args.sequence_length), generator=generator)
    return tokens.to(args.device), (tokens[:, 0] % 2).to(args.device)


def measure(args: BenchmarkArguments) -> dict[str, dict[str, Any]]:
    """Return the times and the forward passes of each optimizer."""
    makers = contestants()
    for name in chosen(args):
        _warm_up(makers[name], args)
    runs = {name: Contestant(makers[name], args) for name in chosen(args)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds):
        batches = [make_batch(args, turn * args.steps + step) for step in range(args.steps)]
        for name, run in runs.items():
            start = run.now()
            for batch in batches:
                run.step(batch)
            seconds[name].append((run.now() - start) / args.steps)
    baseline = seconds[BASELINE]
    arithmetic = {name: statistics.median(times) for name, run in runs.items() if (times := run.arithmetic)}
    figures = {}
    for name, run in runs.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], baseline)]
        figures[name] = {
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "step_time": statistics.median(ratios),
            "step_time_low": min(ratios),
            "step_time_high": max(ratios),
            "run_time": sum(seconds[name]) / sum(baseline),
            "passes_per_step": run.passes / (args.steps * args.rounds),
            "arithmetic": arithmetic[name] / arithmetic[FOREACH] if name in arithmetic else None,
        }
    return figures


def _warm_up(make: Callable[[list[Tensor]], Any], args: BenchmarkArguments) -> None:
    """Take a few steps with a model that is freed afterwards."""
    run = Contestant(make, args)
    for step in range(_WARM_UP_STEPS):
        run.step(make_batch(args, step))


def peak_memory(args: BenchmarkArguments) -> int:
    """Return the peak memory in bytes after four steps of `args.only` in this process."""
    assert args.only is not None
    run = Contestant(contestants()[args.only], args)
    for step in range(4):
        run.step(make_batch(args, step))
    if args.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_of(name: str) -> int:
    """Return the peak memory in bytes of a process that runs one optimizer.

    Call it before this process grows: on Linux a child inherits the peak of its parent.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    no_holes = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}  # glibc maps larger blocks one by one
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=no_holes).stdout
    return int(printed.split()[-1])


def main() -> None:
    """Run the script."""
    (args,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    if args.only is not None:
        print(peak_memory(args))
        return
    peaks: dict[str, int] = {}
    if args.memory:
        with ThreadPoolExecutor(1 if args.device == "cpu" else 4) as pool:
            peaks = dict(zip(chosen(args), pool.map(peak_memory_of, chosen(args))))
    figures = measure(args)
    for name, row in figures.items():
        row["peak_mebibytes"] = peaks[name] / 2**20 if peaks else None
        row["peak_memory"] = peaks[name] / peaks[BASELINE] if peaks else None
    print(table(figures))
    if args.output is not None:
        machine = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "processor": _processor(args.device),
            "threads": torch.get_num_threads(),
            "date": date.today().isoformat(),
        }
        arguments = {name: value for name, value in asdict(args).items() if name not in ("memory", "only", "output")}
        content = {"arguments": arguments, "machine": machine, "figures": figures}
        Path(args.output).write_text(json.dumps(content, indent=2) + "\n")


def _processor(device: str) -> str:
    return platform.machine() if device == "cpu" else torch.get_device_module(device).get_device_name()


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return the results as a Markdown table of ratios to the baseline."""
    lines = [
        "| optimizer | step time (low to high) | whole run | forward passes per step | arithmetic | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        arithmetic = "" if row["arithmetic"] is None else f"{row['arithmetic']:.2f}"
        memory = "" if row["peak_memory"] is None else f"{row['peak_memory']:.3f}"
        lines.append(
            f"| {name} | {row['step_time']:.2f} ({row['step_time_low']:.2f} to {row['step_time_high']:.2f}) "
            f"| {row['run_time']:.2f} | {row['passes_per_step']:.2f} | {arithmetic} | {memory} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
